# pyright: basic
"""What holds of the state that a model exports, and of parameters that are shared."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

import torch
from torch import Tensor

from penstock.conformance.law import NotApplicable, Subject, Violation, expect, law, laws_in
from penstock.conformance.laws.models.build import (
    ARCHITECTURE,
    expect_close,
    logits_of,
    model_of,
    names_of_one_form,
    random_tokens,
    redrawn,
    share,
)
from penstock.conformance.laws.models.construction import CONFIG, ROLES, SEEDS
from penstock.conformance.laws.models.passes import LOGITS
from penstock.conformance.parts import HalvingQuantizer
from penstock.hooks.problems import ProblemError

HEADS = ("lm_head.", "cls.")  # what transformers' classes call their head of text


@law(ARCHITECTURE, needs=LOGITS)
def an_exported_state_can_be_loaded(subject: Subject) -> None:
    """`load_export_state(export_state())` restores a fresh model bit for bit, buffers included.

    Export everything in `state_dict`, and undo renaming and splitting on load.
    """
    model, fresh = redrawn(subject), model_of(subject, seed=1)
    fresh.load_export_state(_copied(model.export_state()))
    own, loaded = model.state_dict(), fresh.state_dict()
    other = sorted(name for name in own if name not in loaded or not torch.equal(own[name], loaded[name]))
    expect(not other, f"different after loading: {', '.join(other)}")


STATE = (an_exported_state_can_be_loaded,)


@law(ARCHITECTURE, needs=STATE)
def a_loaded_state_is_a_copy(subject: Subject) -> None:
    """Training a model does not change the state that it loaded.

    Copy tensors into the parameters; do not alias them.
    """
    fresh, state = model_of(subject, seed=1), _copied(redrawn(subject).export_state())
    before = _copied(state)
    fresh.load_export_state(state)
    with torch.no_grad():
        for parameter in fresh.parameters():
            parameter.add_(1)
    other = [name for name in state if not torch.equal(state[name], before[name])]
    expect(not other, f"training changed the loaded {', '.join(other)}")


@law(ARCHITECTURE, needs=STATE)
def a_missing_tensor_is_named(subject: Subject) -> None:
    """A state that lacks any tensor raises a `ProblemError`.

    Name the missing tensor: compare names before loading anything.
    """
    state = _copied(redrawn(subject).export_state())
    for name in state:
        less = {other: tensor for other, tensor in state.items() if other != name}
        _expect_problem(subject, less, f"without '{name}'")


@law(ARCHITECTURE, needs=STATE)
def an_unknown_tensor_is_named(subject: Subject) -> None:
    """A state with an unknown tensor raises a `ProblemError` that names it.

    It belongs to another model: do not drop it silently.
    """
    state = {**_copied(redrawn(subject).export_state()), "stranger.weight": torch.zeros(2)}
    message = _expect_problem(subject, state, "with 'stranger.weight'")
    expect("stranger.weight" in message, f"the problem does not name 'stranger.weight': {message}")


@law(ARCHITECTURE, needs=STATE)
def a_loaded_model_computes_the_same(subject: Subject) -> None:
    """A model that loads a state computes the logits of the exporting model, bit for bit.

    A forward pass may use only parameters, registered buffers, and values that follow from the settings.
    """
    model, fresh, token_BS = redrawn(subject), model_of(subject, seed=1).eval(), random_tokens(2, 9)
    fresh.load_export_state(_copied(model.export_state()))
    expect(torch.equal(logits_of(fresh, token_BS), logits_of(model, token_BS)), "the logits of both differ")


@law(ARCHITECTURE, needs=(a_loaded_model_computes_the_same,))
def a_materialized_state_computes_the_same(subject: Subject) -> None:
    """The `materialize=True` state of a model with a quantizer gives the same logits in a model without one.

    Apply the quantizer to the same matrices as the forward pass does.
    """
    try:
        model = redrawn(subject, quantizer=HalvingQuantizer())
    except ProblemError as refusal:
        raise NotApplicable(f"no quantizer can be built in ({refusal})") from refusal
    plain = model_of(subject, seed=1)
    plain.load_export_state(_copied(model.export_state(materialize=True)))
    plain.eval()
    expect_close(
        logits_of(plain, random_tokens(2, 9)), logits_of(model, random_tokens(2, 9)), "in a model without quantizer"
    )


@law(ARCHITECTURE, needs=STATE)
def an_exported_state_can_be_written(subject: Subject) -> None:
    """`export_state()` survives a round trip through safetensors.

    Export a shared tensor once: leave out its other names.
    """
    if importlib.util.find_spec("safetensors") is None:
        raise NotApplicable("safetensors is not installed")
    library: Any = importlib.import_module("safetensors.torch")
    state = redrawn(subject).export_state()
    shared = _same_memory(state)
    expect(not shared, f"the same tensor under two names: {', '.join(shared)}")
    library.save_file(_copied(state), subject.folder / "model.safetensors")
    model_of(subject, seed=1).load_export_state(library.load_file(subject.folder / "model.safetensors"))


@law(ARCHITECTURE, needs=(*SEEDS, *ROLES, *LOGITS))
def a_parameter_that_is_replaced_is_used(subject: Subject) -> None:
    """After a parameter is replaced in its module, the forward pass and `parameter_roles` use the new one.

    Sharing strategies tie parameters this way: read them from their modules, and keep no other references.
    """
    shared, copied, token_BS = redrawn(subject), redrawn(subject), random_tokens(2, 9)
    pairs = _pairs(shared)
    parameters = dict(copied.named_parameters())
    with torch.no_grad():
        for first, second in pairs:
            parameters[second].copy_(parameters[first])
    share(shared, pairs)
    expect_close(logits_of(shared, token_BS), logits_of(copied, token_BS), "after sharing")
    different = sorted(shared.parameter_roles().keys() ^ {name for name, _ in shared.named_parameters()})
    expect(not different, f"after sharing, without a role, or not a parameter: {', '.join(different)}")


@law(ARCHITECTURE, needs=(*ROLES, *STATE))
def a_shared_tensor_is_exported_once(subject: Subject) -> None:
    """A shared parameter is exported under one name or as one memory, and a model with the same sharing loads it.

    Export the tensors themselves, not copies, so that a checkpoint does not hold them twice.
    """
    model, fresh = redrawn(subject), model_of(subject, seed=1)
    pairs = _pairs(model)
    share(model, pairs)
    share(fresh, pairs)
    state = model.export_state()
    held, needed = _distinct_numbers(state), _distinct_numbers(model.state_dict())
    expect(held <= needed, f"the exported state has {held} numbers, and the model {needed}")
    fresh.load_export_state(_copied(state))
    own, loaded = model.state_dict(), fresh.state_dict()
    other = sorted(name for name in own if not torch.equal(own[name], loaded[name]))
    expect(not other, f"different after loading: {', '.join(other)}")


@law(ARCHITECTURE, needs=(*CONFIG, *STATE), capability="huggingface-layout")
def transformers_has_its_class(subject: Subject) -> None:
    """`architectures` and `model_type` of the config name a transformers class, and tensors are named as it names them:
    `model.*` and `lm_head.*`, or with the prefix that the class gives its body.

    Name tensors after the class; an installed transformers must know it.
    """
    model = model_of(subject)
    config = model.export_config()
    classes, kind = config.get("architectures"), config.get("model_type")
    expect(isinstance(classes, list) and len(classes) == 1 and kind, f"architectures {classes!r}, model_type {kind!r}")
    body = "model"
    if importlib.util.find_spec("transformers") is not None:
        library: Any = importlib.import_module("transformers")
        expect(hasattr(library, classes[0]), f"transformers has no class {classes[0]}")
        body = getattr(library, classes[0]).base_model_prefix
    foreign = [name for name in model.export_state() if not name.startswith((f"{body}.", *HEADS))]
    expect(not foreign, f"not in a {classes[0]} of transformers: {', '.join(foreign[:3])}")


def _copied(state: Any) -> dict[str, Tensor]:
    return {name: tensor.detach().clone().contiguous() for name, tensor in state.items()}


def _same_memory(state: dict[str, Tensor]) -> list[str]:
    """Names that stand for the memory of another name."""
    seen: set[tuple[int, tuple[int, ...]]] = set()
    twice: list[str] = []
    for name, tensor in state.items():
        where = (tensor.data_ptr(), tuple(tensor.shape))
        if where in seen:
            twice.append(name)
        seen.add(where)
    return twice


def _expect_problem(subject: Subject, state: dict[str, Tensor], what: str) -> str:
    try:
        model_of(subject, seed=1).load_export_state(state)
    except ProblemError as error:
        return str(error)
    raise Violation(f"a state {what} was loaded")


def _pairs(model: Any) -> list[tuple[str, str]]:
    pairs = names_of_one_form(model)
    if not pairs:
        raise NotApplicable("no two parameters have one role and one shape")
    return pairs


def _distinct_numbers(state: dict[str, Tensor]) -> int:
    """How many numbers the tensors hold; those at one place in memory count once."""
    places = {(tensor.data_ptr(), tensor.numel()) for tensor in state.values()}
    return sum(count for _, count in places)


LAWS = laws_in(globals())
