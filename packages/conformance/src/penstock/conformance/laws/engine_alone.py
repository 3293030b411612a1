# pyright: basic
"""Laws of engines on one rank. An engine that must be started by torchrun is started as its only rank."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from penstock.conformance.law import Subject, expect, law
from penstock.conformance.laws.engine_parts import (
    ENGINE,
    RATE,
    accumulate,
    batch_of,
    engine_module,
    expect_moved,
    falling,
    gradients_at,
    prepared,
    train,
    values_of,
    write,
)
from penstock.conformance.parts import random_state
from penstock.hooks.contracts import ObjectiveOutput


@law(ENGINE)
def forward_is_the_module_s(subject: Subject) -> None:
    """`forward(batch)` returns the module's output for the batch, with gradient.

    Call the module given to `prepare`, or its wrapper, not its attributes.
    """
    with prepared(subject) as engine:
        expected, found = engine_module().forward(batch_of(0)), engine.forward(batch_of(0))
        expect(isinstance(found, ObjectiveOutput), f"forward returns a {type(found).__name__}")
        expect(torch.equal(found.loss, expected.loss), f"the loss is {found.loss}, and the module's {expected.loss}")
        expect(found.loss.requires_grad, "the loss has no gradient")
        expect(list(found.routings) == [0], f"routings are of layers {list(found.routings)}")


FORWARD = (forward_is_the_module_s,)


@law(ENGINE, needs=FORWARD)
def gradients_of_micro_batches_add_up(subject: Subject) -> None:
    """After `backward` of several micro-batches, a step uses the gradient of their sum.

    Accumulate without dividing: each loss is already part of a sum.
    """
    expected = gradients_at(engine_module(), 0, 1)
    with prepared(subject) as engine:
        accumulate(engine, 0, 1)
        expect_moved(engine, expected, 0.0)


GRADIENTS = (gradients_of_micro_batches_add_up,)


@law(ENGINE, needs=GRADIENTS)
def clip_returns_the_norm_and_bounds_it(subject: Subject) -> None:
    """`clip(limit)` returns the norm before clipping and limits it to `limit`; None does not clip.

    Compute one norm over all parameters.
    """
    gradients = gradients_at(engine_module(), 0)
    norm = torch.cat([gradient.flatten() for gradient in gradients.values()]).norm().item()
    with prepared(subject) as engine:
        accumulate(engine, 0)
        said = [engine.clip(limit) for limit in (None, norm * 2, norm / 4)]
        expect(all(abs(each - norm) <= 1e-3 * norm for each in said), f"the norm is {norm}, but clip returned {said}")
        expect_moved(engine, {name: gradient / 4 for name, gradient in gradients.items()}, 0.0)


@law(ENGINE, needs=GRADIENTS)
def a_step_follows_the_schedule(subject: Subject) -> None:
    """`step(progress)` uses `initial_lr` times the schedule's factor, returns floats, and clears the gradients.

    Set `lr` of every group before each step.
    """
    plain = engine_module()
    with prepared(subject) as engine:
        for progress in (0.25, 0.5):
            accumulate(engine, 0)
            gradients = gradients_at(plain, 0)
            said = expect_moved(engine, gradients, progress)
            expect(all(isinstance(value, float) for value in said.values()), f"it says {said}")
            with torch.no_grad():
                for name, parameter in plain.model.named_parameters():
                    parameter.sub_(RATE * falling(progress) * gradients[name])


STEPS = (a_step_follows_the_schedule,)


@law(ENGINE, needs=FORWARD)
def an_evaluation_leaves_no_trace(subject: Subject) -> None:
    """`evaluate` runs without dropout and gradient, draws no random numbers, and leaves the module in training mode.

    Evaluate under `torch.inference_mode()` and `fork_rng`, and restore training mode in a `finally`.
    """
    with prepared(subject, dropout=0.25) as engine:
        before = random_state()
        first, second = engine.evaluate(batch_of(0)).loss, engine.evaluate(batch_of(0)).loss
        expect(torch.equal(first, second), "two evaluations of one batch differ")
        expect(not first.requires_grad, "the loss has a gradient")
        expect(random_state() == before, "random numbers were drawn")
        losses = {engine.forward(batch_of(0)).loss.item() for _ in range(4)}
        expect(len(losses) > 1, "after an evaluation the module no longer has dropout")


@law(ENGINE, needs=FORWARD)
def routings_are_those_of_the_passes_that_follow(subject: Subject) -> None:
    """`routings(batches)` yields the routings that the step's forward passes then choose, without gradient, and
    restores buffers and random state.

    Run all micro-batches in a row, and restore random state and buffers after the last.
    """
    batches = [batch_of(seed) for seed in range(3)]
    with prepared(subject, dropout=0.25) as engine:
        ahead = list(engine.routings(batches))
        passes = values_of(engine)["passes"].item()
        expect(passes == 0, f"a buffer has counted {passes} passes")
        expect(not any(routing[0].score_TE.requires_grad for routing in ahead), "a routing has a gradient")
        for number, batch in enumerate(batches):
            same = torch.equal(engine.forward(batch).routings[0].expert_TK, ahead[number][0].expert_TK)
            expect(same, f"micro-batch {number} is routed differently in the step")


@law(ENGINE, needs=FORWARD)
def the_full_state_is_the_model_s(subject: Subject) -> None:
    """`full_state()` yields every parameter and buffer of the model under its name, unsharded; writes to them persist.

    Gather sharded tensors, and write them back at the end.
    """
    with prepared(subject) as engine:
        expected = engine_module().model.state_dict()
        with torch.no_grad(), engine.full_state() as state:
            expect(state.keys() == expected.keys(), f"the names are {sorted(state)}")
            other = [name for name, value in state.items() if not torch.equal(value, expected[name])]
            expect(not other, f"{', '.join(other)} is a different tensor")
            state["middle"].zero_()
        with engine.full_state() as state:
            expect(not state["middle"].any(), "what was written is gone")


@law(ENGINE, needs=(*STEPS, the_full_state_is_the_model_s))
def what_is_saved_continues(subject: Subject) -> None:
    """An engine that loads another's save continues bit for bit: optimizer, random state and settings.

    Save the optimizer state and the random state; return the SHA-256 of each file.
    """
    with prepared(subject, dropout=0.25) as engine:
        train(engine, 0)
        digests, weights = engine.save(subject.folder), values_of(engine)
        train(engine, 1)
        expected = values_of(engine)
    expect_digests(subject, digests)
    expect_continued(subject, weights, expected)


@law(ENGINE, needs=(what_is_saved_continues,), capability="asynchronous")
def what_is_staged_is_written_as_it_was(subject: Subject) -> None:
    """What `stage()` returned is written after later steps as the engine was when it was staged, by another thread.

    Copy the state into memory of its own before `stage` returns, and make no collective in `write`.
    """
    with prepared(subject, dropout=0.25) as engine:
        train(engine, 0)
        staged, weights = engine.stage(), values_of(engine)
        train(engine, 1)
        expected = values_of(engine)
        train(engine, 2)
        with ThreadPoolExecutor(1) as thread:
            digests = thread.submit(staged.write, subject.folder).result()
    expect_digests(subject, digests)
    expect_continued(subject, weights, expected)


@law(ENGINE)
def one_rank_agrees_with_itself(subject: Subject) -> None:
    """On one rank, `total`, `share` and `gather` return the value, `agree` returns the flag, and a total is a new
    tensor.

    Keep integers as integers: counts are exact.
    """
    with prepared(subject) as engine:
        expect((engine.rank, engine.ranks) == (0, 1), f"it is rank {engine.rank} of {engine.ranks}")
        counts = torch.tensor([2**40, 3])
        total = engine.total(counts)
        expect(total.dtype == torch.int64 and total.tolist() == [2**40, 3], f"the total of {counts} is {total}")
        total.zero_()
        expect(counts.tolist() == [2**40, 3], "the total is the tensor that was given")
        said = (engine.share({"path": "runs"}), engine.gather(5), engine.agree(True), engine.agree(False))
        expect(said == ({"path": "runs"}, [5], True, False), f"share, gather and agree say {said}")
        engine.barrier()


ALONE = (*STEPS, one_rank_agrees_with_itself)


# ---------------------------------------------------------------------------------------------- parts


def expect_digests(subject: Subject, digests: Mapping[str, str]) -> None:
    """The law's folder holds files of these names and digests."""
    files = {name: hashlib.sha256((subject.folder / name).read_bytes()).hexdigest() for name in digests}
    expect(files == digests, f"the digests {digests} are not those of the files")


def expect_continued(subject: Subject, weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Another engine with these weights, which loads the law's folder, has the expected ones after batch 1."""
    with prepared(subject, dropout=0.25) as other:
        write(other, weights)
        torch.manual_seed(1234)
        other.load(subject.folder)
        train(other, 1)
        different = [name for name, value in values_of(other).items() if not torch.equal(value, expected[name])]
        expect(not different, f"{', '.join(different)} differs after the next step")
