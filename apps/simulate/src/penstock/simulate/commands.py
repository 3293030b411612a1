"""`penstock simulate`: predictions for a trace, and how they compare with measurements."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from penstock.cli import output
from penstock.cli.choices import choose
from penstock.hooks.problems import Problem, ProblemError, failed
from penstock.hooks.registry import Choice, Registry
from penstock.netsim.fidelity import FIDELITIES, Fidelity
from penstock.run.directory import RunDirectory, is_run
from penstock.run.records.record import write_record
from penstock.run.records.simulation import NetworkRow, NetworkSweep, Simulation
from penstock.simulate.config import SimulateSettings
from penstock.simulate.cost import cost

if TYPE_CHECKING:
    from penstock.netsim.simulate import Picture

SWEPT = ("topology", "hardware", "placement", "fidelity", "deduplicate", "tokens_per_gpu")
MOST_DRAWN_GPUS = 128
"""16,000 messages take a few seconds in the fluid model."""


class _TraceFirst(click.Group):
    """A group whose first word may be a trace instead of a command; it then means `predict`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = ["predict", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_TraceFirst)
def simulate() -> None:
    """Predict all-to-all time of expert parallelism; `simulate TRACE` is short for `simulate predict TRACE`."""


simulate.add_command(cost)


@simulate.command()
@click.argument("trace", metavar="TRACE")
@click.option("--topology", help="Network: NAME or {use: NAME, ...}, such as '{use: fat-tree, oversubscription: 2}'.")
@click.option("--placement", help="Placement of experts on GPUs: NAME or {use: NAME, ...}.")
@click.option("--ep", "--gpus", "gpus", help="Degrees of expert parallelism (numbers of GPUs), such as 8,64,256.")
@click.option("--fidelity", type=click.Choice(FIDELITIES), help="Accuracy of the network model (default: alpha-beta).")
@click.option("--deduplicate", is_flag=True, help="Send each token to a node only once, as hierarchical kernels do.")
@click.option("--steps", type=click.IntRange(min=1), help="Simulate N steps of the trace, evenly spaced.")
@click.option("--tokens-per-gpu", type=click.IntRange(min=1), help="Tokens that each GPU dispatches per step.")
@click.option("--hidden-size", type=click.IntRange(min=1), help="Hidden size of a token on the network.")
@click.option("--sweep", help=f"NAME=VALUE,VALUE,...: print a table per value; NAME is one of {', '.join(SWEPT)}.")
@click.option(
    "--report",
    "page",
    type=click.Path(path_type=Path),
    is_flag=False,
    flag_value="network.html",
    help="Write an HTML page (default file: network.html).",
)
@click.option(
    "--export",
    "exported",
    nargs=2,
    metavar="FORMAT FILE",
    help="Export one dispatch for another tool; FORMAT is nccl-tests, goal or chakra.",
)
@output.json_option
@click.pass_obj
def predict(registry: Registry, trace: str, as_json: bool, **options: Any) -> dict[str, Any]:
    """Predict all-to-all time of expert parallelism from TRACE.

    TRACE is a trace file, a run directory, or synthetic:LAW,experts=64,k=8,skew=1 (LAW: uniform, zipf, log-normal,
    power-law, incast). A run's config gives the defaults, and the run keeps the result.
    """
    result = predicted(registry, Prediction(trace, **options))
    output.print_result(result, as_json, lambda: simulation_text(result))
    return result.to_json()


@dataclass(frozen=True, slots=True)
class Prediction:
    """What to predict: a trace, and the command line's network options."""

    trace: str
    topology: str | None = None
    placement: str | None = None
    gpus: str | None = None
    fidelity: Fidelity | None = None
    deduplicate: bool = False
    steps: int | None = None
    tokens_per_gpu: int | None = None
    hidden_size: int | None = None
    sweep: str | None = None
    page: Path | None = None
    exported: tuple[str, str] | None = None


def predicted(registry: Registry, asked: Prediction) -> Simulation:
    """Predicts, writes the page and the exported dispatch if asked, and keeps the result in the run directory if the
    trace is one."""
    from penstock.simulate.simulation import Case, draw_exchange, load_trace, simulate_trace, sweep_values

    run = RunDirectory.open(Path(asked.trace)) if is_run(Path(asked.trace)) else None
    if run is not None:
        asked = replace(asked, trace=str(run.path))
    settings = run.section("simulate", SimulateSettings, registry) if run else SimulateSettings()

    def chosen(kind: str, option: Any, configured: Choice | None, usual: str) -> Choice:
        return configured if configured and option is None else choose(registry, kind, option or usual)

    def case(**swept: Any) -> Case:
        where = swept.get("topology", asked.topology)
        network = chosen("topology", where, settings.topology, "two-level")
        if "hardware" in swept:
            own = network.settings.model_dump(exclude_unset=True) if network.settings else {}
            named = {"use": network.entry.component.name, **own, "hardware": swept["hardware"]}
            network = registry.choose("topology", named, "--sweep")
        return Case(
            network,
            chosen("placement", swept.get("placement", asked.placement), settings.placement, "contiguous"),
            swept.get("fidelity", asked.fidelity or "alpha-beta"),
            swept.get("deduplicate", asked.deduplicate),
            asked.steps,
            swept.get("tokens_per_gpu", asked.tokens_per_gpu or settings.tokens_per_gpu),
        )

    begun = time.perf_counter()
    recorded = load_trace(asked.trace)
    counts = _numbers(asked.gpus) if asked.gpus else settings.gpus
    width = asked.hidden_size or settings.hidden_size

    def one(each: Case) -> Simulation:
        return simulate_trace(recorded, asked.trace, each, gpus=counts, hidden_size=width)

    result = one(case())
    if asked.sweep:
        name, values = sweep_values(asked.sweep)
        if name not in SWEPT:
            what = f"'{name}' cannot be swept"
            raise ProblemError(Problem("bad-value", what, "--sweep", f"choose from {', '.join(SWEPT)}"))
        cases = [replace(one(case(**{name: value})), value=value) for value in values]
        result = replace(result, sweep=NetworkSweep(name, cases))
    if asked.page or asked.exported:
        drawn = draw_exchange(recorded, asked.trace, case(), gpus=_largest_drawn(counts), hidden_size=width)
        result = _written(registry, asked, result, drawn, lambda name: one(case(placement=name)))
    if run is not None:
        with run.lock():
            write_record(run.path / "simulation.json", result)
            run.record_stage("simulate", time.perf_counter() - begun)
    return result


def _written(
    registry: Registry,
    asked: Prediction,
    result: Simulation,
    drawn: Picture | None,
    placed: Callable[[str], Simulation],
) -> Simulation:
    """Writes the files that the caller asked for; returns the result with their names."""
    if asked.exported and drawn is not None:
        from penstock.netsim.exports import write_exchange

        files = write_exchange(drawn.bytes_GG, asked.exported[0], Path(asked.exported[1]))
        result = replace(result, exported=[str(path) for path in files])
    if asked.page:
        from penstock.simulate.network_page import write_network_page

        compared = _compared(registry.names("placement"), placed)
        result = replace(result, report=str(write_network_page(result, compared, drawn, asked.page)))
    return result


def _compared(placements: Sequence[str], simulated: Callable[[str], Simulation]) -> list[Simulation]:
    """The prediction for every placement that fits experts and GPUs and needs no settings; warns about the others."""
    found: list[Simulation] = []
    for name in placements:
        try:
            found.append(simulated(name))
        except ProblemError as error:
            output.note(f"skipping placement {name}: {error.problems[0].what}")
    return found


def _largest_drawn(gpus: Sequence[int]) -> int:
    """The largest number of GPUs whose messages are few enough to be drawn one by one."""
    return max((count for count in gpus if count <= MOST_DRAWN_GPUS), default=min(gpus))


def simulation_text(result: Simulation) -> str:
    parts = [_table_text(result)]
    if result.sweep is not None:
        parts = [f"{result.sweep.name} {case.value}\n{_table_text(case)}" for case in result.sweep.cases]
    parts += [f"written: {path}" for path in [*(result.exported or []), *filter(None, [result.report])]]
    return "\n\n".join(parts)


def _table_text(result: Simulation) -> str:
    where = " ".join(filter(None, [result.topology, result.hardware]))
    first = result.rows[0]
    steps = first.step_seconds.steps if first.step_seconds else None
    columns = (
        "GPUs",
        "nodes",
        "dispatch",
        "combine",
        "longest" if first.p99 is None else "p99 of both",
        "balanced",
        "slowdown",
        "step p50",
        "longest step" if first.step_seconds is None or first.step_seconds.p99 is None else "step p99",
        "waits for GPU",
    )
    head = (
        f"{where}, {result.placement} placement, {result.fidelity}, {result.tokens_per_gpu:,} tokens per GPU, "
        f"width {result.hidden_size}, top-{result.k} of {result.experts} experts; microseconds per layer, milliseconds "
        f"per step; {first.exchanges:,} exchanges in {steps:,} steps"
    )
    return "\n\n".join([head, output.table(columns, map(_cells, result.rows)), *result.notes])


def _cells(row: NetworkRow) -> tuple[Any, ...]:
    step = row.step_seconds
    slow = None if step is None else step.max if step.p99 is None else step.p99
    return (
        row.gpus,
        row.nodes,
        _scaled(row.dispatch_seconds, 1e6, 1),
        _scaled(row.combine_seconds, 1e6, 1),
        _scaled(row.max_seconds if row.p99 is None else row.p99, 1e6, 1),
        _scaled(row.balanced_seconds, 1e6, 1),
        _scaled(row.slowdown, 1, 2),
        _scaled(step and step.p50, 1e3, 2),
        _scaled(slow, 1e3, 2),
        ", ".join(f"{each.gpu} ({each.share:.0%})" for each in row.stragglers[:2]),
    )


def _scaled(value: float | None, scale: float, digits: int) -> str:
    return "-" if value is None else f"{scale * value:.{digits}f}"


def _numbers(text: str) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
        if min(numbers) < 1:
            raise ValueError
        return numbers
    except ValueError:
        raise ProblemError(
            Problem("bad-value", f"'{text}' is not a list of positive integers", "--gpus", "write a list such as 8,64")
        ) from None


@simulate.command()
@output.json_option
def validate(as_json: bool) -> dict[str, Any]:
    """Compare the models with published measurements, each row predicted from the others of its table."""
    from penstock.simulate.validation import comparison, comparison_text

    result = comparison()
    output.print_result(result, as_json, lambda: comparison_text(result))
    if result.missed:
        what = f"the error exceeds the promised bound: {', '.join(result.missed)}"
        raise failed("bar-missed", what, "simulate validate")
    return result.to_json()
