"""Converts our parameter names to and from those of `gpt2` checkpoints on the Hugging Face hub.

There a matrix is stored as [in, out] (Conv1D), and the queries, keys and values of a layer are one tensor, `c_attn`.
Where one of the three is shared with another parameter, all three are written apart, so that a file holds it once; such
a file is not one of transformers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Set

import torch
from torch import Tensor

BODY = "transformer."
_OF_MODEL = {"embed_tokens": "wte", "embed_positions": "wpe", "norm": "ln_f"}
_OF_LAYER = {
    "input_layernorm": "ln_1",
    "self_attn.q_proj": "attn.q_proj",
    "self_attn.k_proj": "attn.k_proj",
    "self_attn.v_proj": "attn.v_proj",
    "self_attn.o_proj": "attn.c_proj",
    "self_attn.sub_norm": "attn.sub_norm",
    "post_attention_layernorm": "ln_2",
    "mlp.up_proj": "mlp.c_fc",
    "mlp.down_proj": "mlp.c_proj",
    "mlp.sub_norm": "mlp.sub_norm",
}
_THEIRS_OF_LAYER = {theirs: ours for ours, theirs in _OF_LAYER.items()}
_THEIRS_OF_MODEL = {theirs: ours for ours, theirs in _OF_MODEL.items()}
_OUR_LAYER = re.compile(r"layers\.(?P<layer>\d+)\.(?P<module>.+)\.(?P<kind>weight|bias)")
_THEIR_LAYER = re.compile(r"h\.(?P<layer>\d+)\.(?P<module>.+)\.(?P<kind>weight|bias)")
_MASK = re.compile(r"h\.\d+\.attn\.(masked_)?bias")  # buffers of older files: the causal mask, and what it writes
_PARTS = ("q_proj", "k_proj", "v_proj")


def to_hub_names(state: Mapping[str, Tensor], shared: Set[str] = frozenset()) -> dict[str, Tensor]:
    """Views of the tensors, except `c_attn`, which is a copy. `shared` names the parameters that are also another."""
    hub: dict[str, Tensor] = {}
    for name, tensor in state.items():
        match = _OUR_LAYER.fullmatch(name)
        if match is None:
            module, _, rest = name.partition(".")
            hub[f"{BODY}{_OF_MODEL[module]}.{rest}" if module in _OF_MODEL else name] = tensor
            continue
        layer, kind = match["layer"], match["kind"]
        parts = [f"layers.{layer}.self_attn.{part}.{kind}" for part in _PARTS]
        if name not in parts or not shared.isdisjoint(parts):
            hub[f"{BODY}h.{layer}.{_OF_LAYER[match['module']]}.{kind}"] = _conv1d(tensor)
        elif name == parts[0]:
            hub[f"{BODY}h.{layer}.attn.c_attn.{kind}"] = _side_by_side([_conv1d(state[part]) for part in parts])
    return hub


def from_hub_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Inverse of `to_hub_names`, with or without the prefix of the body; unknown names stay as they are."""
    loaded: dict[str, Tensor] = {}
    for name, tensor in state.items():
        local = name.removeprefix(BODY)
        if _MASK.fullmatch(local):
            continue
        module, _, kind = local.partition(".")
        if match := _THEIR_LAYER.fullmatch(local):
            loaded |= _of_layer(name, match, tensor)
        else:
            loaded[f"{_THEIRS_OF_MODEL[module]}.{kind}" if module in _THEIRS_OF_MODEL else name] = tensor
    return loaded


def _of_layer(name: str, match: re.Match[str], tensor: Tensor) -> dict[str, Tensor]:
    module, prefix = match["module"], f"layers.{match['layer']}"
    if module == "attn.c_attn":
        parts = zip(_PARTS, tensor.tensor_split(3, dim=-1), strict=True)
        return {f"{prefix}.self_attn.{part}.{match['kind']}": _conv1d(each) for part, each in parts}
    if module not in _THEIRS_OF_LAYER:
        return {name: tensor}
    return {f"{prefix}.{_THEIRS_OF_LAYER[module]}.{match['kind']}": _conv1d(tensor)}


def _side_by_side(parts: Sequence[Tensor]) -> Tensor:
    """Joined along the last dimension; for tensors on the meta device `torch.cat` imports torch's compiler."""
    if parts[0].is_meta:
        return parts[0].new_empty(*parts[0].shape[:-1], sum(part.shape[-1] for part in parts))
    return torch.cat([*parts], dim=-1)


def _conv1d(tensor: Tensor) -> Tensor:
    """Between [out, in] and [in, out]; vectors stay."""
    return tensor.T if tensor.dim() == 2 else tensor
