"""The search: never beaten by trying everything, and clear where nothing fits."""

import itertools
from dataclasses import replace

import pytest

from penstock.hooks.problems import ProblemError
from penstock.netsim.accelerators import ACCELERATORS, Accelerator
from penstock.netsim.hardware import HARDWARE, Figure
from penstock.netsim.layout import RECOMPUTE, Job, Layout
from penstock.netsim.layout_search import Space, divisors, search
from penstock.netsim.model_shape import ModelShape, shape_named
from penstock.netsim.step_cost import Machine, cost_of

SMALL = ModelShape("small", 12, 1, 2048, 16, 4, 128, 4096, 8, 2, 1024, 1, 32_000, True, True, "a test")
JOB = Job(sequence=1024, batch_tokens=1024 * 64)


def machine(gigabytes: float) -> Machine:
    gpu = replace(ACCELERATORS["h800"], memory=Figure(gigabytes * 1e9, "a test"), reserve=Figure(0.0, "a test"))
    assert isinstance(gpu, Accelerator)
    return Machine(gpu, HARDWARE["h800"])


def everything(gpus):
    """Every layout of the search's space, by loops over all degrees."""
    space, numbers = Space(), range(1, gpus + 1)
    for tensor, pipeline, data in itertools.product(numbers, numbers, numbers):
        if tensor * pipeline * data != gpus or tensor > 8:
            continue
        for expert, (schedule, chunks), micro_batch in itertools.product(
            divisors(SMALL.experts), space.schedules, space.micro_batches
        ):
            for recompute, zero, offload in itertools.product(RECOMPUTE, space.zero, space.offload):
                layout = Layout(
                    tensor, pipeline, data, expert, 1, schedule, chunks, micro_batch, zero, recompute, offload
                )
                if not layout.problems(SMALL, JOB):
                    yield layout


@pytest.mark.parametrize("gpus", [1, 4, 6, 8, 16])
@pytest.mark.parametrize("gigabytes", [2.5, 4, 8, 80])
def test_trying_everything_finds_nothing_faster(gpus, gigabytes):
    costs = [cost_of(SMALL, layout, JOB, machine(gigabytes)) for layout in everything(gpus)]
    fitting: dict[tuple[int, int, int], float] = {}
    for cost in (cost for cost in costs if cost.memory.total <= gigabytes * 1e9):
        division = (cost.layout.tensor, cost.layout.pipeline, cost.layout.expert)
        fitting[division] = min(cost.parts.total, fitting.get(division, cost.parts.total))
    if not fitting:
        with pytest.raises(ProblemError, match="no layout of small"):
            search(SMALL, gpus, JOB, machine(gigabytes))
        return
    found = search(SMALL, gpus, JOB, machine(gigabytes))
    seconds = [cost.parts.total for cost in found.costs]
    assert seconds == pytest.approx(sorted(fitting.values())[:5])
    assert all(cost.memory.total <= gigabytes * 1e9 for cost in found.costs)


def test_less_memory_is_never_faster():
    seconds = [search(SMALL, 8, JOB, machine(gigabytes)).costs[0].parts.total for gigabytes in (3, 4, 6, 10, 80)]
    assert seconds == sorted(seconds, reverse=True)


def test_thousands_of_gpus_are_laid_out_and_all_of_them_used():
    found = search(shape_named("glm-4.6"), 8192, Job(), Machine(ACCELERATORS["h800"], HARDWARE["h800"]))
    assert found.layouts > 10_000
    assert {cost.layout.gpus for cost in found.costs} == {8192}
    assert found.costs[0].memory.total <= ACCELERATORS["h800"].memory.value


@pytest.mark.parametrize(
    ("gpus", "message"),
    [
        (0, "cannot search layouts of 0 GPUs"),
        (8193, "use 1 to 8192"),
        (16, r"no layout of glm-4\.6 fits: on 16 GPUs the smallest needs \d+ GiB of 80"),
        (8191, "cannot be laid out over 8191 GPUs"),
    ],
)
def test_what_cannot_be_searched_is_named(gpus, message):
    with pytest.raises(ProblemError, match=message):
        search(shape_named("glm-4.6"), gpus, Job(), Machine(ACCELERATORS["h800"], HARDWARE["h800"]))


def test_divisors_are_complete_and_ascending():
    assert divisors(12) == [1, 2, 3, 4, 6, 12]
