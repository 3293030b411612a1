"""A published plan for a 355B-A32B model on 8,192 H800: each figure next to ours, with the reason for any difference.

The plan is github.com/andreidhoang/stanford-ai, folder glm-4.6-training-pipeline, commit 522b36d: a reconstruction by
third parties, not the model authors' own account. It uses TP 8, PP 16 and EP 32, ZeRO 3 with the optimizer on the host,
recomputation of whole layers, and a batch of 4M tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from penstock.netsim.accelerators import ACCELERATORS
from penstock.netsim.hardware import HARDWARE
from penstock.netsim.layout import Job, Layout, stages_of
from penstock.netsim.model_shape import shape_named
from penstock.netsim.step_cost import SECONDS_PER_DAY, Cost, Machine, cost_of

GPUS, TOKENS, DAYS, RATE, PRICE = 8192, 23e12, 82, 2.8e6, 2.50
PRETRAINING = "docs/02_PRETRAINING.md"
CONFIG = "configs/training_8192_h800.yaml"
# The plan splits experts over tensor-parallel groups too, and calls 8192 / (8 x 16 x 32) = 2 its data parallelism: two
# copies of every expert, 64 replicas of the rest. It does not specify the chunks of "interleaved 1F1B"; two is minimal.
LAYOUT = Layout(
    tensor=8,
    pipeline=16,
    data=64,
    expert=32,
    expert_tensor=8,
    schedule="interleaved",
    chunks=2,
    zero=3,
    recompute="full",
    offload=True,
)
JOB = Job(sequence=4096, batch_tokens=2**22, tokens=TOKENS)


@dataclass(frozen=True, slots=True)
class PlanFigure:
    """A figure of the plan, its source file, our value, and the reason for the difference.

    Our value follows from arithmetic or, if `modelled`, from a model or a choice that others may make differently.
    """

    what: str
    unit: str
    published: float
    ours: float
    where: str
    reason: str
    tolerance: float = 0.1
    modelled: bool = False

    @property
    def agrees(self) -> bool:
        """Whether both values agree within the tolerance: 10 %, about the plan's rounding, and 0 for counts."""
        return abs(self.published - self.ours) <= self.tolerance * abs(self.ours)

    @property
    def verdict(self) -> str:
        """`agrees`; `cannot be` if arithmetic or the plan's own figures contradict it; `differs` from our model."""
        if self.agrees:
            return "agrees"
        return "differs" if self.modelled else "cannot be"


def plan_cost() -> Cost:
    """The cost of the plan's layout by this package's model."""
    return cost_of(shape_named("glm-4.6"), LAYOUT, JOB, _machine())


def plan_figures() -> list[PlanFigure]:
    """Every figure that can be checked by arithmetic or by the model."""
    return [*_operations(), *_speed(), *_layout(), *_memory(), *_money()]


def _machine() -> Machine:
    return Machine(ACCELERATORS["h800"], HARDWARE["h800"])


def _operations() -> Iterator[PlanFigure]:
    shape, peak = shape_named("glm-4.6"), _machine().accelerator.peak.value
    each = shape.token_operations(JOB.sequence)
    yield PlanFigure(
        "parameters",
        "billion",
        355,
        shape.parameters / 1e9,
        "README.md",
        "the multi-token prediction layer is left out",
    )
    yield PlanFigure(
        "operations per token",
        "GFLOP",
        192,
        each / 1e9,
        PRETRAINING,
        "six operations per weight are right for forward and backward; attention scores of 4,096 tokens add a seventh",
        modelled=True,
    )
    yield PlanFigure(
        "operations per token, 'with backward and routing'",
        "GFLOP",
        633.6,
        each / 1e9,
        PRETRAINING,
        "takes the six per weight, which include backward, for forward only and triples them",
    )
    yield PlanFigure(
        "total operations",
        "1e24",
        0.0046,
        TOKENS * each / 1e24,
        PRETRAINING,
        "4.6 'zettaFLOP' are 4.6e21; 22e12 tokens x 210 GFLOP are 4.6e24, a thousand times as many",
    )
    yield PlanFigure(
        "BF16 peak of a GPU",
        "TFLOPS",
        1979,
        peak / 1e12,
        PRETRAINING,
        "the data sheet's figure for 2:4 sparse weights; dense matmuls have half",
    )


def _speed() -> Iterator[PlanFigure]:
    cost, machine = plan_cost(), _machine()
    peak, each = machine.accelerator.peak.value, shape_named("glm-4.6").token_operations(JOB.sequence)
    implied = RATE * each / GPUS
    at_61 = TOKENS * each / (0.61 * peak * GPUS) / SECONDS_PER_DAY
    yield PlanFigure(
        "tokens per second",
        "million",
        RATE / 1e6,
        cost.tokens_per_second / 1e6,
        CONFIG,
        "16 micro-batches on 16 stages leave them idle a third of the time, and splitting experts of width 1,536 eight "
        "ways sends every token eight times over NVLink",
        modelled=True,
    )
    yield PlanFigure(
        "days for 23T tokens",
        "days",
        DAYS,
        TOKENS / RATE / SECONDS_PER_DAY,
        CONFIG,
        "by its own rate of 2.8M tokens/s; 82 days take 3.2M",
    )
    yield PlanFigure(
        "model FLOPs utilisation",
        "%",
        61,
        100 * implied / peak,
        CONFIG,
        f"by its own rate; at 61 % the run would end after {at_61:.0f} days",
    )
    yield PlanFigure(
        "speed of a GPU",
        "TFLOPS",
        700,
        implied / 1e12,
        CONFIG,
        "by its own rate; single large matmuls reach 700, but no training does",
    )
    yield PlanFigure(
        "sustained speed of a GPU",
        "TFLOPS",
        900,
        implied / 1e12,
        PRETRAINING,
        "91 % of the dense peak; the same page says 45 % of a peak of 16.2 exaFLOPS, which is 7.3, not 0.9 x 8,192",
    )


def _layout() -> Iterator[PlanFigure]:
    cost, network = plan_cost(), HARDWARE["h800"]
    stages = stages_of(shape_named("glm-4.6"), LAYOUT.pipeline, LAYOUT.chunks)
    plain = replace(LAYOUT, schedule="1f1b", chunks=1)
    fill = LAYOUT.pipeline - 1
    yield PlanFigure(
        "data parallelism",
        "copies of every expert",
        4,
        LAYOUT.expert_replicas,
        CONFIG,
        "8 x 16 x 32 x 4 are 16,384 GPUs; its own comment says 2",
    )
    yield PlanFigure(
        "layers of all stages",
        "layers",
        16 * 6,
        sum(stage.dense_layers + stage.moe_layers for stage in stages),
        PRETRAINING,
        "16 stages of 6 are more layers than the model has; the first and last stages have 5 and 3, the last also has "
        "the head",
        tolerance=0.0,
    )
    yield PlanFigure(
        "idle share of 1F1B",
        "%",
        12,
        100 * fill / (plain.micro_batches(JOB) + fill),
        PRETRAINING,
        "a batch of 4M tokens is 16 sequences of 4,096 for each of 64 replicas; 12 % needs 110, and with five chunks "
        "per stage, the most that 92 layers allow, it is 16 %",
    )
    yield PlanFigure(
        "tokens per step",
        "million",
        4.096,
        4 * 32 * 4096 * LAYOUT.data / 1e6,
        CONFIG,
        "micro-batches of 4 sequences, 32 of them in turn, for each of 64 replicas",
    )
    yield PlanFigure(
        "NVLink of a GPU",
        "GB/s per direction",
        450,
        network.inside_bandwidth.value / 1e9,
        CONFIG,
        "900 GB/s both ways is an H100's; an H800 has 400, of which DeepEP reaches 160 per direction",
    )
    yield PlanFigure(
        "share of a step that is communication",
        "%",
        25,
        100 * (cost.parts.tensor + cost.parts.expert + cost.parts.data) / cost.parts.total,
        "PROGRESS_REPORT.md",
        "tensor parallelism 8 at 160 GB/s and experts split eight ways, neither hidden behind other work",
        modelled=True,
    )


def _memory() -> Iterator[PlanFigure]:
    memory, parameters = plan_cost().memory, shape_named("glm-4.6").parameters
    yield PlanFigure(
        "weights per GPU",
        "MB",
        87,
        parameters * 2 / GPUS / 1e6,
        PRETRAINING,
        f"right on average; it leaves out the layers in use, which ZeRO 3 gathers: {memory.gathered / 1e6:.0f} MB",
    )
    yield PlanFigure(
        "total optimizer state",
        "GB",
        120,
        parameters * 8 / 1e9,
        PRETRAINING,
        "an FP32 copy and one FP32 moment (Muon) are 8 bytes per parameter",
    )
    yield PlanFigure(
        "gradients per GPU",
        "MB",
        87,
        parameters * 4 / GPUS / 1e6,
        PRETRAINING,
        "right for BF16, but gradients of many micro-batches are accumulated in FP32",
        modelled=True,
    )
    yield PlanFigure(
        "activations per GPU",
        "GB",
        40,
        memory.activations / 1e9,
        CONFIG,
        "with every layer recomputed, only layer inputs are kept, split over 8 GPUs; 4 sequences at a time are 2.8 GB",
        modelled=True,
    )
    yield PlanFigure(
        "peak memory of a GPU",
        "GB",
        208,
        memory.total / 1e9,
        PRETRAINING,
        "an H800 has 80 GB; the same page adds up to 40 GB elsewhere",
    )


def _money() -> Iterator[PlanFigure]:
    hours = DAYS * 24 * GPUS
    cost = plan_cost()
    yield PlanFigure(
        "GPU hours of 92 days",
        "million",
        0.753664,
        92 * 24 * GPUS / 1e6,
        PRETRAINING,
        "92 x 8,192 are GPU days; the factor of 24 is missing, as in every row of the README's table",
    )
    yield PlanFigure("GPU hours of 82 days", "million", 16.515072, hours / 1e6, CONFIG, "84 days were multiplied")
    yield PlanFigure(
        "cost of 82 days",
        "million $",
        27.7,
        hours * PRICE / 1e6,
        PRETRAINING,
        "82 days x 8,192 GPUs at $2.50 per hour; $27.7M does not follow from any of the plan's own hours",
    )
    yield PlanFigure(
        "cost of 82 days, config",
        "million $",
        41.28768,
        hours * PRICE / 1e6,
        CONFIG,
        "right, except for the two extra days of its hours",
    )
    yield PlanFigure(
        "cost of the layout",
        "million $",
        41.28768,
        cost.money(PRICE) / 1e6,
        CONFIG,
        f"at the rate of this model, {cost.days:.0f} days for 23T tokens",
        modelled=True,
    )
