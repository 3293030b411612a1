"""`penstock simulate cost`: the fastest layouts of a training step, or a given one, and the cost of the run."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

import click

from penstock.cli import output
from penstock.hooks.document import parse_value
from penstock.hooks.problems import Problem, ProblemError, did_you_mean
from penstock.run.records.record import ABSENT, Record

if TYPE_CHECKING:
    from penstock.netsim.accelerators import Accelerator
    from penstock.netsim.layout import Job, Layout
    from penstock.netsim.step_cost import Cost, Parts

GIB = 2**30


@dataclass(frozen=True, slots=True)
class LayoutCost(Record):
    """Cost of a layout: seconds of a step by part, bytes on the fullest GPU by part, and totals for the run."""

    layout: Layout
    micro_batches: int
    step_seconds: float
    seconds: Parts
    memory: dict[str, float]
    tokens_per_second: float
    mfu: float
    days: float
    gpu_hours: float
    dollars: float | None


@dataclass(frozen=True, slots=True)
class AssumedFigure(Record):
    """A figure of the machine used for the costs, with its source."""

    figure: str
    value: float
    source: str
    measured: bool


@dataclass(frozen=True, slots=True)
class PlannedFigure(Record):
    """A figure of a published plan next to ours."""

    what: str
    unit: str
    published: float
    ours: float
    where: str
    reason: str
    tolerance: float
    modelled: bool
    verdict: str


@dataclass(frozen=True, slots=True)
class CostEstimate(Record):
    """The layouts of a training step, the fastest first."""

    model: str
    parameters: int
    active_parameters: int
    hardware: str
    memory_bytes: float
    gpus: int
    job: Job
    dollars_per_gpu_hour: float | None
    layouts: list[LayoutCost]
    assumed: list[AssumedFigure]
    reference_plan: list[PlannedFigure] | None = field(default=None, metadata=ABSENT)


@click.command()
@click.argument("preset", metavar="PRESET")
@click.option("--gpus", required=True, type=int, help="Number of GPUs, up to 8,192.")
@click.option("--hardware", default="h800", show_default=True, help="GPU and network type, such as h800, h100 or a100.")
@click.option("--tokens", default=23e12, show_default="23e12", type=float, help="Training tokens of the whole run.")
@click.option(
    "--batch-tokens", default=2**24, show_default=True, type=click.IntRange(min=1), help="Tokens per optimizer step."
)
@click.option("--sequence", default=4096, show_default=True, type=click.IntRange(min=1), help="Tokens per sequence.")
@click.option(
    "--optimizer",
    default="muon",
    show_default=True,
    type=click.Choice(["muon", "adamw"]),
    help="Optimizer, which decides the memory of its state: one value per parameter (muon) or two (adamw).",
)
@click.option(
    "--imbalance",
    default=1.0,
    show_default=True,
    type=click.FloatRange(min=1),
    help="Load of the busiest GPU over the mean.",
)
@click.option(
    "--overlap",
    default=0.0,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="Fraction of dispatch and combine time overlapped with compute.",
)
@click.option("--price", type=click.FloatRange(min=0), help="Dollars per GPU hour (default: the hardware's, if known).")
@click.option(
    "--layout", help="Cost this layout instead of searching, such as '{tensor: 8, pipeline: 16, data: 64, expert: 32}'."
)
@click.option(
    "--reference", is_flag=True, help="Also compare a published plan for 355B-A32B on 8,192 H800 GPUs with ours."
)
@output.json_option
def cost(
    preset: str,
    gpus: int,
    hardware: str,
    tokens: float,
    batch_tokens: int,
    sequence: int,
    optimizer: Any,
    imbalance: float,
    overlap: float,
    price: float | None,
    layout: str | None,
    reference: bool,
    as_json: bool,
) -> dict[str, Any]:
    """Find the fastest layouts of PRESET (glm-4.6, glm-4.5-air) that fit in memory: time, MFU, days and money."""
    from penstock.netsim.accelerators import ACCELERATORS
    from penstock.netsim.hardware import HARDWARE
    from penstock.netsim.layout import Job
    from penstock.netsim.layout_search import search
    from penstock.netsim.model_shape import shape_named
    from penstock.netsim.step_cost import Machine, cost_of

    if hardware not in ACCELERATORS:
        what = f"unknown hardware '{hardware}'"
        raise ProblemError(Problem("unknown-hardware", what, "--hardware", did_you_mean(hardware, ACCELERATORS)))
    machine = Machine(ACCELERATORS[hardware], HARDWARE[hardware])
    shape = shape_named(preset)
    job = Job(sequence, batch_tokens, tokens, optimizer, imbalance, overlap)
    if layout is None:
        costs = search(shape, gpus, job, machine).costs
    else:
        costs = (cost_of(shape, _layout(layout, gpus), job, machine),)
    usual = machine.accelerator.price
    per_hour = price if price is not None else usual.value if usual else None
    result = CostEstimate(
        model=shape.name,
        parameters=shape.parameters,
        active_parameters=shape.active_parameters,
        hardware=hardware,
        memory_bytes=machine.accelerator.memory.value,
        gpus=gpus,
        job=job,
        dollars_per_gpu_hour=per_hour,
        layouts=[_layout_cost(each, per_hour) for each in costs],
        assumed=_assumed(machine.accelerator),
        reference_plan=_reference() if reference else None,
    )
    output.print_result(result, as_json, lambda: _text(result))
    return result.to_json()


def _layout(text: str, gpus: int) -> Layout:
    from pydantic import TypeAdapter, ValidationError

    from penstock.netsim.layout import Layout

    given: Any = parse_value(text, "--layout")[0]
    names = [field.name for field in fields(Layout)]
    if not isinstance(given, dict):
        what = f"'{text}' is not a layout"
        raise ProblemError(Problem("bad-value", what, "--layout", "write it as '{tensor: 8, pipeline: 16}'"))
    if unknown := [str(name) for name in given if name not in names]:
        raise ProblemError(
            [
                Problem("unknown-field", f"unknown field '{name}'", "--layout", did_you_mean(name, names))
                for name in unknown
            ]
        )
    try:
        layout = TypeAdapter(Layout).validate_python(given)
    except ValidationError as error:
        raise ProblemError(
            [
                Problem("bad-value", f"{each['loc'][0]}: {each['msg'].lower()}", "--layout", "correct it")
                for each in error.errors()
            ]
        ) from None
    if layout.gpus != gpus:
        what = f"tensor x pipeline x data is {layout.gpus}, but --gpus is {gpus}"
        raise ProblemError(Problem("bad-layout", what, "--layout", "make the two equal"))
    return layout


def _layout_cost(each: Cost, per_hour: float | None) -> LayoutCost:
    return LayoutCost(
        layout=each.layout,
        micro_batches=each.micro_batches,
        step_seconds=each.parts.total,
        seconds=each.parts,
        memory={**asdict(each.memory), "total": each.memory.total},
        tokens_per_second=each.tokens_per_second,
        mfu=each.mfu,
        days=each.days,
        gpu_hours=each.gpu_hours,
        dollars=None if per_hour is None else each.money(per_hour),
    )


def _assumed(accelerator: Accelerator) -> list[AssumedFigure]:
    """The machine's figures, unmeasured ones first."""
    figures = {each.name: getattr(accelerator, each.name) for each in fields(accelerator) if each.name != "name"}
    rows = [AssumedFigure(name, **asdict(figure)) for name, figure in figures.items() if figure is not None]
    return sorted(rows, key=lambda row: row.measured)


def _reference() -> list[PlannedFigure]:
    from penstock.netsim.reference_plan import plan_figures

    return [PlannedFigure(**asdict(figure), verdict=figure.verdict) for figure in plan_figures()]


def _text(result: CostEstimate) -> str:
    job = result.job
    head = (
        f"{result.model}: {result.parameters / 1e9:.1f}B parameters, {result.active_parameters / 1e9:.1f}B "
        f"active per token; {result.gpus:,} {result.hardware}, {job.batch_tokens / 1e6:.1f}M tokens per step, "
        f"{job.tokens / 1e12:g}T tokens in total"
    )
    text = f"{head}\n\n{output.table(_COLUMNS, map(_cells, result.layouts))}"
    first = result.layouts[0]
    parts = [
        (name, f"{seconds:.3f}", f"{100 * seconds / first.step_seconds:.1f}%")
        for name, seconds in asdict(first.seconds).items()
    ]
    held = [(name, f"{size / GIB:.1f}") for name, size in first.memory.items()]
    text += f"\n\n{output.table(('first: part', 'seconds', 'share'), parts)}"
    text += f"\n\n{output.table(('first: memory', 'GiB'), held)}"
    text += "\n\nTimes are a lower bound: published runs take 1.2 to 2.5 times as long (see penstock-netsim's README)."
    if first.memory["total"] > result.memory_bytes:
        text += f"\nThis does not fit: a GPU has {result.memory_bytes / GIB:.0f} GiB."
    if result.reference_plan is not None:
        text += f"\n\n{_reference_text(result.reference_plan)}"
    return text


_COLUMNS = (
    "TP",
    "PP",
    "DP",
    "EP",
    "schedule",
    "micro-batch",
    "ZeRO",
    "recompute",
    "offload",
    "step s",
    "bubble",
    "GiB",
    "MFU",
    "M tokens/s",
    "days",
    "M$",
)


def _cells(row: LayoutCost) -> tuple[Any, ...]:
    layout = row.layout
    chunks = f" x{layout.chunks}" if layout.chunks > 1 else ""
    experts = f"{layout.expert}x{layout.expert_tensor}" if layout.expert_tensor > 1 else layout.expert
    return (
        layout.tensor,
        layout.pipeline,
        layout.data,
        experts,
        f"{layout.schedule}{chunks}",
        layout.micro_batch,
        layout.zero,
        layout.recompute,
        "yes" if layout.offload else "no",
        f"{row.step_seconds:.2f}",
        f"{100 * row.seconds.bubble / row.step_seconds:.0f}%",
        f"{row.memory['total'] / GIB:.1f}",
        f"{100 * row.mfu:.1f}%",
        f"{row.tokens_per_second / 1e6:.2f}",
        f"{row.days:.1f}",
        "" if row.dollars is None else f"{row.dollars / 1e6:.1f}",
    )


def _reference_text(figures: list[PlannedFigure]) -> str:
    rows = [
        (row.what, f"{row.published:,.4g}", f"{row.ours:,.4g}", row.unit, row.verdict, row.reason) for row in figures
    ]
    return output.table(("the published plan", "published", "ours", "unit", "", "why"), rows)
