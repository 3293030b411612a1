"""`penstock compress`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from penstock.cli import output
from penstock.cli.options import overrides_argument
from penstock.hooks.registry import Registry
from penstock.run.directory import RunDirectory, processor
from penstock.run.records.compression import LEDGER, CompressedFile, Compression

if TYPE_CHECKING:
    from penstock.compress.plan import Plan
    from penstock.compress.rows import Workshop


@click.command()
@click.argument("run_path", metavar="RUN", type=click.Path(path_type=Path))
@overrides_argument
@click.option(
    "--plan",
    "plan_file",
    required=True,
    type=click.Path(path_type=Path),
    help="Plan of steps, such as configs/compression/aggressive.yaml.",
)
@click.option("--seeds", type=click.IntRange(min=1), default=5, show_default=True, help="Seeds of every row.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the ledger (default: beside its runs).")
@click.option("--dry-run", is_flag=True, help="Check every row, print its size and the time left, and exit.")
@output.json_option
@click.pass_obj
def compress(
    registry: Registry,
    run_path: Path,
    overrides: tuple[str, ...],
    plan_file: Path,
    seeds: int,
    out: Path | None,
    dry_run: bool,
    as_json: bool,
) -> dict[str, Any]:
    """Compress RUN's model step by step, and measure bytes and quality of each step.

    Every trained row is trained like RUN with each seed, for as many tokens; the others take the weights of the row
    before. KEY.SUB=VALUE changes the plan. Nothing is made twice: run the same command to continue.
    """
    from penstock.compress.plan import load_plan

    run = RunDirectory.open(run_path)
    plan = load_plan(plan_file, overrides, run, registry)
    from penstock.compress.checks import require_possible
    from penstock.compress.price import left_text, price_of, price_text
    from penstock.compress.rows import Workshop

    name = plan.rows[0].config.name
    folder = out or run.runs / name / f"{plan.name}-{plan.hash}"
    workshop = Workshop(plan, run.runs, folder, registry)
    price = price_of(workshop, range(seeds), require_possible(plan, run.runs), run)
    if dry_run:
        output.print_result(price, as_json, lambda: f"{price_text(price)}\nnothing was written: this was a dry run")
        return price.to_json()
    output.note(left_text(price))
    ledger = _carried_out(workshop, str(run.path), range(seeds))
    return _finished(ledger, plan, folder, as_json)


def _carried_out(workshop: Workshop, run: str, seeds: range) -> Compression:
    """The finished ledger, which is written after each file: all rows of one seed, then of the next, so that pairs are
    complete early."""
    from penstock.compress.ledger import ledger_of
    from penstock.run.records.record import write_record

    plan, files = workshop.plan, list[CompressedFile]()
    jobs = [(row, seed) for seed in seeds for row in plan.rows]
    workshop.folder.mkdir(parents=True, exist_ok=True)
    with RunDirectory(workshop.folder).lock():
        for number, (row, seed) in enumerate(jobs, 1):
            output.note(f"{number} of {len(jobs)}: {row.name}; seed {seed}")
            files.append(workshop.file(row, seed))
            ledger = ledger_of(plan, run, list(seeds), files, processor())
            write_record(workshop.folder / LEDGER, ledger)
    return ledger


def _finished(ledger: Compression, plan: Plan, folder: Path, as_json: bool) -> dict[str, Any]:
    from penstock.report.compression import ledger_text, write_compressions
    from penstock.report.rivals import RIVALS

    page = write_compressions([folder], folder / "report.html")
    result = {
        **ledger.to_json(),
        "fp32_bytes": ledger.fp32_bytes,
        "bf16_bytes": ledger.bf16_bytes,
        "rivals": [rival.to_json() for rival in RIVALS],
        "folder": str(folder),
        "report": str(page),
    }
    output.print_result(result, as_json, lambda: f"{ledger_text(ledger)}\n\nfolder: {folder}\nreport: {page}")
    return result
