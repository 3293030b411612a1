"""A copy keeps the values of its step, whatever training does with the tensors afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from penstock.train.memory import available_memory, optimizer_state
from penstock.train.staging import PARALLEL, Buffers, Files, bytes_to_copy


@pytest.mark.parametrize("numbers", [3, PARALLEL])  # copied by one thread and by several
def test_a_copy_has_the_values_of_its_step(numbers):
    weight = torch.ones(numbers)
    copied = Buffers().copied({"state": {0: {"momentum": weight, "step": 3}}, "groups": [{"lr": 0.5}]})
    weight.mul_(2)
    assert copied["state"][0]["momentum"].eq(1).all()
    assert (copied["state"][0]["step"], copied["groups"]) == (3, [{"lr": 0.5}])


def test_what_shares_memory_is_copied_once_and_shares_its_copy():
    stack = torch.arange(24.0).reshape(2, 3, 4)
    given = {"stack": stack, "second": stack[1], "turned": stack[0].T, "bits": stack.view(torch.int32)}
    copied = Buffers().copied(given)
    assert bytes_to_copy(given) == stack.nbytes
    assert len({each.untyped_storage().data_ptr() for each in copied.values()}) == 1
    assert all(torch.equal(copied[name], each) for name, each in given.items())
    assert {name: each.stride() for name, each in copied.items()} == {
        name: each.stride() for name, each in given.items()
    }


def test_memory_is_kept_for_the_next_copy_of_equal_form():
    buffers = Buffers()
    first = buffers.copied([torch.zeros(5), torch.zeros(7)])
    places = [each.data_ptr() for each in first]
    second = buffers.copied([torch.ones(5), torch.ones(7), torch.ones(2, dtype=torch.bool)])
    assert [each.data_ptr() for each in second][:2] == places
    other = buffers.copied([torch.ones(6)])
    assert other[0].tolist() == [1] * 6


def test_files_are_named_with_the_hash_of_what_is_in_them(tmp_path):
    import hashlib

    digests = Files({"engine.pt": {"rate": 0.5}}).write(tmp_path)
    assert digests == {"engine.pt": hashlib.sha256((tmp_path / "engine.pt").read_bytes()).hexdigest()}


def test_the_state_of_an_optimizer_is_known_before_it_exists():
    with torch.device("meta"):
        parameters = [torch.nn.Parameter(torch.empty(3, 4)), torch.nn.Parameter(torch.empty(5))]
    assert bytes_to_copy(optimizer_state(torch.optim.SGD(parameters, momentum=0.9))) == 17 * 4
    assert bytes_to_copy(optimizer_state(torch.optim.AdamW(parameters))) >= 2 * 17 * 4

    class Reads(torch.optim.SGD):
        def step(self, closure=None):
            return self.param_groups[0]["params"][0].sum().item()

    assert bytes_to_copy(optimizer_state(Reads(parameters))) == 2 * 17 * 4


def system(root: Path, available: int, limit: str) -> Path:
    for name, text in {
        "proc/meminfo": f"MemTotal: 900 kB\nMemAvailable:    {available} kB\n",
        "sys/fs/cgroup/memory.max": f"{limit}\n",
        "sys/fs/cgroup/memory.current": "1000\n",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_a_container_has_what_its_limit_leaves_and_no_more_than_the_machine(tmp_path):
    assert available_memory(system(tmp_path, 2, "max")) == 2048
    assert available_memory(system(tmp_path, 2, "2000")) == 1000
    assert available_memory(system(tmp_path, 2, "9000")) == 2048
    assert available_memory(tmp_path / "elsewhere") is None
