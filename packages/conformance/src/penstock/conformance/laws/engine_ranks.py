# pyright: basic
"""Laws of engines on several ranks: what they train together is what one process trains.

One process has the micro-batches of all ranks, in their order. Rank 0 is compared with it, and the others with rank 0.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from penstock.conformance.law import NotApplicable, Subject, Violation, expect, law
from penstock.conformance.laws.engine_alone import ALONE
from penstock.conformance.laws.engine_parts import (
    ENGINE,
    Plan,
    adam,
    batch_of,
    builds_alone,
    counting,
    flat,
    joined,
    revealing,
    sparse_module,
    steps_of,
    tied_module,
    values_of,
)
from penstock.conformance.ranks import told_by_ranks
from penstock.hooks.contracts import Batch
from penstock.hooks.registry import Choice

RANKS = "several-ranks"


@law(ENGINE, needs=ALONE, capability=RANKS)
def two_ranks_train_as_one(subject: Subject) -> None:
    """Two processes started by torchrun have the weights and the norm of one process with two micro-batches.

    Sum gradients over ranks after the last micro-batch; a mean of means is a different objective.
    """
    require_ranks(subject)
    plan = Plan(steps_of(3, 2), limit=1.0)
    (found, _), (expected,) = (told_by_ranks(partial(follow, plan), subject.choice(), ranks) for ranks in (2, 1))
    close = torch.allclose(torch.tensor(found["norms"]), torch.tensor(expected["norms"]), rtol=1e-4)
    expect(close, f"the norms are {found['norms']}, of one process {expected['norms']}")
    gap = (flat(found["weights"]) - flat(expected["weights"])).abs().max().item()
    expect(gap < 1e-5, f"weights are up to {gap:.2g} from those of one process")


TOGETHER = (two_ranks_train_as_one,)


@law(ENGINE, needs=TOGETHER)
def ranks_answer_together(subject: Subject) -> None:
    """On two ranks `total` adds integers exactly, above 2^24 too, `share` returns rank 0's value, `gather` all by rank,
    and `agree` whether any rank says so.

    Add integers as integers: a count in a float loses its last digits.
    """
    require_claim(subject)
    expected = {
        "ranks": 2,
        "total": [3, 2**41 + 3, 2**25 + 1],
        "dtype": "torch.int64",
        "share": {"rank": 0},
        "gather": [0, 1],
        "agree": [True, True, False],
    }
    for rank, said in enumerate(told_by_ranks(answer, subject.choice(), 2)):
        wrong = {name: said[name] for name in expected if said[name] != expected[name]}
        expect(not wrong, f"rank {rank} says {wrong} instead of { ({name: expected[name] for name in wrong}) }")


@law(ENGINE, needs=TOGETHER)
def ranks_are_the_same_after_every_step(subject: Subject) -> None:
    """After every step all ranks have the same norm and weights, and evaluate a batch to the same loss.

    Wait for each collective before its result is used, and step every rank from the same gradient.
    """
    require_claim(subject)
    first, second = told_by_ranks(partial(watch, Plan(steps_of(3, 2), limit=1.0)), subject.choice(), 2)
    for step, (one, other) in enumerate(zip(first, second, strict=True), 1):
        differ = [name for name in one if not same(one[name], other[name])]
        expect(not differ, f"after step {step} the ranks differ in {', '.join(differ)}")


@law(ENGINE, needs=TOGETHER)
def a_gradient_does_not_depend_on_the_cut(subject: Subject) -> None:
    """Two ranks with two micro-batches have the gradient of one process with four to 1e-6, however unevenly targets
    count.

    The objective is a sum: divide by nothing that a rank or a micro-batch counts on its own.
    """
    require_claim(subject)
    uneven = [counting(seed, units) for seed, units in enumerate((1, 16, 9, 4))]
    for step in ([batch_of(seed) for seed in range(4)], uneven):
        expect_the_same_gradient(subject, Plan([step], optimizer=revealing))


@law(ENGINE, needs=TOGETHER)
def ranks_and_experts_without_tokens_train_along(subject: Subject) -> None:
    """A rank none of whose targets count, and parameters that get a gradient on one rank or on none, change nothing
    else: the step ends, with the gradient of one process.

    Where a rank has no gradient for a parameter, count it as 0, so that every rank takes part in the same sums.
    """
    require_claim(subject)
    for step in ([batch_of(0), counting(1, 0)], [counting(0, 0), batch_of(1)]):
        expect_the_same_gradient(subject, Plan([step], optimizer=revealing))
    for classes in ((0, 1), (1, 0), (0, 0)):
        step = [of_class(seed, number) for seed, number in enumerate(classes)]
        expect_the_same_gradient(subject, Plan([step], sparse_module, revealing))


@law(ENGINE, needs=TOGETHER, capability="bit-equal")
def two_ranks_have_every_bit_of_one(subject: Subject) -> None:
    """Two ranks have the bits of one process with two micro-batches: norms, and weights after steps of AdamW with
    clipping, with a shared parameter too.

    Add two ranks as a + b, without scaling; compute the norm in an order that does not depend on the ranks.
    """
    expect(subject.claims(RANKS), "it is one process")
    plan = Plan(steps_of(4, 2), optimizer=adam, limit=0.1)
    for each in (plan, replace(plan, module=tied_module)):
        (found, _), (expected,) = (told_by_ranks(partial(follow, each), subject.choice(), ranks) for ranks in (2, 1))
        clipped = min(expected["norms"]) > 0.1
        assert clipped, expected["norms"]
        expect(found["norms"] == expected["norms"], f"norms are {found['norms']}, of one process {expected['norms']}")
        parameters = [name for name, value in expected["weights"].items() if value.is_floating_point()]
        differ = [name for name in parameters if not torch.equal(found["weights"][name], expected["weights"][name])]
        expect(not differ, f"{', '.join(differ)} differs in bits")


@law(ENGINE, needs=TOGETHER, capability="sharded")
def a_rank_holds_its_share(subject: Subject) -> None:
    """The optimizer of each of two ranks holds about half of the numbers of the model's parameters.

    Cut parameters up in `prepare` before the optimizer is built.
    """
    expect(subject.claims(RANKS), "it is one process")
    for rank, (own, whole) in enumerate(told_by_ranks(count, subject.choice(), 2)):
        expect(own <= 0.55 * whole, f"rank {rank} holds {own} of {whole} numbers")


# ---------------------------------------------------------------------------------------------- what ranks do


def follow(plan: Plan, choice: Choice) -> dict[str, Any]:
    """Takes the plan's steps."""
    with joined(plan, choice) as engine:
        norms = [plan.take(engine, step) for step in range(len(plan.steps))]
        return {"norms": norms, "weights": values_of(engine)}


def answer(choice: Choice) -> dict[str, Any]:
    with joined(Plan([]), choice) as engine:
        rank = engine.rank
        total = engine.total(torch.tensor([rank + 1, 2**40 + rank * 3, 2**24 + rank]))
        return {
            "ranks": engine.ranks,
            "total": total.tolist(),
            "dtype": str(total.dtype),
            "share": engine.share({"rank": rank}),
            "gather": engine.gather(rank),
            "agree": [engine.agree(rank == 1), engine.agree(rank == 0), engine.agree(False)],
        }


def watch(plan: Plan, choice: Choice) -> list[dict[str, Any]]:
    """Takes the plan's steps, and looks at the model after each."""
    seen = []
    with joined(plan, choice) as engine:
        for step in range(len(plan.steps)):
            norm = plan.take(engine, step)
            losses = torch.stack([engine.evaluate(batch_of(seed)).loss for seed in (7, 8)])
            seen.append({"the norm": norm, "the loss": losses.clone(), "weights": flat(values_of(engine))})
    return seen


def count(choice: Choice) -> tuple[int, int]:
    """How many numbers the optimizer of this rank holds, and how many the model has."""
    made = []

    def optimizer(module: Any) -> torch.optim.Optimizer:
        made.append(revealing(module))
        return made[0]

    plan = Plan([], optimizer=optimizer)
    with joined(plan, choice) as engine:
        held = [parameter for group in made[0].param_groups for parameter in group["params"]]
        with engine.full_state():
            pass
        own = sum(getattr(parameter, "to_local", lambda each=parameter: each)().numel() for parameter in held)
        return own, sum(parameter.numel() for parameter in plan.module().parameters())


# ---------------------------------------------------------------------------------------------- parts


def require_ranks(subject: Subject) -> None:
    """Raises `Violation` for an engine that is one process, whoever starts it."""
    if not subject.claims(RANKS) and builds_alone(subject):
        raise Violation("it is one process, whoever starts it")


def require_claim(subject: Subject) -> None:
    """Raises `NotApplicable` for an engine that does not declare that it is for several ranks."""
    if not subject.claims(RANKS):
        raise NotApplicable("it is an engine for one process")


def expect_the_same_gradient(subject: Subject, plan: Plan) -> None:
    """The weights after one step of `revealing` are its gradient."""
    (found, _), (expected,) = (told_by_ranks(partial(follow, plan), subject.choice(), ranks) for ranks in (2, 1))
    for name, value in expected["weights"].items():
        if value.is_floating_point():
            error = distance(found["weights"][name], value)
            expect(error < 1e-6, f"the gradient of {name} is {error:.2g} from that of one process")


def distance(found: Tensor, expected: Tensor) -> float:
    """Relative to the norm of what is expected."""
    return float((found.double() - expected.double()).norm() / expected.double().norm().clamp(min=1e-30))


def of_class(seed: int, number: int) -> Batch:
    """A batch whose tokens have this remainder, so that of `SparseModel`'s experts one alone is chosen."""
    batch = batch_of(seed)
    token_BS = batch.inputs.token_BS // 4 * 4 + number
    return replace(batch, inputs=replace(batch.inputs, token_BS=token_BS))


def same(one: Any, other: Any) -> bool:
    return torch.equal(one, other) if isinstance(one, Tensor) else one == other
