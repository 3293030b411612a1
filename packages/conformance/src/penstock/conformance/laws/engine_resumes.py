# pyright: basic
"""Laws of engines on several ranks: what they save is continued, by as many ranks or by another number."""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from penstock.conformance.law import Subject, expect, law
from penstock.conformance.laws.engine_parts import (
    ENGINE,
    Plan,
    adam,
    dropping_module,
    flat,
    joined,
    steps_of,
    values_of,
    write,
)
from penstock.conformance.laws.engine_ranks import TOGETHER, require_claim
from penstock.conformance.ranks import told_by_ranks
from penstock.hooks.registry import Choice

SAVED_AT = 2  # steps of four


@law(ENGINE, needs=TOGETHER)
def ranks_continue_what_they_saved(subject: Subject) -> None:
    """Two ranks that load what two ranks saved go on bit for bit, with dropout; every file has the SHA-256 that is
    returned for it, and is one rank's alone.

    Save the random state of every rank, and the whole state of the optimizer.
    """
    require_claim(subject)
    plan = Plan(steps_of(4, 2), module=dropping_module, optimizer=adam)
    saved = told_by_ranks(partial(save_halfway, plan, subject.folder), subject.choice(), 2)
    one, other = (each["digests"] for each in saved)
    expect(not one.keys() & other.keys(), f"both ranks have written {', '.join(one.keys() & other.keys())}")
    files = {name: hashlib.sha256((subject.folder / name).read_bytes()).hexdigest() for name in {**one, **other}}
    expect(files == {**one, **other}, "the digests are not those of the files")
    ends = told_by_ranks(partial(go_on, plan, subject.folder, saved[0]["weights"]), subject.choice(), 2)
    for rank, (end, whole) in enumerate(zip(ends, saved, strict=True)):
        expect(torch.equal(flat(end), flat(whole["end"])), f"the weights of rank {rank} differ from the unbroken run's")


@law(ENGINE, needs=TOGETHER)
def any_number_of_ranks_continues(subject: Subject) -> None:
    """What two ranks saved one continues, and what one saved two do, with the optimizer's state of every parameter.

    Save the optimizer's state whole, or in parts that any number of ranks can read.
    """
    require_claim(subject)
    plan = Plan(steps_of(4, 2), optimizer=adam)
    for before, after in ((2, 1), (1, 2)):
        folder = subject.folder / f"by-{before}"
        folder.mkdir()
        saved = told_by_ranks(partial(save_halfway, plan, folder), subject.choice(), before)[0]
        end = told_by_ranks(partial(go_on, plan, folder, saved["weights"]), subject.choice(), after)[0]
        gap = (flat(end) - flat(saved["end"])).abs().max().item()
        expect(gap < 1e-5, f"saved by {before} and continued by {after}, weights are up to {gap:.2g} off")


# ---------------------------------------------------------------------------------------------- what ranks do


def save_halfway(plan: Plan, folder: Path, choice: Choice) -> dict[str, Any]:
    """Takes the plan's steps, and saves in their middle."""
    with joined(plan, choice) as engine:
        for step in range(SAVED_AT):
            plan.take(engine, step)
        digests, weights = engine.save(folder), values_of(engine)
        for step in range(SAVED_AT, len(plan.steps)):
            plan.take(engine, step)
        return {"digests": digests, "weights": weights, "end": values_of(engine)}


def go_on(plan: Plan, folder: Path, weights: dict[str, Tensor], choice: Choice) -> dict[str, Tensor]:
    """Takes the plan's later steps, from these weights and what was saved."""
    with joined(plan, choice) as engine:
        write(engine, weights)
        engine.load(folder)
        for step in range(SAVED_AT, len(plan.steps)):
            plan.take(engine, step)
        return values_of(engine)
