"""Laws of placements: `Placement`, from the load of each expert to the GPU that holds it.

Shape suffix: E experts.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.conformance.law import Subject, expect, law, laws_in
from penstock.hooks.problems import ProblemError

PLACEMENT = "placement"
SIZES = [(8, 2), (16, 4), (160, 8)]  # experts, GPUs


@law(PLACEMENT)
def every_expert_has_a_gpu(subject: Subject) -> None:
    """The result is a numpy array with one entry per expert.

    Return `gpu_E`, not a list of experts per GPU.
    """
    for experts, gpus in SIZES:
        gpu_E: Any = subject.build().place(_load(experts), gpus)
        good = issubclass(type(gpu_E), np.ndarray) and np.shape(gpu_E) == (experts,)
        expect(good, f"{experts} experts get {type(gpu_E).__name__} of shape {np.shape(gpu_E)}")


@law(PLACEMENT, needs=(every_expert_has_a_gpu,))
def gpus_are_numbered_in_64_bits(subject: Subject) -> None:
    """The result is int64.

    It is used as an index and written to files: `astype(np.int64)` at the end.
    """
    for experts, gpus in SIZES:
        dtype = subject.build().place(_load(experts), gpus).dtype
        expect(dtype == np.int64, f"the answer is {dtype}")


@law(PLACEMENT, needs=(every_expert_has_a_gpu,))
def every_gpu_exists(subject: Subject) -> None:
    """GPUs are 0 to `gpus - 1`.

    Count from 0, and check experts left over by a division.
    """
    for experts, gpus in SIZES:
        gpu_E = subject.build().place(_load(experts), gpus)
        expect(gpu_E.min() >= 0 and gpu_E.max() < gpus, f"of {gpus} GPUs, {gpu_E.min()} to {gpu_E.max()} are used")


@law(PLACEMENT, needs=(every_gpu_exists,))
def one_gpu_holds_all(subject: Subject) -> None:
    """On one GPU every expert is on it.

    Check logarithms and differences of the number of GPUs.
    """
    gpu_E = subject.build().place(_load(8), 1)
    expect(np.array_equal(gpu_E, np.zeros(8)), f"the experts are on {gpu_E}")


@law(PLACEMENT, needs=(every_gpu_exists,))
def the_load_is_left_alone(subject: Subject) -> None:
    """The given load is not changed.

    Copy it before sorting or dividing in place.
    """
    for experts, gpus in SIZES:
        load_E = _load(experts)
        subject.build().place(load_E, gpus)
        expect(np.array_equal(load_E, _load(experts)), "the load has other values after the call")


@law(PLACEMENT, needs=(the_load_is_left_alone,))
def the_choice_depends_on_the_load_alone(subject: Subject) -> None:
    """The same load gives the same placement, regardless of earlier calls and for a new object too.

    Ranks must agree: break ties by expert index, and do not draw random numbers.
    """
    placement = subject.build()
    loads = [(load_E, gpus) for experts, gpus in SIZES for load_E in (_load(experts), np.ones(experts))]
    forward = [placement.place(load_E, gpus).tolist() for load_E, gpus in loads]
    backward = [placement.place(load_E, gpus).tolist() for load_E, gpus in loads[::-1]][::-1]
    alone = [subject.build().place(load_E, gpus).tolist() for load_E, gpus in loads]
    expect(forward == backward, "asked in another order, the choice is another")
    expect(forward == alone, "asked of new objects, the choice is another")


@law(PLACEMENT, needs=(the_choice_depends_on_the_load_alone,))
def the_answer_belongs_to_the_caller(subject: Subject) -> None:
    """Writing to a result does not change the next one.

    Return a copy of cached results.
    """
    placement = subject.build()
    for experts, gpus in SIZES:
        first = placement.place(_load(experts), gpus)
        expected = first.copy()
        first[:] = 0
        again = placement.place(_load(experts), gpus)
        expect(np.array_equal(again, expected), "the next answer has what was written to the one before")


@law(PLACEMENT, needs=(every_gpu_exists,))
def experts_without_load_are_placed(subject: Subject) -> None:
    """A load of zeros, or on a single expert, is placed like any other.

    Do not divide by the sum.
    """
    for experts, gpus in SIZES:
        for load_E in (np.zeros(experts), 1.0 * (np.arange(experts) == experts - 1)):
            with np.errstate(all="raise"):
                gpu_E = np.asarray(subject.build().place(load_E, gpus))
            good = gpu_E.shape == (experts,) and gpu_E.min() >= 0 and gpu_E.max() < gpus
            expect(good, f"of {gpus} GPUs, {gpu_E.min()} to {gpu_E.max()} are used")


@law(PLACEMENT, needs=(the_choice_depends_on_the_load_alone,))
def the_unit_of_the_load_plays_no_part(subject: Subject) -> None:
    """The unit of the load does not matter: shares, tokens and thousands give the same placement.

    Compare loads only with each other, never with a constant.
    """
    placement = subject.build()
    for experts, gpus in SIZES:
        choices = {tuple(placement.place(_load(experts) * 2.0**power, gpus)) for power in (-20, 0, 10)}
        expect(len(choices) == 1, f"{len(choices)} choices for the same load in 3 units")


@law(PLACEMENT, needs=(the_choice_depends_on_the_load_alone,))
def the_type_of_the_load_plays_no_part(subject: Subject) -> None:
    """Loads of int64, float32 and float64 give the same placement.

    They are counts or weights: convert to float64 first.
    """
    placement = subject.build()
    for experts, gpus in SIZES:
        kinds = (np.int64, np.float32, np.float64)
        choices = {tuple(placement.place(_load(experts).astype(kind), gpus)) for kind in kinds}
        expect(len(choices) == 1, f"{len(choices)} choices for the same load in 3 types")


@law(PLACEMENT, needs=(every_gpu_exists,))
def what_does_not_divide_is_placed_or_refused(subject: Subject) -> None:
    """Experts that do not divide evenly among the GPUs, or are fewer, are placed, or raise ValueError or
    `ProblemError`.

    Name the legal numbers, so that the user does not see only a division by zero.
    """
    for experts, gpus in ((10, 4), (4, 8), (1, 3)):
        try:
            gpu_E = np.asarray(subject.build().place(_load(experts), gpus))
        except (ValueError, ProblemError):
            continue
        good = gpu_E.shape == (experts,) and gpu_E.min() >= 0 and gpu_E.max() < gpus
        expect(good, f"{experts} experts on {gpus} GPUs are placed on {gpu_E}")


@law(PLACEMENT, needs=(every_gpu_exists,))
def no_gpu_is_no_place(subject: Subject) -> None:
    """Zero GPUs raise ValueError or `ProblemError`.

    Check `gpus < 1` first.
    """
    for gpus in (0, -1):
        try:
            gpu_E = subject.build().place(_load(8), gpus)
        except (ValueError, ProblemError):
            continue
        expect(False, f"on {gpus} GPUs the experts are placed on {gpu_E}")


@law(PLACEMENT, needs=(experts_without_load_are_placed,), capability="equal-slots")
def every_gpu_gets_the_same_number(subject: Subject) -> None:
    """If the experts divide evenly among the GPUs, every GPU gets the same number.

    GPUs have equal memory: fill slots, and skip a GPU that has none left.
    """
    for experts, gpus in SIZES:
        for load_E in (_load(experts), np.zeros(experts), np.ones(experts)):
            held_G = np.bincount(subject.build().place(load_E, gpus), minlength=gpus)
            expect(held_G.min() == held_G.max(), f"{experts} experts on {gpus} GPUs: {held_G}")


@law(PLACEMENT, needs=(every_gpu_exists,), capability="load-aware")
def a_skewed_load_is_spread(subject: Subject) -> None:
    """If the first experts have the most load, the busiest GPU has less load than with experts placed in order.

    Place the heaviest expert first, each on the GPU with the least load so far that has a slot.
    """
    for experts, gpus in SIZES:
        load_E = _skewed(experts)
        chosen, in_order = subject.build().place(load_E, gpus), np.arange(experts) // (experts // gpus)
        busiest, limit = (_busiest(load_E, gpu_E) for gpu_E in (chosen, in_order))
        expect(busiest < limit, f"the busiest of {gpus} GPUs has {busiest:g}, in order {limit:g}")


def _load(experts: int) -> NDArray[np.float64]:
    """The loads of `_skewed` in no order."""
    return np.random.default_rng(experts).permutation(_skewed(experts))


def _skewed(experts: int) -> NDArray[np.float64]:
    """Loads of whole tokens, all different, the first expert's the largest."""
    place_E = np.arange(experts, dtype=np.float64)
    return np.floor(4096.0 / (1.0 + place_E)) + place_E[::-1]


def _busiest(load_E: NDArray[np.float64], gpu_E: Any) -> float:
    return float(np.bincount(gpu_E, weights=load_E).max())


LAWS = laws_in(globals())
