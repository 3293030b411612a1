"""Writes tensors to safetensors shards, and reads them back to verify them.

One shard at a time is cast and copied, so the peak memory above the model is one shard. Every tensor is written from
its own copy: safetensors refuses tensors that share storage, and the experts of a stacked [E, out, in] parameter do.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from huggingface_hub import split_state_dict_into_shards_factory
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from penstock.hooks.problems import ExitCode, Problem, ProblemError

INDEX = "model.safetensors.index.json"

# In bf16, a selection bias near 1 moves in steps of 0.008, but balancers change it by 0.001; transformers keeps
# it in fp32 whatever the dtype of the model (`_keep_in_fp32_modules_strict`).
FP32_ONLY = frozenset({"e_score_correction_bias"})


def stored_dtype(name: str, tensor: Tensor, dtype: torch.dtype) -> torch.dtype:
    """The dtype that a tensor is stored in: `dtype` if it is floating, fp32 if it must stay so, else its own dtype."""
    if not tensor.is_floating_point():
        return tensor.dtype
    return torch.float32 if name.rpartition(".")[2] in FP32_ONLY else dtype


def write_weights(state: Mapping[str, Tensor], folder: Path, *, dtype: torch.dtype, shard_bytes: int) -> None:
    """Writes `model.safetensors`, or `model-00001-of-0000N.safetensors` with an index if one file would be larger
    than `shard_bytes`, and checks them with `verify_weights`. A tensor larger than that gets its own file."""
    layout = {
        name: torch.empty(tensor.shape, dtype=stored_dtype(name, tensor, dtype), device="meta")
        for name, tensor in state.items()
    }
    split = split_state_dict_into_shards_factory(
        layout,
        get_storage_size=lambda tensor: tensor.nbytes,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=shard_bytes,
    )
    for file, names in split.filename_to_tensors.items():
        shard = {name: state[name].detach().to("cpu", layout[name].dtype, copy=True).contiguous() for name in names}
        try:
            save_file(shard, folder / file, metadata={"format": "pt"})
        except SafetensorError as error:
            raise ProblemError(Problem("cannot-write", f"writing failed ({error})", file), ExitCode.FAILED) from error
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": dict(sorted(split.tensor_to_filename.items()))}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    verify_weights(folder, layout)


def verify_weights(folder: Path, expected: Mapping[str, Tensor]) -> None:
    """Opens every shard and compares names, shapes and dtypes with `expected` (tensors on any device, meta included),
    and the index with the shards. Raises `ProblemError` with every difference."""
    place: dict[str, str] = {}
    damage: list[tuple[str, Path]] = []
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt") as shard:
                found = {name: shard.get_tensor(name) for name in shard.keys()}  # noqa: SIM118 (it cannot be iterated)
        except (SafetensorError, OSError) as error:
            damage.append((f"cannot be read ({error})", file))
            continue
        damage += [(difference, file) for difference in _differences(found, expected)]
        place |= dict.fromkeys(found, file.name)
    damage += [(f"tensor '{name}' is missing", folder) for name in expected if name not in place]
    index = folder / INDEX
    if index.exists() and json.loads(index.read_text(encoding="utf-8"))["weight_map"] != place:
        damage.append(("the index does not match the files", index))
    if damage:
        problems = [Problem("damaged-export", what, str(where), "export again") for what, where in damage]
        raise ProblemError(problems, ExitCode.FAILED)


def _differences(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    differences = [f"tensor '{name}' is unexpected" for name in found if name not in expected]
    for name, tensor in found.items():
        wanted = expected.get(name, tensor)
        if (tensor.shape, tensor.dtype) != (wanted.shape, wanted.dtype):
            is_now, should_be = (f"{each.dtype} {tuple(each.shape)}" for each in (tensor, wanted))
            differences.append(f"tensor '{name}' is {is_now} instead of {should_be}")
    return differences
