"""`penstock simulate`: predictions for a trace, and how they compare with measurements."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from penstock.cli import output
from penstock.cli.run_config import SimulateSettings
from penstock.cli.run_directory import RunDirectory, write_json
from penstock.evaluate.choices import choose
from penstock.evaluate.cost import cost
from penstock.hooks.problems import Problem, ProblemError
from penstock.hooks.registry import Choice, Registry


class _TraceFirst(click.Group):
    """A group whose first word may be a trace in the place of a command: `predict` is then meant."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = ["predict", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_TraceFirst)
def simulate() -> None:
    """Predict all-to-all time of expert parallelism: `simulate TRACE`, short for `simulate predict TRACE`."""


simulate.add_command(cost)


@simulate.command()
@click.argument("trace", metavar="TRACE", type=click.Path(path_type=Path))
@click.option("--topology", help="NAME, or {use: NAME, ...}, such as '{use: two-level, hardware: h100}'.")
@click.option("--placement", help="NAME, or {use: NAME, ...}.")
@click.option("--gpus", help="Degrees of expert parallelism, such as 8,64,256.")
@click.option("--tokens-per-gpu", type=click.IntRange(min=1), help="Tokens that each GPU dispatches in one step.")
@click.option("--hidden-size", type=click.IntRange(min=1), help="Width of a token on the wire.")
@output.json_option
@click.pass_obj
def predict(
    registry: Registry,
    trace: Path,
    topology: str | None,
    placement: str | None,
    gpus: str | None,
    tokens_per_gpu: int | None,
    hidden_size: int | None,
    as_json: bool,
) -> dict[str, Any]:
    """Predict all-to-all time of expert parallelism from TRACE: an .npz file or a run directory, whose config then
    gives the defaults and which keeps the result."""
    from penstock.evaluate.simulation import find_trace, simulate_trace

    run = RunDirectory.open(trace) if (trace / "config.resolved.yaml").is_file() else None
    settings = (
        run.config(registry).simulate if run else SimulateSettings.model_validate({}, context={"registry": registry})
    )

    def chosen(kind: str, option: str | None, configured: Choice | None, usual: str) -> Choice:
        return configured if configured and option is None else choose(registry, kind, option or usual)

    begun = time.perf_counter()
    result = simulate_trace(
        find_trace(trace),
        chosen("topology", topology, settings.topology, "two-level"),
        chosen("placement", placement, settings.placement, "contiguous"),
        gpus=_numbers(gpus) if gpus else settings.gpus,
        tokens_per_gpu=tokens_per_gpu or settings.tokens_per_gpu,
        hidden_size=hidden_size or settings.hidden_size,
    )
    if run is not None:
        with run.lock():
            write_json(run.path / "simulation.json", result)
            run.record_stage("simulate", time.perf_counter() - begun)
    output.print_result(result, as_json, lambda: _simulation_text(result))
    return result


def _simulation_text(result: dict[str, Any]) -> str:
    rows = [
        (
            row["gpus"],
            row["nodes"],
            f"{1e6 * row['dispatch_seconds']:.1f}",
            f"{1e6 * row['combine_seconds']:.1f}",
            f"{1e6 * row['p99_seconds']:.1f}",
            f"{1e6 * row['balanced_seconds']:.1f}",
            f"{row['slowdown']:.2f}",
        )
        for row in result["rows"]
    ]
    where = f"{result['topology']} {result['hardware'] or ''}".strip()
    return (
        f"{where}, {result['tokens_per_gpu']:,} tokens a GPU, width {result['hidden_size']}, top-{result['k']}; "
        "microseconds a layer\n\n"
        + output.table(("GPUs", "nodes", "dispatch", "combine", "p99 of both", "balanced", "slowdown"), rows)
    )


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ProblemError(
            Problem("bad-value", f"'{text}' is not a list of numbers", "--gpus", "write for example 8,64")
        ) from None


@simulate.command()
@output.json_option
def validate(as_json: bool) -> dict[str, Any]:
    """Compare the models with published measurements, each row predicted from the others of its table."""
    from penstock.evaluate.validation import validation_result, validation_text

    result = validation_result()
    output.print_result(result, as_json, lambda: validation_text(result))
    missed = [group for group in result["bars"] if not group["met"]]
    if missed:
        names = ", ".join(group["name"] for group in missed)
        raise output.failed("bar-missed", f"the error is above what is promised: {names}", "simulate validate")
    return result
