"""Weights in and out under the names of the hub, where each expert of most families is a tensor of its own.

transformers keeps experts stacked in memory; its own conversion, which only moves elements, maps the names both ways.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion
from transformers.utils import logging

from penstock.hooks.problems import Problem, ProblemError


def head_is_tied(network: PreTrainedModel) -> bool:
    """Whether the head is the embedding, by its config or by what was done to it since."""
    head = network.get_output_embeddings()
    return head is not None and head.weight is network.get_input_embeddings().weight


def export_state(network: PreTrainedModel) -> dict[str, Tensor]:
    """Every parameter and persistent buffer, but for names that transformers ties to another when it loads."""
    tied = set(getattr(network, "all_tied_weights_keys", None) or {})
    if head_is_tied(network):
        weight = network.get_input_embeddings().weight
        _, *others = (name for name, each in network.named_parameters(remove_duplicate=False) if each is weight)
        tied |= set(others)
    state = {name: value for name, value in network.state_dict().items() if name not in tied}
    return dict(revert_weight_conversion(network, state))


def load_state(network: PreTrainedModel, state: Mapping[str, Tensor]) -> None:
    """Puts `export_state()` of an equal model into this one; raises `ProblemError` that names what does not fit."""
    config = copy.deepcopy(network.config)
    config.tie_word_embeddings = head_is_tied(network)
    network.load_state_dict(loaded(type(network), None, config=config, state_dict=dict(state)).state_dict())


def loaded(kind: type[PreTrainedModel], origin: str | None, **how: Any) -> PreTrainedModel:
    """`from_pretrained` in fp32; raises `ProblemError` where a tensor is missing, unknown, or of another shape."""
    with _no_progress_bar():
        network, info = kind.from_pretrained(origin, dtype=torch.float32, output_loading_info=True, **how)
    problems = [
        Problem(
            "bad-weights",
            f"{what} {', '.join(sorted(map(str, info[key]))[:5])}",
            origin or "",
            "use weights of this model",
        )
        for key, what in (
            ("missing_keys", "there is no"),
            ("unexpected_keys", "the model has no"),
            ("mismatched_keys", "another shape has"),
        )
        if info[key] and not (origin and key == "unexpected_keys")  # published files hold heads of other tasks too
    ]
    if problems:
        raise ProblemError(problems)
    return network


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """A checkpoint loads in an instant or has a bar of its own; the setting is transformers' and is put back."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
