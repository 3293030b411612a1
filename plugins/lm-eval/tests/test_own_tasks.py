"""Tasks of the suite ask what the built-in task of the harness asks, of the same files, and get the same figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lm_eval.tasks
import pytest
from penstock_lm_eval.task import LmEval

from penstock.conformance.asking import ask
from penstock.conformance.laws.task_parts import ByteTokenizer, random_model
from penstock.eval_suite.gsm8k import Gsm8k
from penstock.eval_suite.lambada import Lambada
from penstock.hooks.contracts import Generate, Request, TaskContext

BUILT_IN = Path(lm_eval.tasks.__file__).parent


def clone(folder: Path, name: str, **splits: list[dict[str, Any]]) -> Path:
    """A data set in the layout of the hub."""
    files = [{"split": split, "path": f"{split}.jsonl"} for split in splits]
    card = {"configs": [{"config_name": name, "data_files": files}]}
    (folder / "README.md").write_text(f"---\n{json.dumps(card)}\n---\n")
    for split, rows in splits.items():
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def asked(task: Any, context: TaskContext) -> list[tuple[Any, ...]]:
    return [_parts(request) for item in list(task.items(context)) for request in task.requests(item, context)]


def _parts(request: Request) -> tuple[Any, ...]:
    if isinstance(request, Generate):
        return list(request.prompt), request.tokens, sorted(request.stop), request.temperature
    return list(request.context), list(request.continuation)  # type: ignore[union-attr]


def test_lambada(tmp_path):
    rows = [
        {"text": f"the wheel of mill {number} turns while the gate is {'open' if number % 3 else 'shut'}"}
        for number in range(9)
    ]
    folder, context = clone(tmp_path, "default", test=rows), TaskContext(ByteTokenizer(), None, 512)
    ours, theirs = Lambada(folder), LmEval("lambada_openai", BUILT_IN / "lambada", folder)
    assert asked(ours, context) == asked(theirs, context)
    figures = {name.partition("@")[0]: value for name, value in ask(theirs, random_model(), context).metrics.items()}
    own = ask(ours, random_model(), context).metrics
    assert own["lambada.accuracy@openai-last-word-of-9-passages"] == figures["lambada_openai.acc"]
    perplexity = pytest.approx(figures["lambada_openai.perplexity"], rel=1e-12)
    assert own["lambada.perplexity@openai-last-word-of-9-passages"] == perplexity


def test_gsm8k(tmp_path):
    rows = [
        {
            "question": f"A mill grinds {n} sacks, and {n} more. How many?",
            "answer": f"{n} + {n} is {2 * n}.\n#### {2 * n}",
        }
        for n in range(3, 9)
    ]
    folder = clone(tmp_path, "main", train=rows, test=rows)
    context = TaskContext(ByteTokenizer(), None, 1024, shots=0)
    assert asked(Gsm8k(folder), context) == asked(LmEval("gsm8k", BUILT_IN / "gsm8k", folder), context)
