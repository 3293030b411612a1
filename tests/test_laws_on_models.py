"""What holds of engines with this workspace's own models and Muon, beside the laws of the conformance kit.

`test_sharded.py` compares bits of many models; here are a gradient's cut and the work that an optimizer does.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

import pytest
import sharded
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from penstock.conformance.ranks import told_by_ranks
from penstock.hooks import Registry
from penstock.hooks.registry import Choice

ENGINES = ["ddp", "fsdp2"]


def told(ask: Any, engine: str, ranks: int, parts: int) -> list[Any]:
    choice = Choice(Registry.discover().get("engine", engine), None)
    return told_by_ranks(partial(ask, parts), choice, ranks)


def run_of(choice: Choice, parts: int) -> sharded.Run:
    torch.manual_seed(0)
    return sharded.Run(sharded.CASES["glm"], choice.build(device=torch.device("cpu")), parts)


def gradients(parts: int, choice: Choice) -> dict[str, Tensor]:
    """Of a step, before the optimizer."""
    run = run_of(choice, parts)
    next(run.step(0))
    named = dict(run.composition.module.named_parameters())
    found = {name: whole(each.grad) for name, each in named.items() if each.grad is not None}
    run.engine.barrier()
    run.engine.close()
    return found


def iterated(parts: int, choice: Choice) -> int:
    """How many matrices this rank iterates in two steps."""
    run, count = run_of(choice, parts), 0

    def on_call(frame: Any, event: str, _: Any) -> None:
        nonlocal count
        if event == "call" and frame.f_code.co_name == "orthogonalize":
            count += frame.f_locals["matrix"].shape[:-2].numel()

    sys.setprofile(on_call)
    for number in range(2):
        list(run.step(number))
    sys.setprofile(None)
    run.engine.barrier()
    run.engine.close()
    return count


def whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@pytest.mark.parametrize("engine", ENGINES)
def test_two_ranks_with_two_micro_batches_have_the_gradient_of_one_with_four(engine: str) -> None:
    """With balancing by the counts of the whole step, padding and masks that count unevenly."""
    (expected,) = told(gradients, "local", 1, 4)
    for found in told(gradients, engine, 2, 2):
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            assert float((found[name] - gradient).norm()) <= 1e-6 * float(gradient.norm()), name


def test_a_matrix_is_iterated_once_a_step_whatever_the_cut() -> None:
    """By one owner where parameters are cut, and by each rank where every rank has them whole."""
    (once,) = told(iterated, "local", 1, 1)
    assert once > 0
    assert told(iterated, "local", 1, 2) == [once]
    assert told(iterated, "ddp", 2, 2) == [once, once]
    for parts in (1, 2):
        owners = told(iterated, "fsdp2", 2, parts)
        assert sum(owners) == once
        assert min(owners) > 0
