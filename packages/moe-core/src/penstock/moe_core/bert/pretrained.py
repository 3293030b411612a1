"""Weights to start from: a Hugging Face folder of type bert, whose head may be another one."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from penstock.moe_core.bert import huggingface
from penstock.moe_core.hub.tensors import check_names, read_tensors, with_place
from penstock.moe_core.layers.site import load_own_state, own_state


def load_pretrained(model: nn.Module, path: Path) -> tuple[str, ...]:
    """Puts the weights at `path` into a model of their sizes; raises `ProblemError` with every tensor of the body that
    only the model or only the files have. A head that the files lack keeps its fresh weights, and a head that the model
    lacks is left out; returns what there is to say of both."""
    with with_place(path):
        tied = bool(getattr(model, "tied", False))
        loaded, own = huggingface.from_hub_names(read_tensors(path), tied=tied), own_state(model)
        huggingface.require_any(loaded)
        if tied and "embed_tokens.weight" in loaded:
            loaded.setdefault("lm_head.weight", loaded["embed_tokens.weight"])
        fresh = [name for name in huggingface.of_head(own) if not _fits(loaded.get(name), own[name])]
        unread = [name for name in huggingface.of_head(loaded) if name not in own]
        state = {name: tensor for name, tensor in loaded.items() if name not in unread}
        state |= {name: own[name] for name in fresh}
        check_names(state, own)
    load_own_state(model, state)
    notes: list[str] = []
    if fresh:
        notes.append(f"{path}: the model starts with fresh weights of {_modules(fresh)}, which the checkpoint lacks")
    if unread:
        notes.append(f"{path}: {_modules(unread)} of the checkpoint is left out, because the model has another head")
    return tuple(notes)


def _fits(tensor: Tensor | None, own: Tensor) -> bool:
    return tensor is not None and tensor.shape == own.shape


def _modules(names: list[str]) -> str:
    return ", ".join(dict.fromkeys(name.rpartition(".")[0] for name in names))
