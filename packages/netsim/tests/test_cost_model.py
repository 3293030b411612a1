"""The whole-step model: parameters are conserved, memory and time move the way they must, known figures come out."""

import itertools
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from penstock.hooks.problems import ProblemError
from penstock.netsim.accelerators import ACCELERATORS
from penstock.netsim.hardware import HARDWARE
from penstock.netsim.layout import Job, Layout, stage_kinds, stages_of
from penstock.netsim.memory import gpu_memory, share_of
from penstock.netsim.model_shape import SHAPES, ModelShape, shape_named
from penstock.netsim.pipeline import SCHEDULES
from penstock.netsim.reference_plan import plan_cost, plan_figures
from penstock.netsim.step_cost import Machine, cost_of, muon_operations, nodes_reached

MACHINE = Machine(ACCELERATORS["h800"], HARDWARE["h800"])
SMALL = ModelShape("small", 12, 1, 256, 8, 4, 32, 512, 8, 2, 128, 1, 1000, True, True, "a test")
JOB = Job(sequence=128, batch_tokens=128 * 64, tokens=1e9)


@st.composite
def layouts(draw):
    """Layouts of `SMALL` that can be run."""
    schedule = draw(st.sampled_from(SCHEDULES))
    layout = Layout(
        tensor=draw(st.sampled_from([1, 2, 4])),
        pipeline=draw(st.sampled_from([1, 2, 4])),
        data=draw(st.sampled_from([1, 2, 4, 8])),
        expert=draw(st.sampled_from([1, 2, 4, 8])),
        expert_tensor=draw(st.sampled_from([1, 2])),
        schedule=schedule,
        chunks=draw(st.sampled_from([2, 3])) if schedule == "interleaved" else 1,
        micro_batch=draw(st.sampled_from([1, 2])),
        zero=draw(st.integers(0, 3)),
        recompute=draw(st.sampled_from(["none", "selective", "full"])),
        offload=draw(st.booleans()),
    )
    assume(not layout.problems(SMALL, JOB))
    return layout


def kinds_of(layout):
    return stage_kinds(stages_of(SMALL, layout.pipeline, layout.chunks))


@pytest.mark.parametrize(
    ("name", "parameters", "active"), [("glm-4.6", 352_797_814_784, 32.86), ("glm-4.5-air", 106_852_245_504, 12.80)]
)
def test_shapes_have_the_parameters_of_the_published_checkpoints(name, parameters, active):
    assert shape_named(name).parameters == parameters
    assert shape_named(name).active_parameters / 1e9 == pytest.approx(active, abs=0.005)


@given(st.sampled_from([SMALL, *SHAPES.values()]), st.integers(1, 12), st.integers(1, 4))
def test_every_layer_is_on_one_stage_and_dense_ones_come_first(shape, pipeline, chunks):
    assume(pipeline * chunks <= shape.layers)
    stages = stages_of(shape, pipeline, chunks)
    assert len(stages) == pipeline
    assert sum(stage.dense_layers for stage in stages) == shape.dense_layers
    assert sum(stage.moe_layers for stage in stages) == shape.moe_layers
    assert [stage.embedding for stage in stages] == [True] + [False] * (pipeline - 1)
    assert [stage.head for stage in stages] == [False] * (pipeline - 1) + [True]
    if chunks == 1 and shape.dense_layers:
        assert stages[0].dense_layers > 0


@settings(max_examples=100, deadline=None)
@given(layouts())
def test_parameters_are_conserved_over_ranks(layout):
    """What all GPUs hold, every copy but one taken away, is the model."""
    whole = 0.0
    for stage in stages_of(SMALL, layout.pipeline, layout.chunks):
        share = share_of(SMALL, layout, stage)
        whole += (share.dense - share.vectors) * layout.tensor + share.vectors
        whole += share.experts * layout.expert * layout.expert_tensor
    assert whole == pytest.approx(SMALL.parameters)
    group = layout.expert * layout.expert_tensor * layout.expert_replicas
    assert group == layout.tensor * layout.data


@settings(max_examples=100, deadline=None)
@given(layouts())
def test_memory_never_grows_with_the_zero_stage_recomputation_or_offload(layout):
    def memory(**changes):
        return gpu_memory(SMALL, replace(layout, **changes), JOB, kinds_of(layout))

    states = [memory(zero=zero) for zero in range(4)]
    # ZeRO 3 gathers the layers in use, which outweighs what it saves where a stage has few.
    kept = [each.total - each.gathered for each in states]
    assert all(after <= before * (1 + 1e-12) for before, after in itertools.pairwise(kept))
    assert memory(recompute="none").activations >= memory(recompute="selective").activations
    assert memory(offload=True).total <= memory(offload=False).total


@settings(max_examples=100, deadline=None)
@given(layouts())
def test_one_stage_of_each_kind_has_the_fullest_gpu_and_the_pace(layout):
    every = tuple(enumerate(stages_of(SMALL, layout.pipeline, layout.chunks)))
    assert gpu_memory(SMALL, layout, JOB, kinds_of(layout)) == gpu_memory(SMALL, layout, JOB, every)


@settings(max_examples=100, deadline=None)
@given(layouts())
def test_the_parts_add_up_to_the_step_and_none_is_negative(layout):
    cost = cost_of(SMALL, layout, JOB, MACHINE)
    parts = [getattr(cost.parts, name) for name in type(cost.parts).__slots__]
    assert min(parts) >= 0
    assert sum(parts) == pytest.approx(JOB.batch_tokens / cost.tokens_per_second)
    assert 0 < cost.mfu < 1
    assert cost.money(2.0) == pytest.approx(2 * layout.gpus * JOB.tokens / cost.tokens_per_second / 3600)
    assert (cost.parts.recompute > 0) == (layout.recompute == "full")
    assert (cost.parts.tensor > 0) == (layout.tensor > 1)


def test_without_communication_or_bubble_the_step_is_its_work():
    """One GPU: operations over the speed of products, activations over that of the memory, and the optimizer."""
    cost = cost_of(SMALL, Layout(recompute="none"), replace(JOB, optimizer="adamw"), MACHINE)
    gpu = MACHINE.accelerator
    experts = SMALL.moe_layers * SMALL.k * SMALL.one_expert
    vectors = SMALL.layers * SMALL.vectors + SMALL.hidden
    weights = SMALL.active_parameters - vectors - experts
    scores = SMALL.layers * SMALL.score_operations(JOB.sequence)
    read = SMALL.moe_layers * SMALL.experts * SMALL.one_expert * 2 / gpu.memory_bandwidth.value
    tokens = JOB.batch_tokens
    expected = 3 * tokens * (2 * weights + scores) / (gpu.peak.value * gpu.matmul_share.value)
    products = 2 * experts * JOB.sequence / (gpu.peak.value * gpu.expert_share.value)
    expected += 3 * tokens / JOB.sequence * max(products, read)
    assert cost.parts.compute == pytest.approx(expected)
    # With nothing recomputed the activations held are those touched, five times: two forward and three backward.
    touched = 5 * cost.memory.activations * tokens / JOB.sequence / gpu.memory_bandwidth.value
    assert cost.parts.elementwise == pytest.approx(touched)
    assert cost.parts.total == pytest.approx(cost.parts.compute + touched + cost.parts.optimizer)


def test_imbalance_costs_time_and_overlap_hides_the_exchange():
    layout = Layout(tensor=2, pipeline=16, data=32, expert=32)
    shape, even = shape_named("glm-4.6"), Job()
    base = cost_of(shape, layout, even, MACHINE)
    skewed = cost_of(shape, layout, replace(even, imbalance=1.5), MACHINE)
    hidden = cost_of(shape, layout, replace(even, expert_overlap=1.0), MACHINE)
    assert skewed.parts.expert == pytest.approx(1.5 * base.parts.expert, rel=0.01)
    assert skewed.parts.compute > base.parts.compute
    assert hidden.parts.expert == 0.0
    assert hidden.parts.compute == base.parts.compute


def test_tokens_reach_as_many_nodes_as_choices_at_random_do():
    """Against choosing 8 of 160 experts by hand: the mean over 4 nodes, and both ends."""
    import numpy as np

    shape, rng = shape_named("glm-4.6"), np.random.default_rng(0)
    reached = [len(set(rng.choice(160, 8, replace=False) // 40)) for _ in range(4000)]
    assert nodes_reached(shape, 4) == pytest.approx(np.mean(reached), abs=0.03)
    assert nodes_reached(shape, 1) == 1
    assert nodes_reached(shape, 160) == pytest.approx(8)


def test_muon_costs_little_beside_the_step():
    """Newton-Schulz of one 256 x 128 matrix is two 128 x 256 x 128 products and a 128 cube, times five."""
    one = replace(SMALL, layers=1, dense_layers=0, experts=1, shared_experts=0, heads=8, kv_heads=8)
    square = 5 * (4 * 256**2 * 256 + 2 * 256**3)
    assert muon_operations(one) == 4 * square + 3 * 5 * (4 * 128**2 * 256 + 2 * 128**3)


QWEN = ModelShape("qwen3-235b", 94, 0, 4096, 64, 4, 128, 12_288, 128, 8, 1536, 0, 151_936, False, True, "config.json")
GPT_OSS = ModelShape("gpt-oss-120b", 36, 0, 2880, 64, 8, 64, 2880, 128, 4, 2880, 0, 201_088, True, False, "config.json")


@pytest.mark.parametrize(
    ("shape", "hardware", "layout", "sequences", "measured", "most"),
    [
        (QWEN, "h100", Layout(2, 8, 16, 32, schedule="interleaved", chunks=4), 8192, 252, 1.3),
        (QWEN, "gb200-nvl72", Layout(1, 8, 32, 32, schedule="interleaved", chunks=3), 8192, 728, 1.4),
        (GPT_OSS, "h100", Layout(1, 4, 16, 8), 1280, 163, 2.7),
        (GPT_OSS, "gb200-nvl72", Layout(1, 1, 64, 64, micro_batch=4), 1280, 451, 2.6),
    ],
)
def test_no_published_training_run_is_faster_than_the_model(shape, hardware, layout, sequences, measured, most):
    """TFLOPS a GPU of NVIDIA Megatron Bridge, releases 25.11 to 26.04, balanced by force; the first in FP8, the others
    in BF16. Nothing of the model was fitted to them: it leaves out what software loses, and is the bound."""
    job = Job(batch_tokens=sequences * 4096, optimizer="adamw")
    machine = Machine(ACCELERATORS[hardware], HARDWARE[hardware])
    predicted = cost_of(shape, layout, job, machine).mfu * machine.accelerator.peak.value / 1e12
    assert measured < predicted < most * measured


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"expert": 48}, "160 experts are not divisible by expert parallelism 48, use a divisor of 160"),
        ({"tensor": 5, "data": 32}, "96 heads are not divisible by tensor parallelism 5"),
        ({"expert": 160, "data": 64}, "groups of 160 GPUs"),
        ({"pipeline": 100}, "100 stages of 1 chunks are more than 92 layers"),
        ({"chunks": 2}, "2 chunks per stage do not fit the schedule 1f1b"),
        ({"schedule": "interleaved"}, "1 chunks per stage do not fit the schedule interleaved"),
        ({"data": 24}, "a step of 4096 sequences is not divisible by 24 replicas"),
        (
            {"schedule": "interleaved", "chunks": 2, "data": 512, "pipeline": 16},
            "8 micro-batches are not a multiple of 16",
        ),
        ({"schedule": "zb-h2", "data": 256, "pipeline": 16}, "16 micro-batches are too few for zb-h2 on 16 stages"),
        ({"expert_tensor": 7, "data": 7}, "the expert width 1536 is not divisible by expert tensor parallelism 7"),
        ({"zero": 4}, "unknown ZeRO stage 4"),
        ({"micro_batch": 0}, "below 1"),
    ],
)
def test_layouts_that_cannot_be_run_say_why(changes, message):
    with pytest.raises(ProblemError, match=message):
        cost_of(shape_named("glm-4.6"), Layout(**{"data": 64, **changes}), Job(), MACHINE)


def test_all_that_is_wrong_is_said_at_once():
    with pytest.raises(ProblemError) as caught:
        cost_of(shape_named("glm-4.6"), Layout(expert=48, data=24, zero=7), Job(), MACHINE)
    assert len(caught.value.problems) == 4


def test_an_unknown_model_gets_a_suggestion():
    with pytest.raises(ProblemError, match=r"did you mean 'glm-4\.6'"):
        shape_named("glm-46")


def test_every_figure_of_a_machine_names_its_source():
    for gpu in ACCELERATORS.values():
        assert gpu.name in HARDWARE
        for figure in (gpu.peak, gpu.memory, gpu.memory_bandwidth, gpu.host_bandwidth, gpu.matmul_share, gpu.reserve):
            assert figure.value > 0
            assert len(figure.source) > 5


def test_the_published_plan_is_contradicted_where_it_contradicts_itself():
    figures = {figure.what: figure for figure in plan_figures()}
    verdicts = {what: figure.verdict for what, figure in figures.items()}
    assert verdicts["weights per GPU"] == verdicts["parameters"] == "agrees"
    assert verdicts["tokens per second"] == verdicts["activations per GPU"] == "differs"
    for what in ("total operations", "model FLOPs utilisation", "data parallelism", "layers of all stages"):
        assert verdicts[what] == "cannot be"
    assert figures["days for 23T tokens"].ours == pytest.approx(23e12 / 2.8e6 / 86_400)
    assert figures["GPU hours of 92 days"].ours == pytest.approx(24 * figures["GPU hours of 92 days"].published)
    assert all(figure.reason and figure.where for figure in figures.values())


def test_the_plan_itself_fits_in_memory_and_uses_all_its_gpus():
    cost = plan_cost()
    assert cost.layout.gpus == 8192
    assert cost.micro_batches == 16
    assert cost.memory.total < MACHINE.accelerator.memory.value
