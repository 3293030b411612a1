"""Settings of the tasks of lm-evaluation-harness."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from penstock.hooks.config import Schema
from penstock.hooks.inputs import InputPath


class LmEvalConfig(Schema):
    """`lm-eval`: a task of lm-evaluation-harness. On a command line, `lm-eval:NAME` is the task NAME."""

    argument: ClassVar[str | None] = "name"

    name: str = Field(min_length=1)
    """Name of a task, of a group or of a tag, as `lm-eval ls tasks` lists it, or the path of a task's YAML file."""
    include_path: InputPath | None = None
    """A folder with YAML files of your own tasks. Built-in tasks are looked up if it does not have the name."""
    dataset: InputPath | None = None
    """A folder that is read in the place of the task's data set on the Hugging Face hub, in the same layout; null means
    OWNER/NAME or NAME in the data folder, if it is there, or the hub."""

    @classmethod
    def example(cls, folder: Path) -> Mapping[str, Any]:
        rows = ({"question": f"Is {number} even?", "answer": number % 2} for number in range(6))
        (folder / "even.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        (folder / "even.yaml").write_text(
            _EXAMPLE.format(file=json.dumps(str(folder / "even.jsonl"))), encoding="utf-8"
        )
        return {"name": "even", "include_path": str(folder)}


_EXAMPLE = """\
task: even
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: ["yes", "no"]
doc_to_target: answer
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""
