"""What an optimizer keeps goes to the parameter of the same name, whatever the order of parameters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from penstock.hooks.problems import ProblemError
from penstock.train import shards
from penstock.train.optimizer_state import cut_state, parameter_names, restore, whole_state
from penstock.train.shards import Part

NAMES = ["a", "b", "c"]


def model() -> nn.ParameterDict:
    torch.manual_seed(0)
    return nn.ParameterDict({name: nn.Parameter(torch.randn(3, 2)) for name in NAMES})


def adamw(module: nn.ParameterDict, order: Sequence[str]) -> torch.optim.AdamW:
    """Two groups: the first parameter alone, and the others."""
    first, *others = (module[name] for name in order)
    return torch.optim.AdamW([{"params": [first], "lr": 0.1}, {"params": others, "lr": 0.01}])


def trained(order: Sequence[str]) -> tuple[nn.ParameterDict, torch.optim.AdamW]:
    module = model()
    optimizer = adamw(module, order)
    for _ in range(3):
        torch.stack([(index * each).square().sum() for index, each in enumerate(module.values(), 1)]).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return module, optimizer


def moments(module: nn.ParameterDict, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    return {name: optimizer.state[module[name]]["exp_avg"].tolist() for name in NAMES}


def test_names_are_in_the_order_in_which_the_optimizer_counts():
    module = model()
    assert parameter_names(module, adamw(module, ["c", "a", "b"])) == ["c", "a", "b"]


def test_each_parameter_has_its_own_state_in_whatever_order_it_was_saved(tmp_path):
    module, optimizer = trained(["a", "b", "c"])
    saved = whole_state(optimizer, ["a", "b", "c"])
    other = adamw(module, ["a", "c", "b"])
    restore(other, ["a", "c", "b"], saved, tmp_path)
    assert moments(module, other) == moments(module, optimizer)
    assert [group["lr"] for group in other.param_groups] == [0.1, 0.01]
    assert cut_state(optimizer, NAMES) == {}


def test_a_state_without_names_has_the_order_of_the_groups(tmp_path):
    module, optimizer = trained(NAMES)
    other = adamw(module, NAMES)
    restore(other, NAMES, {"optimizer": optimizer.state_dict()}, tmp_path)
    assert moments(module, other) == moments(module, optimizer)


def test_what_ranks_saved_in_parts_is_whole_in_one_process(tmp_path):
    module, optimizer = trained(NAMES)
    saved, values = whole_state(optimizer, NAMES), moments(module, optimizer)
    cut = {f"optimizer.{name}.exp_avg": saved["optimizer"]["state"][at].pop("exp_avg") for at, name in enumerate(NAMES)}
    for rank, rows in enumerate((slice(0, 2), slice(2, 3))):
        parts = {name: Part(tensor[rows], (rows.start, 0)) for name, tensor in cut.items()}
        shards.write(tmp_path, "optimizer", rank, parts)
    other = adamw(module, NAMES)
    restore(other, NAMES, saved, tmp_path)
    assert moments(module, other) == values


@pytest.mark.parametrize("saved", [["a", "b", "d"], ["a", "b"]], ids=["other", "fewer"])
def test_a_state_of_other_parameters_is_refused(saved, tmp_path):
    module, optimizer = trained(NAMES)
    state = whole_state(optimizer, saved) if len(saved) == 3 else whole_state(optimizer, NAMES)
    state["parameters"] = saved
    with pytest.raises(ValueError, match=r"optimizer of other parameters \(c"):
        restore(adamw(module, NAMES), NAMES, state, tmp_path)


def test_groups_of_other_sizes_are_refused(tmp_path):
    module, optimizer = trained(NAMES)
    one_group = torch.optim.AdamW(module.values())
    with pytest.raises(ValueError, match="other groups"):
        restore(one_group, NAMES, {"optimizer": optimizer.state_dict()}, tmp_path)


def test_shards_that_cannot_be_read_are_named(tmp_path: Path):
    module, optimizer = trained(NAMES)
    shards.write(tmp_path, "optimizer", 0, {"optimizer.a.exp_avg": Part(torch.zeros(3, 2), (0, 0))})
    (tmp_path / "shards" / "optimizer-00000.safetensors").write_bytes(b"")
    with pytest.raises(ProblemError, match="the shards cannot be read"):
        restore(adamw(module, NAMES), NAMES, whole_state(optimizer, NAMES), tmp_path)
