"""What `penstock simulate` predicts: all-to-all time of a trace on a network, for several degrees of parallelism."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from penstock.hooks.document import parse_value
from penstock.hooks.problems import Problem, ProblemError
from penstock.hooks.registry import Choice
from penstock.netsim.fidelity import Fidelity
from penstock.netsim.simulate import Picture, SimulationRow, picture, simulate
from penstock.netsim.synthetic import synthetic_trace
from penstock.run.records.simulation import NetworkRow, Simulation, StepSeconds, StragglingGpu
from penstock.simulate.notes import notes
from penstock.traces.reader import read_trace
from penstock.traces.trace import RoutingTrace

SYNTHETIC = "synthetic:"


@dataclass(frozen=True, slots=True)
class Case:
    """A network, a placement of experts and the fidelity of the simulated exchange."""

    topology: Choice
    placement: Choice
    fidelity: Fidelity = "alpha-beta"
    deduplicate: bool = False
    steps: int | None = None
    tokens_per_gpu: int = 4096


def find_trace(path: Path) -> Path:
    """A trace file, or the held-out (else the training) trace of a run directory."""
    if not path.is_dir():
        return path
    found = [path / "trace" / f"{split}.npz" for split in ("heldout", "train")]
    return next((trace for trace in found if trace.exists()), found[0])


def load_trace(text: str) -> RoutingTrace:
    """`synthetic:LAW,key=value,...`, or the path of a trace in any format, with `,model=NAME` if it has several models.

    An SGLang recording (.pt) does not record k, so its name must be followed by `,k=N`.
    """
    if text.startswith(SYNTHETIC):
        law, *settings = text.removeprefix(SYNTHETIC).split(",")
        return synthetic_trace(law, **_settings(settings, text))
    name, *settings = text.split(",")
    found = _settings(settings, text)
    trace = read_trace(find_trace(Path(name)), found.get("model"))
    if not name.endswith(".pt"):
        return trace
    if "k" not in found:
        raise ProblemError(Problem("missing-value", "the recording does not give k", name, f"write {name},k=8"))
    return replace(trace, header={**trace.header, "k": found["k"]})


def _settings(parts: Sequence[str], where: str) -> dict[str, Any]:
    known = {
        **dict.fromkeys(
            ("experts", "k", "layers", "steps", "tokens", "groups", "group_limit", "hidden_size", "seed"), int
        ),
        "skew": float,
        "model": str,
    }
    found: dict[str, Any] = {}
    for part in parts:
        name, _, value = part.partition("=")
        try:
            found[name] = known[name](value)
        except (KeyError, ValueError):
            what = f"'{part}' is not a trace setting"
            raise ProblemError(
                Problem("bad-value", what, where, f"write NAME=VALUE, where NAME is one of {', '.join(known)}")
            ) from None
    wanted = {"k"} if parts and where.partition(",")[0].endswith(".pt") else None
    if not where.startswith(SYNTHETIC) and found.keys() - (wanted or {"model"}):
        what = f"{', '.join(sorted(found.keys() - (wanted or {'model'})))} cannot be set for a recorded trace"
        raise ProblemError(Problem("bad-value", what, where, "use only model=NAME, or k=N for an SGLang recording"))
    return found


def simulate_trace(
    trace: RoutingTrace, where: str, case: Case, *, gpus: Sequence[int], hidden_size: int | None
) -> Simulation:
    """What `simulation.json` holds."""
    width = width_of(trace, hidden_size, where)
    topology = case.topology.build()
    experts, k = trace.counts_SLE.shape[2], trace.header["k"]
    rows = simulate(
        trace,
        topology,
        case.placement.build(),
        gpus=gpus,
        hidden_size=width,
        tokens_per_gpu=case.tokens_per_gpu,
        fidelity=case.fidelity,
        deduplicate=case.deduplicate,
        steps=case.steps,
    )
    return Simulation(
        topology=case.topology.entry.component.name,
        hardware=getattr(case.topology.settings, "hardware", None),
        placement=case.placement.entry.component.name,
        fidelity=case.fidelity,
        deduplicate=case.deduplicate,
        trace=where,
        hidden_size=width,
        tokens_per_gpu=case.tokens_per_gpu,
        k=k,
        rows=[_row(row) for row in rows],
        experts=experts,
        notes=notes(rows, experts, k, topology, deduplicate=case.deduplicate),
    )


def draw_exchange(trace: RoutingTrace, where: str, case: Case, *, gpus: int, hidden_size: int | None) -> Picture | None:
    """One dispatch, message by message."""
    width = width_of(trace, hidden_size, where)
    topology, placement = case.topology.build(), case.placement.build()
    return picture(trace, topology, placement, gpus=gpus, hidden_size=width, tokens_per_gpu=case.tokens_per_gpu)


def width_of(trace: RoutingTrace, hidden_size: int | None, where: str) -> int:
    """Hidden size of a token on the network; also checks that the trace gives k."""
    width = hidden_size or trace.header.get("hidden_size")
    if width is None:
        raise ProblemError(
            Problem("missing-value", "the trace does not give the hidden size", where, "add --hidden-size")
        )
    if isinstance(trace.header.get("k"), list):
        what = f"its layers choose different numbers of experts per token, {trace.header['k']}"
        raise ProblemError(Problem("bad-trace", what, where, "profile a model whose layers share one k"))
    if "k" not in trace.header:
        what = "the trace does not give k (experts per token)"
        raise ProblemError(Problem("bad-trace", what, where, "record a trace that does, with `penstock profile RUN`"))
    return int(width)


def _row(row: SimulationRow) -> NetworkRow:
    return NetworkRow(
        gpus=row.gpus,
        nodes=row.nodes,
        dispatch_seconds=row.dispatch.mean,
        combine_seconds=row.combine.mean,
        mean_seconds=row.dispatch.mean + row.combine.mean,
        p50_seconds=row.both.p50,
        p99_seconds=row.both.p99,
        max_seconds=row.both.max,
        step_seconds=StepSeconds(row.step.mean, row.step.p50, row.step.p99, row.step.max, row.step.count),
        step_quantiles=list(row.step_quantiles),
        balanced_seconds=row.balanced_seconds,
        slowdown=row.slowdown,
        bytes_between_nodes=row.bytes_between_nodes,
        worst_layer=row.worst_layer,
        worst_layer_slowdown=row.worst_layer_slowdown,
        load=list(row.load_G),
        stragglers=[StragglingGpu(each.gpu, each.share, each.load) for each in row.stragglers],
        exchanges=row.both.count,
        copies=row.copies,
    )


def sweep_values(text: str) -> tuple[str, list[Any]]:
    """`name=a,b` or `name=[{use: ...}, ...]` as a name and its values."""
    name, given, values = text.partition("=")
    if not given or not values:
        what = f"'{text}' is not NAME=VALUE,VALUE"
        raise ProblemError(Problem("bad-value", what, "--sweep", "write it as in placement=contiguous,eplb"))
    listed = values if values.startswith("[") else f"[{values}]"
    return name.replace("-", "_"), cast("list[Any]", parse_value(listed, "--sweep")[0])
