"""`penstock data`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from penstock.cli import output
from penstock.cli.options import overrides_argument
from penstock.data.index_commands import index
from penstock.data.options import max_ram_option
from penstock.hooks.registry import Registry

folder_argument = click.argument("folder", metavar="FOLDER", type=click.Path(path_type=Path))


@click.group()
def data() -> None:
    """Clean a corpus in stages, and show what they removed and why."""


data.add_command(index)


@data.command("clean")
@click.argument("clean_file", metavar="CLEAN", type=click.Path(path_type=Path))
@overrides_argument
@click.option("--out", "folder", required=True, type=click.Path(path_type=Path), help="Folder of the cleaned corpus.")
@max_ram_option
@click.option("--dry-run", is_flag=True, help="Check everything, say which stages are done, and exit.")
@output.json_option
@click.pass_obj
def clean_command(
    registry: Registry,
    clean_file: Path,
    overrides: tuple[str, ...],
    folder: Path,
    max_ram: int | None,
    dry_run: bool,
    as_json: bool,
) -> dict[str, Any]:
    """Clean the corpus that CLEAN names by its stages, one after the other.

    Nothing is deleted: the folder keeps every document, and beside them what each stage decided and why. What is done
    is not done again: run the same command to go on after an interruption, and after changing later stages.
    """
    from penstock.data.cleaning import Cleaning, CleanResult, StageResult, result_of, text_of, warn_of_missing_urls

    overrides += () if max_ram is None else (f"max_ram={max_ram}",)
    cleaning = Cleaning.load(clean_file, overrides, registry)
    if dry_run:
        from dataclasses import asdict

        planned = cleaning.planned(folder)
        stages = [StageResult(stage.name, None if did is None else asdict(did)) for stage, did in planned]
        result = CleanResult(str(folder), None, None, stages)
        output.print_result(result, as_json, lambda: f"{text_of(result)}\n\nnothing was written: this was a dry run")
    else:
        result = result_of(cleaning.run(folder))
        warn_of_missing_urls(result)
        output.print_result(result, as_json, lambda: text_of(result))
    return result.to_json()


@data.command("undo")
@folder_argument
@click.argument("documents", metavar="DOCUMENT...", nargs=-1, required=True, type=click.IntRange(min=0))
@output.json_option
def undo_command(folder: Path, documents: tuple[int, ...], as_json: bool) -> dict[str, Any]:
    """Take documents back, by number, that a stage of a cleaning removed or changed. They have their first text
    again."""
    from penstock.data_prep.cleaning.cleaned import undo

    back = undo(folder, documents)
    result = {"folder": str(folder), "back": back}
    output.print_result(result, as_json, lambda: f"back: {', '.join(map(str, back))}")
    return result


@data.command("report")
@folder_argument
@output.json_option
def report_command(folder: Path, as_json: bool) -> dict[str, Any]:
    """Write a page about a cleaned corpus, FOLDER/report.html: what is left after each stage, of each source and each
    language, removals by rule, lengths, clusters, and removed documents beside those that they repeat."""
    from penstock.data.page import write_data_page
    from penstock.data_prep.cleaning.clean import read_cleaned

    out = write_data_page(read_cleaned(folder), folder / "report.html")
    output.print_result({"report": str(out)}, as_json, lambda: f"report: {out}")
    return {"report": str(out)}


@data.command("learn")
@click.argument("learn_file", metavar="LEARN", type=click.Path(path_type=Path))
@overrides_argument
@click.option("--out", required=True, type=click.Path(path_type=Path), help="File of the classifier.")
@output.json_option
@click.pass_obj
def learn_command(
    registry: Registry, learn_file: Path, overrides: tuple[str, ...], out: Path, as_json: bool
) -> dict[str, Any]:
    """Train a classifier of the good texts that LEARN names against its ordinary ones, for the stages `contrastive` and
    `resampling`, and say how well it tells held-out texts apart."""
    from penstock.data.learning import learnt, learnt_text

    result = learnt(learn_file, overrides, registry, out)
    output.print_result(result, as_json, lambda: learnt_text(result))
    return result


@data.command("evaluations")
@click.argument("tasks", metavar="TASK...", nargs=-1, required=True)
@click.option("--data", "folder", type=click.Path(path_type=Path), help="Folder of data sets, one folder each.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the texts.")
@output.json_option
@click.pass_obj
def evaluations_command(
    registry: Registry, tasks: tuple[str, ...], folder: Path | None, out: Path, as_json: bool
) -> dict[str, Any]:
    """Write the texts of tasks of `penstock evaluate` into files that the stage `decontaminate` reads. A TASK is a name
    or `{use: NAME, ...}`."""
    from penstock.cli.choices import choose
    from penstock.data.evaluations import write_evaluations

    found = write_evaluations([choose(registry, "task", task) for task in tasks], folder, out)
    rows = [(name, f"{count:,}") for name, count in found.items()]
    output.print_result({"out": str(out), "texts": found}, as_json, lambda: output.table(("task", "texts"), rows))
    return {"out": str(out), "texts": found}
