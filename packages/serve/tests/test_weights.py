"""Laws of the shards: every tensor once, bit for bit, in the dtype it must have, and damage is found."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from penstock.conformance.full_disk import file_size_limit
from penstock.hooks import ProblemError
from penstock.serve.weights import INDEX, stored_dtype, verify_weights, write_weights

STATE = {
    "model.layers.0.mlp.gate.weight": torch.randn(4, 8),
    "model.layers.0.mlp.gate.e_score_correction_bias": torch.tensor([1.001, 0.002, -0.3, 0.0]),
    "position": torch.arange(5),
    "model.norm.weight": torch.randn(8, dtype=torch.bfloat16),
}


def loaded(folder: Path) -> dict[str, Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


@settings(deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=12), st.integers(1, 200))
def test_shards_hold_every_tensor_once_and_keep_to_the_size(sizes: list[int], shard_bytes: int):
    state = {f"t{i}": torch.arange(size, dtype=torch.float32) + i for i, size in enumerate(sizes)}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_weights(state, folder, dtype=torch.float32, shard_bytes=shard_bytes)
        shards = {file.name: load_file(file) for file in folder.glob("*.safetensors")}
        index = json.loads((folder / INDEX).read_text()) if (folder / INDEX).exists() else None
    names = [name for shard in shards.values() for name in shard]
    assert sorted(names) == sorted(state)
    assert all(torch.equal(tensor, state[name]) for shard in shards.values() for name, tensor in shard.items())
    assert all(len(shard) == 1 or sum(t.nbytes for t in shard.values()) <= shard_bytes for shard in shards.values())
    if index is None:
        assert list(shards) == ["model.safetensors"]
    else:
        assert sorted(shards) == [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
        assert index["weight_map"] == {name: file for file, shard in shards.items() for name in shard}
        assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in state.values())


def test_floats_are_cast_but_the_selection_bias_and_integers_are_not(tmp_path: Path):
    write_weights(STATE, tmp_path, dtype=torch.bfloat16, shard_bytes=10**9)
    found = loaded(tmp_path)
    bias = "model.layers.0.mlp.gate.e_score_correction_bias"
    assert found["model.layers.0.mlp.gate.weight"].dtype == torch.bfloat16
    assert found["position"].dtype == torch.int64
    assert found[bias].dtype == torch.float32
    assert torch.equal(found[bias], STATE[bias])
    assert not torch.equal(STATE[bias].bfloat16().float(), STATE[bias])


def test_a_selection_bias_that_was_rounded_before_is_fp32_again():
    assert (
        stored_dtype("a.e_score_correction_bias", torch.zeros(2, dtype=torch.bfloat16), torch.bfloat16) == torch.float32
    )
    assert stored_dtype("a.e_score_correction_bias.weight", torch.zeros(2), torch.bfloat16) == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_aliases_views_and_transposes_are_written_as_copies(tmp_path: Path, dtype: torch.dtype):
    stacked = torch.randn(3, 4, 5).to(dtype)
    views = {f"experts.{i}.weight": expert for i, expert in enumerate(stacked.unbind())}
    state = {**views, "alias": views["experts.0.weight"], "all": stacked, "transposed": stacked[1].T}
    write_weights(state, tmp_path, dtype=dtype, shard_bytes=10**9)
    found = loaded(tmp_path)
    assert all(torch.equal(found[name], tensor) for name, tensor in state.items())


def test_a_full_disk_is_a_problem(tmp_path: Path):
    with pytest.raises(ProblemError, match="writing failed"), file_size_limit(1000):
        write_weights({"a": torch.zeros(1000)}, tmp_path, dtype=torch.float32, shard_bytes=10**9)


def truncate(folder: Path) -> None:
    file = folder / "model-00001-of-00002.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def remove_a_shard(folder: Path) -> None:
    (folder / "model-00002-of-00002.safetensors").unlink()


def change_a_dtype(folder: Path) -> None:
    file = folder / "model-00001-of-00002.safetensors"
    save_file({name: tensor.double() for name, tensor in load_file(file).items()}, file)


def change_a_shape(folder: Path) -> None:
    file = folder / "model-00001-of-00002.safetensors"
    save_file({name: tensor[:1].clone() for name, tensor in load_file(file).items()}, file)


def add_a_tensor(folder: Path) -> None:
    file = folder / "model-00001-of-00002.safetensors"
    save_file({**load_file(file), "more": torch.zeros(1)}, file)


def swap_the_index(folder: Path) -> None:
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"] = dict.fromkeys(index["weight_map"], "model-00001-of-00002.safetensors")
    (folder / INDEX).write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (truncate, "cannot be read"),
        (remove_a_shard, "tensor 'b' is missing"),
        (change_a_dtype, "is torch.float64 .* instead of torch.float32"),
        (change_a_shape, r"\(1, 3\) instead of torch.float32 \(2, 3\)"),
        (add_a_tensor, "tensor 'more' is unexpected"),
        (swap_the_index, "the index does not match"),
    ],
)
def test_each_kind_of_damage_is_found_and_named(tmp_path: Path, damage, said: str):
    state = {"a": torch.randn(2, 3), "b": torch.randn(2, 3)}
    write_weights(state, tmp_path, dtype=torch.float32, shard_bytes=30)
    verify_weights(tmp_path, state)
    damage(tmp_path)
    with pytest.raises(ProblemError, match=said):
        verify_weights(tmp_path, state)
