"""`penstock export`."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click

from penstock.cli import output
from penstock.hooks.config import parse_config
from penstock.hooks.contracts import PartlyFrozen
from penstock.hooks.registry import Registry


@click.command()
@click.argument("run_path", metavar="RUN", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "exporter",
    default="hf",
    show_default=True,
    help="Exporter: NAME or {use: NAME, ...}, such as '{use: hf, dtype: float32}'.",
)
@click.option(
    "--for",
    "engine",
    metavar="ENGINE",
    help="What the export is for: transformers (default), vllm or sglang. Short for `engine` of the exporter hf.",
)
@click.option("--out", type=click.Path(path_type=Path), help="Folder to write (default: RUN/export-NAME).")
@output.json_option
@click.pass_obj
def export(
    registry: Registry, run_path: Path, exporter: str, engine: str | None, out: Path | None, as_json: bool
) -> dict[str, Any]:
    """Export RUN's newest checkpoint for other software; the format `hf` loads in transformers."""
    from penstock.data_prep.tokenizer import beginning_with_end_of_text
    from penstock.train.restore import restore

    choice = registry.choose("exporter", _chosen(exporter, engine), "--format")
    name = choice.entry.component.name
    folder = out or run_path / f"export-{name}"
    restored = restore(run_path, registry)
    model = restored.model.merged() if isinstance(restored.model, PartlyFrozen) else restored.model
    tokenizer = beginning_with_end_of_text((restored.checkpoint.path / "tokenizer.json").read_bytes())
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary) / "tokenizer.json"
        file.write_bytes(tokenizer)
        files = choice.build().export(model, file, folder)
    result = {
        "folder": str(folder),
        "format": name,
        "dtype": choice.arguments().get("dtype"),
        "files": {file.name: file.stat().st_size for file in files},
        "bytes": sum(file.stat().st_size for file in files),
    }
    output.print_result(result, as_json, lambda: _line(result))
    return result


def _chosen(exporter: str, engine: str | None) -> Any:
    """The value of --format, with the engine of --for among its settings."""
    value = parse_config(f"value: {exporter}").value["value"]
    if engine is None:
        return value
    return {**({"use": value} if isinstance(value, str) else value), "engine": engine}


def _line(result: dict[str, Any]) -> str:
    line = f"{result['folder']}: {output.human_bytes(result['bytes'])} in {len(result['files'])} files"
    return line if result["dtype"] is None else f"{line}, weights in {result['dtype']}"
