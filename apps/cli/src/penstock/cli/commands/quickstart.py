"""`penstock quickstart`: the main job in one command, made of the commands that a user would call one by one."""

from __future__ import annotations

import contextlib
import time
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import click

from penstock.cli import output
from penstock.cli.main import call
from penstock.cli.options import overrides_argument, runs_option
from penstock.hooks.registry import Registry
from penstock.run.config import load_run_config
from penstock.run.directory import RunDirectory
from penstock.run.plugin_lock import require_importable


@click.command()
@overrides_argument
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    help="Another config; the packaged quickstart.yaml otherwise.",
)
@runs_option
@output.json_option
@click.pass_obj
def quickstart(
    registry: Registry, overrides: tuple[str, ...], config_file: Path | None, runs: Path, as_json: bool
) -> dict[str, Any]:
    """Train, measure and explain a small sparse language model on the Python standard library.

    The same as prepare, train, evaluate, profile, simulate and report in a row; about three minutes on two cores.
    """
    begun = time.perf_counter()
    with _config(config_file) as config:
        for name in ("prepare", "train", "evaluate", "profile", "simulate", "report"):
            registry.get("command", name)
        require_importable(load_run_config(config, overrides, registry)[0])
        place = ["--runs", str(runs)]
        prepared = call(registry, "prepare", str(config), *overrides, *place)
        trained = call(registry, "train", str(config), *overrides, *place)
    directory = trained["run_dir"]
    RunDirectory.open(Path(directory)).record_stage("prepare", prepared["seconds"])
    evaluated = call(registry, "evaluate", directory)
    profiled: dict[str, Any] = {}
    if trained["expert_layers"]:
        profiled = call(registry, "profile", directory)
        call(registry, "simulate", directory)
    page = call(registry, "report", directory)
    result = {
        "run_dir": directory,
        "seconds": round(time.perf_counter() - begun, 2),
        "train_tokens": trained["train_tokens"],
        "tokens_per_second": trained["tokens_per_second"],
        "heldout_bits_per_byte": evaluated["heldout_bits_per_byte"],
        "baselines": evaluated["baselines"],
        "max_violation_global": profiled.get("max_violation_global"),
        "report": page["report"],
    }
    output.print_result(result, as_json, lambda: _text(result))
    return result


def _config(path: Path | None) -> Any:
    return contextlib.nullcontext(path) if path else as_file(files("penstock.cli") / "quickstart.yaml")


def _text(result: dict[str, Any]) -> str:
    baselines = {name.removesuffix("_bits_per_byte"): value for name, value in result["baselines"].items()}
    rows = [
        ("this model", _figure(result["heldout_bits_per_byte"])),
        *((f"{name} baseline", f"{value:.3f}") for name, value in baselines.items()),
    ]
    return "\n".join(
        [
            output.table(("held-out text", "bits per byte"), rows),
            "",
            f"trained on {result['train_tokens']:,} tokens at {result['tokens_per_second']:,.0f} tokens/s; "
            f"MaxVio {_figure(result['max_violation_global'])}; {result['seconds']:.0f} s in all",
            f"run:    {result['run_dir']}",
            f"report: {result['report']}",
        ]
    )


def _figure(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.3f}"
