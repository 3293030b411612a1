"""The ledger of size against quality: how small the BERT body gets on disk, and what a small encoder loses by it.

`body` builds BERT-base, 109,482,240 parameters, with random weights, because training does not change the bytes of a
file. It writes a file for each row and reads it back. Ratios are of 4 bytes a parameter (fp32, 437.9 MB) and of 2
(bf16); header, hashes and scales count. An embedding that is not factorised takes 23.8 MB in int8, an eighteenth of
fp32.

Tasks: an encoder of width 128 and two layers, trained from scratch on sentences of SST-2 (scored on dev and test), on
the first sentences of CoNLL-2003 (entity F1 on testa) and on MRPC. Every trained row is trained like the first one,
with each seed. `lost` are points lost of the task's figure, paired by example and seed (see `points_lost.py`), with the
half width of the 95 % interval; "under 2 points" holds if the upper end is below 2, fails if the lower end is above. A
task whose fp32 model does not beat its baseline by 5 points has no signal, and nothing else is trained for it. The
baseline says the most frequent label, or that nothing is an entity.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from ledger_tasks import TASKS, Task, config_of
from measure import Bar, finish, json_option, runs_option
from points_lost import points_lost, verdict

from penstock.cli.main import run
from penstock.compress.plan import Plan, PlannedRow, load_plan
from penstock.compress.rows import bytes_of
from penstock.hooks import Registry
from penstock.hooks.config import read_config
from penstock.quant158.artifact import Artifact
from penstock.quant158.artifact.sizes import size_of
from penstock.report.rivals import RIVALS
from penstock.run.config import digest, load_run_config
from penstock.run.directory import RunDirectory
from penstock.run.records.compression import BASELINE, Compression
from penstock.train.compose import compose_model, parameter_summary
from penstock.train.restore import exported
from penstock.train.scoring import task_scores
from penstock.train.weights import sites_of

PARAMETERS, VOCABULARY = 109_482_240, 30_522
FP32 = 4 * PARAMETERS
CLASSIFIER = 2 * (768 + 1)  # of two labels, on top of the body; it counts in the files
LIMIT, SIGNAL = 2.0, 5.0

# Each row is on top of those before it; the last ones vary it.
BODY = """\
name: body
steps:
  - {name: bf16, train: false, model: {quantizer: {weights: bf16, embedding: bf16, head: bf16}}}
  - {name: "ternary, int8 embedding", model: {quantizer: {weights: ternary, embedding: int8, head: int8}}}
  - name: three distinct layers
    model: {sharing: [{use: cross-layer, pattern: alternate, distinct: 3, norms: true, biases: true}]}
  - {name: one layer, model: {sharing: [{use: cross-layer, norms: true, biases: true}]}}
  - name: factorised 128, positions too
    model: {sharing: [{use: factorised-embedding, rank: 128, positions: true}]}
  - {name: entropy coding, train: false, export: {compress: lzma}}
  - {name: fp16 embedding, train: false, export: {compress: null}, model: {quantizer: {embedding: fp16, head: fp16}}}
  - name: three distinct layers, int8 embedding
    model:
      sharing: [{use: cross-layer, pattern: alternate, distinct: 3, norms: true, biases: true}]
      quantizer: {embedding: int8, head: int8}
  - name: fp32, one layer, factorised
    model: {sharing: [{use: cross-layer, norms: true, biases: true}], quantizer: null}
"""
BARS = {"fp16 embedding": 45.0, "three distinct layers, int8 embedding": 45.0, "factorised 128, positions too": 75.0}

SMALL = """\
name: small
steps:
  - {name: bf16, train: false, model: {quantizer: {weights: bf16, embedding: bf16, head: bf16}}}
  - {name: factorised 32, model: {sharing: [{use: factorised-embedding, rank: 32, positions: true}]}}
  - {name: one layer, model: {sharing: [{use: cross-layer, norms: true, biases: true}]}}
  - {name: ternary, model: {quantizer: {weights: {use: ternary, group: 128}}}}
  - {name: int8 embedding, train: false, model: {quantizer: {embedding: int8, head: int8}}}
  - {name: entropy coding, train: false, export: {compress: lzma}}
"""
# Whether there is anything to lose is known before the other rows are trained; runs of the first row are the same.
FIRST = "name: first\nsteps:\n" + SMALL.splitlines()[2] + "\n"

# ---------------------------------------------------------------------------------------------------------------- body


def body(folder: Path, registry: Registry) -> list[dict[str, Any]]:
    """A file for each row of the plan."""
    examples = folder / "examples.tsv", folder / "heldout.tsv"
    for path in examples:
        path.write_text("good\t1\nbad\t0\n")
    objective = f'{{use: classification, paths: ["{examples[0]}"], heldout: ["{examples[1]}"]}}'
    text = config_of("body", examples[0], objective, task="classification", labels=2, preset="bert-base", tokens=1)
    plan = planned(created(folder, text, registry), BODY, folder, registry)
    rows = [packed(row, folder) for row in plan.rows]
    assert rows[0]["parameters"] == PARAMETERS + CLASSIFIER
    return rows


@torch.no_grad()
def packed(row: PlannedRow, folder: Path) -> dict[str, Any]:
    """Writes the row's file and reads its weights back."""
    composition = compose_model(row.config, VOCABULARY)
    path = folder / "row.penstock"
    trained = exported(row.config, composition, VOCABULARY, step=0, tokens=0, sha256="0" * 64, files={})
    row.exporter.build().export(trained, path)
    artifact = Artifact.open(path)
    artifact.verify()
    for parameter, site in sites_of(composition.model).items():
        if parameter in artifact.names and not np.array_equal(artifact.weight(parameter), site.effective().numpy()):
            raise AssertionError(f"{row.name}: '{parameter}' does not read back as the weight of the forward pass")
    size, stored = bytes_of(size_of(artifact)), parameter_summary(composition).total
    on_disk = path.stat().st_size
    path.unlink()
    return {
        "row": row.name,
        "parameters": stored,
        "bytes": on_disk,
        "of it header and hashes": size.header + size.hashes + size.padding,
        "bits a parameter": 8 * on_disk / stored,
        "against fp32": FP32 / on_disk,
        "against bf16": FP32 / 2 / on_disk,
    }


def created(folder: Path, text: str, registry: Registry) -> RunDirectory:
    """A run that is not trained: a plan only takes its config."""
    path = folder / "config.yaml"
    path.write_text(text)
    config, document = load_run_config(path, (), registry)
    found = list((folder / config.name).glob(f"2*-{digest(config.resolved())}"))
    return RunDirectory(found[0]) if found else RunDirectory.create(folder, config, document, (), registry)


def planned(made: RunDirectory, text: str, folder: Path, registry: Registry) -> Plan:
    path = folder / "plan.yaml"
    path.write_text(text)
    return load_plan(path, (), made, registry)


# --------------------------------------------------------------------------------------------------------------- tasks


def task_rows(task: Task, seeds: int, runs: Path, registry: Registry) -> Iterator[dict[str, Any]]:
    """A row of the ledger each, with what it lost; one row for a task without signal."""
    folder = runs / task.name
    made = created(folder, task.config, registry)
    first = compressed(made, FIRST, seeds, folder)
    figure, baseline = 100 * first.rows[0].quality.mean, 100 * task.baseline
    if figure < baseline + SIGNAL:
        said = f"no signal: {figure:.1f} of a baseline of {baseline:.1f}"
        yield {"task": task.name, "row": BASELINE, "figure": figure, "under 2 points": said}
        return
    ledger = compressed(made, SMALL, seeds, folder)
    before = scores(ledger, BASELINE, folder, registry)
    for row in ledger.rows:
        found: dict[str, Any] = {
            "task": task.name,
            "row": row.name,
            "trained": "yes" if row.trained else "no",
            "bytes": row.bytes.model,
            "against fp32": ledger.fp32_bytes / row.bytes.model,
            "against bf16": ledger.bf16_bytes / row.bytes.model,
            "figure": 100 * row.quality.mean,
        }
        if row.name != BASELINE and seeds > 1:
            loss = points_lost(before, scores(ledger, row.name, folder, registry))
            found |= {"lost": loss.mean, "+-": loss.half_width, "under 2 points": verdict(loss, LIMIT)}
        yield found


def compressed(made: RunDirectory, plan: str, seeds: int, folder: Path) -> Compression:
    path = folder / "plan.yaml"
    path.write_text(plan)
    out = folder / read_config(path).value["name"]
    arguments = ["compress", str(made.path), "--plan", str(path), "--seeds", str(seeds), "--out", str(out)]
    with redirect_stdout(sys.stderr):  # stdout is for the result
        return Compression.from_json(run(arguments))


def scores(ledger: Compression, row: str, folder: Path, registry: Registry) -> list[tuple[Any, Any]]:
    """Value and weight of every example, for each seed."""
    files = [folder / ledger.plan / file.path for file in ledger.files if file.row == row]
    found = [task_scores(path, registry) for path in files]
    return [(each.values[each.figure], each.weights[each.figure]) for each in found]


def bars_of(rows: list[dict[str, Any]]) -> list[Bar]:
    """What the body must reach."""
    ratios = {row["row"]: row["against fp32"] for row in rows}
    return [Bar(f"times smaller than fp32: {name}", ratios[name], limit) for name, limit in BARS.items() if ratios]


def rivals() -> list[dict[str, Any]]:
    names = {"row": "name", "against fp32": "against_fp32", "against bf16": "against_bf16", "source": "source"}
    return [{shown: getattr(rival, name) for shown, name in names.items()} for rival in RIVALS]


@click.command(help=__doc__)
@click.option("--seeds", default=5, show_default=True, type=click.IntRange(min=1), help="Seeds of every row.")
@click.option("--epochs", default=2.0, show_default=True, type=float, help="Epochs of every training.")
@click.option("--task", "tasks", multiple=True, type=click.Choice(list(TASKS)), help="A task; all if none is given.")
@click.option("--no-body", is_flag=True, help="Leave out the BERT body.")
@click.option("--no-tasks", is_flag=True, help="Leave out the tasks.")
@click.option(
    "--data",
    envvar="PENSTOCK_DATA",
    required=True,
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder of data sets (default: PENSTOCK_DATA).",
)
@runs_option
@json_option
def main(
    seeds: int,
    epochs: float,
    tasks: tuple[str, ...],
    no_body: bool,
    no_tasks: bool,
    data: Path,
    runs: Path | None,
    as_json: bool,
) -> None:
    registry = Registry.discover()
    with tempfile.TemporaryDirectory() as temporary:
        root = (runs or Path(temporary)).resolve()
        rows: list[dict[str, Any]] = []
        if not no_body:
            (root / "body").mkdir(parents=True, exist_ok=True)
            rows += body(root / "body", registry)
        bars = bars_of(rows)
        for name in () if no_tasks else tasks or TASKS:
            folder = root / name
            folder.mkdir(parents=True, exist_ok=True)
            rows += task_rows(TASKS[name](data, folder, epochs), seeds, root, registry)
    rows += rivals()
    finish("ledger", rows, bars, as_json, seeds=seeds, epochs=epochs, threads=torch.get_num_threads())


if __name__ == "__main__":
    main()
