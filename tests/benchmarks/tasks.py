"""Every task of the suite on a sample, of a quickstart that is trained first: figures with intervals, in under ten
minutes on two cores.

A sample has at least 200 questions, windows or documents a task. Questions are taken from every subject; windows and
documents are those from the start. `--whole` is the whole table: it first says how long that will take, by the tokens
to be read and the time that a small part of each task took.
"""

from __future__ import annotations

import json
import lzma
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import click
import measure
import quickstart

from penstock.eval_suite.runner import Prepared, prepare
from penstock.evaluate.evaluation import heldout_tokens
from penstock.hooks import Registry
from penstock.hooks.contracts import Rolling, TaskContext
from penstock.train.restore import Restored

MINUTES = 10
FEWEST = 200
PROBE = 1 / 16
PAGE = 400  # characters


@dataclass(frozen=True, slots=True)
class Case:
    """A task, and how much of it is a sample: `limit` items, or a size in its settings, such as its first bytes."""

    settings: Mapping[str, Any]
    limit: int | None = None
    sizes: Mapping[str, int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return str(self.settings["use"])

    def prepared(self, context: TaskContext, share: float | None) -> Prepared:
        """So much of the sample, or the whole task for None."""
        sizes = {} if share is None else {name: int(size * share) for name, size in self.sizes.items()}
        limit = None if share is None or self.limit is None else max(2, int(self.limit * share))
        task = Registry.discover().build("task", {**self.settings, **sizes})
        return prepare(task, replace(context, limit=limit))


def cases(data: Path, folder: Path) -> list[Case]:
    """The tasks, whose data is in a folder."""
    pages, questions = _pages(data, folder), _questions(data, folder)
    wikitext = data / "wikitext2" / "wiki.test.raw.xz"
    return [
        Case({"use": "heldout"}, sizes={"max_tokens": 60_000}),
        Case({"use": "text", "paths": [str(pages)]}, limit=FEWEST),
        Case(
            {"use": "c4", "path": str(shutil.copy(pages, folder / "c4-validation.00000-of-00008.json"))}, limit=FEWEST
        ),
        Case({"use": "wikitext2"}, sizes={"max_bytes": 180_000}),
        Case({"use": "wikitext103", "path": str(wikitext), "convention": "concat"}, sizes={"max_bytes": 180_000}),
        Case({"use": "lambada"}, limit=400),
        Case({"use": "mmlu"}, limit=57 * 6),
        Case({"use": "choices", "path": str(questions), "group": "subject"}, limit=FEWEST),
        Case({"use": "lm-eval", "name": "questions", "include_path": str(folder)}, limit=FEWEST),
        Case({"use": "gsm8k", "tokens": 48}, limit=FEWEST),
        Case({"use": "quality", "path": str(_prompts(folder)), "samples": 2, "tokens": 32}, limit=FEWEST),
    ]


def _pages(data: Path, folder: Path) -> Path:
    """Paragraphs of the sample of C4, a document each."""
    text = lzma.decompress((data / "web_text" / "c4_texts.txt.xz").read_bytes()).decode()
    rows = [json.dumps({"text": line}) for line in text.split("\n") if len(line) >= PAGE]
    (folder / "pages.jsonl").write_text("\n".join(rows[: 2 * FEWEST]) + "\n")
    return folder / "pages.jsonl"


def _questions(data: Path, folder: Path) -> Path:
    """Questions of MMLU at equal distances, so of every subject, and a task of lm-evaluation-harness that asks them."""
    rows = lzma.decompress((data / "mmlu" / "mmlu_test.jsonl.xz").read_bytes()).splitlines()
    (folder / "questions.jsonl").write_bytes(b"\n".join(rows[:: len(rows) // FEWEST]) + b"\n")
    (folder / "questions.yaml").write_text(_HARNESS.format(file=json.dumps(str(folder / "questions.jsonl"))))
    return folder / "questions.jsonl"


_HARNESS = """\
task: questions
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}\\nAnswer:"
doc_to_choice: choices
doc_to_target: answer
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
  - {{metric: acc_norm, aggregation: mean, higher_is_better: true}}
"""


def _prompts(folder: Path) -> Path:
    """As many beginnings of functions, which is what the quickstart was trained on."""
    names = [f"{verb}_{noun}{ending}" for verb in _VERBS for noun in _NOUNS for ending in _ENDINGS]
    (folder / "prompts.jsonl").write_text("".join(f'{{"prompt": "def {name}("}}\n' for name in names))
    return folder / "prompts.jsonl"


_VERBS = (
    "add",
    "close",
    "compare",
    "copy",
    "count",
    "create",
    "delete",
    "find",
    "format",
    "get",
    "is",
    "load",
    "parse",
)
_NOUNS = ("bytes", "class", "date", "dict", "file", "header", "item", "key", "line", "list", "message", "name", "node")
_ENDINGS = ("", "_at")


def tokens_of(prepared: Prepared) -> int:
    """The tokens that the model reads and writes, were nothing shared."""
    rows = [row for each in prepared.asked for _, rows in each.requests for row in rows]
    return sum(len(row.token_S) + row.new_tokens for row in rows)


def seconds_of_all(chosen: Sequence[Case], context: TaskContext, restored: Restored) -> float:
    """About how long the whole table will take."""
    seconds = 0.0
    for case in chosen:
        part, begun = case.prepared(context, PROBE), time.perf_counter()
        part.run(restored.model)
        spent = time.perf_counter() - begun
        seconds += spent * tokens_of(case.prepared(context, None)) / tokens_of(part)
    return seconds


def rows_of(case: Case, context: TaskContext, restored: Restored, share: float | None) -> list[measure.Row]:
    """A row for each metric, with its interval. `n` counts questions, documents, or windows of a stream; the interval
    counts those that are alike, such as questions of one subject, as one."""
    prepared, begun = case.prepared(context, share), time.perf_counter()
    result = prepared.run(restored.model)
    seconds = round(time.perf_counter() - begun, 1)
    streams = sum(len(rows) for each in prepared.asked for request, rows in each.requests if type(request) is Rolling)
    samples = max((interval.samples for interval in result.intervals.values()), default=0)
    read = max(len(prepared.asked), streams, samples)
    rows: list[measure.Row] = []
    for name, value in result.metrics.items():
        interval = result.intervals.get(name)
        bounds = {"low": "", "high": "", "independent": ""}
        if interval is not None:
            bounds = {"low": interval.low, "high": interval.high, "independent": interval.samples}
        rows.append({"task": case.name, "n": read, "metric": name, "value": value, **bounds, "seconds": seconds})
        seconds = 0.0
    return rows


@click.command()
@click.option("--data", required=True, envvar="PENSTOCK_DATA", type=click.Path(path_type=Path, exists=True))
@click.option("--whole", is_flag=True, help="Every question, not a sample. Prints how long that takes first.")
@measure.runs_option
@measure.json_option
def main(data: Path, whole: bool, runs: Path | None, as_json: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        restored = quickstart.trained_run(runs or Path(folder))
        length = restored.config.data.sequence_length
        held, prompts = heldout_tokens(restored.dataset), tuple(restored.config.evaluate.prompts)
        context = TaskContext(restored.tokenizer, held, length, data=data, fit_shots=True, prompts=prompts)
        chosen = cases(data, Path(folder))
        if whole:
            click.echo(f"about {seconds_of_all(chosen, context, restored) / 60:.0f} minutes", err=True)
        begun = time.perf_counter()
        rows = [row for case in chosen for row in rows_of(case, context, restored, None if whole else 1.0)]
        minutes = (time.perf_counter() - begun) / 60
    samples = min(row["n"] for row in rows)
    bars = [] if whole else [measure.Bar("minutes of all tasks", minutes, MINUTES, at_least=False)]
    bars.append(measure.Bar("samples of the smallest task", samples, FEWEST))
    measure.finish("tasks", rows, bars, as_json, minutes=round(minutes, 1), whole=whole)


if __name__ == "__main__":
    main()
