"""Loss-free balancing: a bias on each expert's score, updated once per optimizer step by its load error.

Update it from the counts of the whole global batch, not of a micro-batch: in arXiv 2501.11873 Table 1 the bias with
micro-batch counts is the worst row (perplexity 8.521, against 8.080 with 512 sequences).

This module imports no torch, so configs are checked with the same code that runs them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from penstock.hooks.contracts import Router, Tensor
from penstock.hooks.problems import Problem, ProblemError

# A constant, or steps [from_tokens, rate] in ascending order from 0.
Rate = float | Sequence[Sequence[float]]
Step = Literal["sign", "magnitude"]


class LossFree:
    """bias_e += rate * sign(mean load - load_e) (arXiv 2408.15664 Algorithm 1).

    `rate` is a number, or a schedule such as [[0, 0.001], [15e12, 0.0]] (GLM-4.5, arXiv 2508.06471 section 2.4): the
    last step whose `from_tokens` has been reached applies. 0.001 is the paper's best: 0.0001 converges
    slowly, 0.01 oscillates. `step` "magnitude" uses the error in units of the mean load instead of its sign, so steps
    shrink near balance. `centred` subtracts the mean of the update, so that the bias does not drift as a whole.
    """

    def __init__(self, rate: Rate = 0.001, centred: bool = False, step: Step = "sign") -> None:
        self.steps = rate_steps(rate)
        self.centred = centred
        self.step = step

    def rate_at(self, tokens_seen: int) -> float:
        """The rate after `tokens_seen` tokens."""
        return self.steps[bisect_right(self.steps, tokens_seen, key=lambda step: step[0]) - 1][1]

    def update(self, router: Router, counts_E: Tensor, *, tokens_seen: int) -> None:
        """Moves the router's bias in place; a step without assignments leaves it unchanged. Raises `ProblemError`
        for a router without a bias, ValueError for counts of a different number of experts."""
        bias_E = bias_of(router, "loss-free")
        if counts_E.shape != bias_E.shape:
            raise ValueError(f"counts of shape {tuple(counts_E.shape)} for a router of {bias_E.shape[0]} experts")
        # Times E instead of the mean, so that the error is an exact integer; all zero where nothing was assigned.
        error_E = (counts_E.sum() - counts_E * counts_E.shape[0]).to(bias_E.device)
        delta_E = error_E.sign() if self.step == "sign" else error_E / counts_E.sum().clamp(min=1).to(bias_E.device)
        delta_E = delta_E.to(bias_E.dtype)
        if self.centred:
            delta_E = delta_E - delta_E.mean()
        bias_E.add_(delta_E, alpha=self.rate_at(tokens_seen))


def bias_of(router: Router, balancer: str) -> Tensor:
    """The router's selection bias; raises `ProblemError` if the router has none."""
    bias_E = getattr(router, "e_score_correction_bias", None)
    if bias_E is None:
        raise ProblemError(
            Problem(
                "router-without-bias",
                f"the router {type(router).__name__} has no e_score_correction_bias to balance with",
                f"balancer '{balancer}'",
                "use a router with a bias, such as sigmoid-topk, or use a balancing loss",
            )
        )
    return bias_E


def rate_steps(rate: Rate) -> tuple[tuple[float, float], ...]:
    """The schedule as (from_tokens, rate) pairs; raises ValueError unless it begins at 0 and ascends."""
    steps = ((0.0, float(rate)),) if isinstance(rate, (int, float)) else tuple((step[0], step[1]) for step in rate)
    starts = [start for start, _ in steps]
    if not starts or starts[0] != 0 or any(later <= earlier for earlier, later in pairwise(starts)):
        raise ValueError(f"rate steps begin at {starts} tokens: write [from_tokens, rate] pairs that ascend from 0")
    if any(step < 0 for _, step in steps):
        raise ValueError(f"rates {[step for _, step in steps]}: a negative rate worsens the balance, use 0 or more")
    return steps
