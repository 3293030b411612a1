"""Converts our parameter names to and from those of `glm4_moe` checkpoints on the Hugging Face hub.

In memory a layer's experts are two stacked tensors; on disk each expert has its own entries. Everything else differs
only by the prefix `model.`. The stacked layout that transformers 5 keeps in memory is read too.

Layers beyond the model's last predict tokens further ahead (multi-token prediction, MTP). They are separated here and
otherwise never inspected.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from penstock.hooks.problems import Problem, ProblemError

_LAYER = re.compile(r"(?:model\.)?layers\.(?P<layer>\d+)\..*")
_EXPERT = re.compile(r"(?P<prefix>.*\.mlp\.experts)\.(?P<expert>\d+)\.(?P<matrix>gate|up|down)_proj\.weight")


def to_hub_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """One entry per expert and matrix; views of the stacked tensors, not copies."""
    hub: dict[str, Tensor] = {}
    for name, tensor in state.items():
        target = name if name.startswith("lm_head.") else f"model.{name}"
        if name.endswith(".mlp.experts.gate_up_proj"):
            prefix = target.removesuffix(".gate_up_proj")
            for expert, (gate, up) in enumerate(zip(*(half.unbind(0) for half in tensor.chunk(2, dim=1)), strict=True)):
                hub[f"{prefix}.{expert}.gate_proj.weight"] = gate
                hub[f"{prefix}.{expert}.up_proj.weight"] = up
        elif name.endswith(".mlp.experts.down_proj"):
            prefix = target.removesuffix(".down_proj")
            hub.update({f"{prefix}.{expert}.down_proj.weight": down for expert, down in enumerate(tensor.unbind(0))})
        else:
            hub[target] = tensor
    return hub


def split_off_prediction_layers(
    state: Mapping[str, Tensor], layers: int
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The tensors of the first `layers` layers, and those of the layers beyond."""
    own: dict[str, Tensor] = {}
    beyond: dict[str, Tensor] = {}
    for name, tensor in state.items():
        (own if _layer(name) < layers else beyond)[name] = tensor
    return own, beyond


def count_layers(state: Mapping[str, Tensor]) -> int:
    """Number of different layers that the tensors belong to."""
    return len({_layer(name) for name in state})


def _layer(name: str) -> int:
    """The layer that a tensor belongs to, or -1 if it belongs to no layer."""
    match = _LAYER.fullmatch(name)
    return int(match["layer"]) if match else -1


def from_hub_names(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Inverse of `to_hub_names`; `own` is the state of the target model."""
    loaded: dict[str, Tensor] = {}
    stacks: dict[str, dict[int, dict[str, Tensor]]] = {}
    for name, tensor in state.items():
        local = name.removeprefix("model.")
        if match := _EXPERT.fullmatch(local):
            stacks.setdefault(match["prefix"], {}).setdefault(int(match["expert"]), {})[match["matrix"]] = tensor
        else:
            loaded[local] = tensor
    for prefix, experts in stacks.items():
        _check_experts(prefix, experts, own)
        ordered = [experts[index] for index in range(len(experts))]
        loaded[f"{prefix}.gate_up_proj"] = torch.stack([torch.cat((one["gate"], one["up"])) for one in ordered])
        loaded[f"{prefix}.down_proj"] = torch.stack([one["down"] for one in ordered])
    return loaded


def _check_experts(prefix: str, experts: Mapping[int, Mapping[str, Tensor]], own: Mapping[str, Tensor]) -> None:
    down_EDH = own.get(f"{prefix}.down_proj")
    if down_EDH is None:
        raise ProblemError(Problem("bad-checkpoint", f"the model has no experts at {prefix}"))
    count, width, hidden = down_EDH.shape
    shapes = {"gate": (hidden, width), "up": (hidden, width), "down": (width, hidden)}
    wrong = [
        f"{prefix}.{expert}.{matrix}_proj.weight"
        for expert in range(count)
        for matrix, shape in shapes.items()
        if matrix not in experts.get(expert, {}) or experts[expert][matrix].shape != shape
    ]
    if wrong or len(experts) != count:
        what = (
            f"missing or with a different shape: {', '.join(wrong[:3])}"
            if wrong
            else f"{len(experts)} instead of {count}"
        )
        raise ProblemError(Problem("bad-checkpoint", f"the experts of {prefix} do not fit the model", "", what))
