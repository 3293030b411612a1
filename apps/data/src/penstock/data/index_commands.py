"""`penstock data index`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from penstock.cli import output
from penstock.data.options import max_ram_option
from penstock.hooks.registry import Registry

index_argument = click.argument("folder", metavar="INDEX", type=click.Path(path_type=Path))


@click.group()
def index() -> None:
    """Keep documents on disk, in an index that says which later ones nearly repeat them.

    A CORPUS is a name or `{use: NAME, ...}`, as in the file of `penstock data clean`. Every command can be given again
    after an interruption: it goes on, and the index ends with the same bytes.
    """


@index.command("add")
@index_argument
@click.argument("corpus", metavar="CORPUS")
@click.option(
    "--near",
    "settings",
    metavar="SETTINGS",
    help="Settings of the stage `near`, such as '{threshold: 0.7}': of an index that is begun, or to be sure of one.",
)
@max_ram_option
@output.json_option
@click.pass_obj
def add_command(
    registry: Registry, folder: Path, corpus: str, settings: str | None, max_ram: int | None, as_json: bool
) -> dict[str, Any]:
    """Add the documents of a CORPUS. INDEX is begun if it is empty. Documents whose source it has are replaced."""
    from penstock.data.indexing import add, add_text

    result = add(folder, corpus, settings, max_ram, registry)
    output.print_result(result, as_json, lambda: add_text(result))
    return result


@index.command("remove")
@index_argument
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True)
@max_ram_option
@output.json_option
def remove_command(folder: Path, sources: tuple[str, ...], max_ram: int | None, as_json: bool) -> dict[str, Any]:
    """Remove documents by source, as `ask` shows it, such as `crawl.jsonl:17`; `-` reads one from each line of stdin.

    They take room on disk until `compact`, or until additions merge their part of the index.
    """
    from penstock.data.indexing import remove

    result = remove(folder, sources, max_ram)
    output.print_result(result, as_json, lambda: f"removed: {result['removed']:,}\ndocuments: {result['documents']:,}")
    return result


@index.command("ask")
@index_argument
@click.argument("corpus", metavar="CORPUS")
@click.option("--most", default=3, show_default=True, type=click.IntRange(min=1), help="Most repeated ones of each.")
@click.option("--out", type=click.Path(path_type=Path), help="File for all that repeat, as JSON lines.")
@max_ram_option
@output.json_option
@click.pass_obj
def ask_command(
    registry: Registry, folder: Path, corpus: str, most: int, out: Path | None, max_ram: int | None, as_json: bool
) -> dict[str, Any]:
    """Ask which documents of a CORPUS repeat what INDEX holds, and what they repeat, the most similar first. With `-`
    all of stdin is one document. A document does not repeat the one of its own source."""
    from penstock.data.indexing import ask, ask_text

    result = ask(folder, corpus, most, out, max_ram, registry)
    output.print_result(result, as_json, lambda: ask_text(result))
    return result


@index.command("describe")
@index_argument
@click.option("--check", is_flag=True, help="Read all files, and compare their SHA-256.")
@output.json_option
def describe_command(folder: Path, check: bool, as_json: bool) -> dict[str, Any]:
    """Show what INDEX holds: documents and bytes, and the scheme, hash and rule that it was made with."""
    from penstock.data.indexing import describe, describe_text

    result = describe(folder, check)
    output.print_result(result, as_json, lambda: describe_text(result))
    return result


@index.command("compact")
@index_argument
@max_ram_option
@output.json_option
def compact_command(folder: Path, max_ram: int | None, as_json: bool) -> dict[str, Any]:
    """Free the room of removed documents, and make questions faster. Takes as much room again meanwhile."""
    from penstock.data.indexing import compact, describe_text

    result = compact(folder, max_ram)
    output.print_result(result, as_json, lambda: describe_text(result))
    return result
