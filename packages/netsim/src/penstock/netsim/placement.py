"""Which GPU holds which expert.

Shape suffixes: E experts, R expert copies, S steps, L layers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from penstock.hooks.problems import Problem, ProblemError


class Contiguous:
    """Experts in order, the same number on every GPU: what Megatron-LM, DeepSpeed and vLLM do by default."""

    def place(self, load_E: ArrayLike, gpus: int) -> NDArray[np.int64]:
        """`gpu_E`; the load is ignored. Raises `ProblemError` if the GPUs do not divide the experts evenly."""
        experts = len(np.asarray(load_E))
        if gpus < 1 or experts % gpus:
            raise ProblemError(_indivisible(experts, gpus))
        return np.arange(experts) // (experts // gpus)


def replicate(counts_SLE: NDArray[np.int64], gpus: int) -> NDArray[np.float64]:
    """`counts_SLR` (or `counts_SR` of one layer): the load of each expert copy; copies of one expert are neighbours.

    With at most as many GPUs as experts, each expert has one copy (R = E). With more GPUs, every expert has gpus / E
    copies that share its load evenly (R = gpus); raises `ProblemError` if gpus is not a multiple of E.
    """
    experts = counts_SLE.shape[-1]
    if gpus > experts and gpus % experts:
        raise ProblemError(_indivisible(experts, gpus))
    copies = max(1, gpus // experts)
    return np.repeat(counts_SLE / copies, copies, axis=-1)


def _indivisible(experts: int, gpus: int) -> Problem:
    divisors = ", ".join(str(number) for number in range(1, experts + 1) if experts % number == 0)
    return Problem(
        "indivisible-experts",
        f"{experts} experts do not divide evenly over {gpus} GPUs",
        "contiguous placement",
        f"use {divisors} GPUs, or a multiple of {experts}",
    )
