"""A checkpoint that is written beside training has the state of its step, and counts once training has gone on."""

from __future__ import annotations

import errno
import math
import threading
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from test_checkpoint import Toy, newest, toy
from torch import Tensor

from penstock.hooks.problems import ProblemError, failed
from penstock.train import saving
from penstock.train.checkpoint import Contents, verify_checkpoint
from penstock.train.engines.local import STATE, LocalEngine
from penstock.train.objectives.next_token import NextToken
from penstock.train.saving import BackgroundSaver
from penstock.train.step_module import StepModule


class Training:
    """A model whose weights and momentum change in every step, and what saves it."""

    def __init__(self, folder: Path) -> None:
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (folder / name).write_text("{}")
        self.folder, self.root = folder, folder / "checkpoints"
        self.model: Toy = toy(0.0)
        self.engine = LocalEngine(device=torch.device("cpu"))
        optimizer = partial(torch.optim.SGD, lr=1.0, momentum=0.5)
        module: Any = StepModule(self.model, NextToken())  # pyright: ignore[reportArgumentType]
        self.engine.prepare(module, lambda each: optimizer(each.parameters()), lambda progress: 1.0)
        self.engine.optimizer.param_groups[0]["initial_lr"] = 1.0
        self.saver = BackgroundSaver(self.root, self.engine, keep=2)
        self.step = 0

    def advance(self) -> None:
        self.model.weight.grad = torch.ones_like(self.model.weight)
        self.engine.step(0.5)
        self.step += 1

    def save(self, before: Iterable[Any] = ()) -> None:
        model: Any = self.model
        self.saver.begin(
            self.step,
            model,
            lambda: Contents.of(model, {"step": self.step}, self.folder, plugins=[]),
            trained=[self.model.weight],
            diverged=lambda: failed("diverged", "the weights became nan"),
            before=before,
        )

    def names(self) -> list[str]:
        return sorted(path.name for path in self.root.iterdir())


@pytest.fixture
def training(tmp_path: Path) -> Training:
    begun = Training(tmp_path)
    begun.advance()
    return begun


def stored(root: Path) -> tuple[int, Tensor, Tensor]:
    found, model = newest(root, pytest.fail), toy(0.0)
    found.load_model(model)
    state = torch.load(found.path / STATE)
    return found.step, model.weight.detach(), state["optimizer"]["state"][0]["momentum_buffer"]


def test_what_is_stored_are_the_values_of_the_step_and_not_of_later_ones(training, monkeypatch):
    """As `torch.distributed.checkpoint.async_save` had them of tensors on the CPU (pytorch/pytorch#144657)."""
    stepped, write = threading.Event(), Contents.write

    def late(contents: Contents, folder: Path) -> dict[str, str]:
        assert stepped.wait(10)
        return write(contents, folder)

    monkeypatch.setattr(Contents, "write", late)
    training.save()
    before = training.model.weight.detach().clone()
    momentum = training.engine.optimizer.state_dict()["state"][0]["momentum_buffer"].clone()
    training.advance()
    stepped.set()
    training.saver.finish()
    step, weight, kept = stored(training.root)
    assert step == 1
    assert torch.equal(weight, before)
    assert torch.equal(kept, momentum)


def test_it_counts_only_once_training_has_gone_on(training):
    training.save()
    training.saver._pending.job.join()  # pyright: ignore[reportOptionalMemberAccess]
    assert all(name.startswith(".step-00000001.") for name in training.names())
    assert training.saver.agree(False) is False
    training.saver.finish()
    assert training.names() == ["latest", "step-00000001"]
    verify_checkpoint(training.root / "step-00000001")


def test_a_request_to_stop_is_heard_while_one_is_written(training):
    training.save()
    assert training.saver.agree(True) is True
    training.saver.finish()
    assert training.saver.agree(True) is True


def test_one_that_is_due_before_the_last_is_written_waits_and_says_so(training, caplog):
    slow = threading.Event()
    caplog.set_level("INFO", logger="penstock")
    training.save(before=[partial(slow.wait, 0.2)])
    training.advance()
    training.save()
    assert "training waits: the checkpoint of step 2 is due, and step-00000001 is still" in caplog.text
    training.saver.finish()
    assert training.names() == ["latest", "step-00000001", "step-00000002"]


def test_records_of_observers_are_written_before_it_counts(training):
    seen: list[list[str]] = []
    training.save(before=[lambda: seen.append([path.name for path in training.folder.glob("checkpoints/step-*")])])
    training.saver.finish()
    assert seen == [[]]


def test_a_copy_that_is_not_finite_never_counts(training):
    with torch.no_grad():
        training.model.weight[1, 2] = math.inf
    training.save()
    with pytest.raises(ProblemError, match="the weights became nan"):
        training.saver.finish()
    training.saver.abandon()
    assert not training.root.exists() or training.names() == []


@pytest.mark.parametrize("point", ["sync", "publish_checkpoint"])
def test_a_full_disk_ends_training_and_keeps_the_checkpoint_before(training, monkeypatch, point):
    training.save()
    training.advance()
    training.saver.finish()

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(saving, point, full)
    training.save()
    with pytest.raises(ProblemError, match=r"cannot be written \(No space left on device\).*step-00000001"):
        training.saver.finish()
    training.saver.abandon()
    assert training.names() == ["latest", "step-00000001"]


def test_after_an_error_nothing_is_left_of_what_was_being_written(training):
    training.save()
    training.saver.abandon()
    assert training.names() == []
