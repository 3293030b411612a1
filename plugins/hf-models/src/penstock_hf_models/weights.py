"""Import and export of weights under hub names, where each expert of most families is a separate tensor.

transformers keeps experts stacked in memory; its own conversion, which only moves elements, maps the names both ways.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion
from transformers.utils import logging

from penstock.hooks.problems import Problem, ProblemError


def head_is_tied(network: PreTrainedModel) -> bool:
    """Whether the head is tied to the embedding, by the config or later."""
    head = network.get_output_embeddings()
    return head is not None and head.weight is network.get_input_embeddings().weight


def export_state(network: PreTrainedModel) -> dict[str, Tensor]:
    """Every parameter and persistent buffer, except names that transformers ties to another on load."""
    tied = set(getattr(network, "all_tied_weights_keys", None) or {})
    if head_is_tied(network):
        weight = network.get_input_embeddings().weight
        _, *others = (name for name, each in network.named_parameters(remove_duplicate=False) if each is weight)
        tied |= set(others)
    state = {name: value for name, value in network.state_dict().items() if name not in tied}
    exported = dict(revert_weight_conversion(network, state))
    # The conversion copies what it splits; what two names share in the model stays one memory, and is stored once.
    for first, other in _shared(network, state):
        mine, others = (
            list(revert_weight_conversion(network, {name: state[name].to("meta")})) for name in (first, other)
        )
        exported.update(zip(others, (exported[name] for name in mine), strict=True))
    return exported


def load_state(network: PreTrainedModel, state: Mapping[str, Tensor]) -> None:
    """Puts `export_state()` of an equal model into this one; raises `ProblemError` that names what does not fit."""
    _require_fit(_shapes(export_state(network)), _shapes(state))
    config = copy.deepcopy(network.config)
    config.tie_word_embeddings = head_is_tied(network)
    network.load_state_dict(loaded(type(network), None, config=config, state_dict=dict(state)).state_dict())


def loaded(kind: type[PreTrainedModel], origin: str | None, **how: Any) -> PreTrainedModel:
    """`from_pretrained` in fp32; raises `ProblemError` if the file is missing or damaged, the model cannot be built
    from the config, or a tensor is missing, unknown, or of another shape."""
    try:
        with _no_progress_bar():
            loading: Any = kind.from_pretrained(
                origin, dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True, **how
            )
    except (OSError, SafetensorError) as error:
        what = f"weights cannot be read ({' '.join(str(error).split())})"
        raise ProblemError(Problem("bad-weights", what, origin or "", "save or download them again")) from error
    except Exception as error:  # of Python's unpickler, of packages that are not here, of what is built from the config
        if origin is None:
            raise  # a model of ours, and no file
        what = f"model cannot be loaded ({type(error).__name__}: {' '.join(str(error).split())})"
        fix = "check its config.json, and save or download its weights again"
        raise ProblemError(Problem("bad-weights", what, origin, fix)) from error
    network, info = loading
    unknown = () if origin else info["unexpected_keys"]  # published files hold heads of other tasks too
    mismatched = (key[0] if isinstance(key, tuple) else key for key in info["mismatched_keys"])
    _require_none(info["missing_keys"], unknown, mismatched, where=origin or "")
    return network


def _require_fit(expected: Mapping[str, torch.Size], found: Mapping[str, torch.Size]) -> None:
    other = (name for name in expected.keys() & found.keys() if expected[name] != found[name])
    _require_none(expected.keys() - found.keys(), found.keys() - expected.keys(), other)


def _require_none(missing: Iterable[str], unknown: Iterable[str], mismatched: Iterable[str], where: str = "") -> None:
    found = (("missing tensors:", missing), ("unknown tensors:", unknown), ("tensors of another shape:", mismatched))
    problems = [
        Problem("bad-weights", f"{what} {', '.join(sorted(names)[:5])}", where, "use weights of this model")
        for what, names in ((what, list(names)) for what, names in found)
        if names
    ]
    if problems:
        raise ProblemError(problems)


def _shapes(state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in state.items()}


def _shared(network: PreTrainedModel, state: Mapping[str, Tensor]) -> Iterator[tuple[str, str]]:
    """Pairs of names of one parameter: the first name with each other name."""
    first: dict[int, str] = {}
    for name, parameter in network.named_parameters(remove_duplicate=False):
        if name in state and first.setdefault(id(parameter), name) != name:
            yield first[id(parameter)], name


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """Hides transformers' progress bar while loading, and restores the setting."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
