# pyright: basic
"""What holds of a pass: logits, routings, modes, caches, and the texts that are made of them.

Shape suffixes: B batch, S sequence, T tokens, K experts a token, D model width, V vocabulary.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from penstock.conformance.law import NotApplicable, Subject, expect, law, laws_in
from penstock.conformance.laws.models.build import (
    ARCHITECTURE,
    VOCABULARY,
    expect_close,
    generating,
    gradients_of,
    logits_of,
    loss_of,
    random_tokens,
    redrawn,
)
from penstock.conformance.laws.models.construction import STACKS
from penstock.conformance.parts import TopKRouter
from penstock.hooks.contracts import ParameterRole, Router, RouterFactory, Routing


@law(ARCHITECTURE)
def logits_are_fp32_over_the_vocabulary(subject: Subject) -> None:
    """A forward pass over [B, S] tokens gives finite fp32 logits [B, S, V] with V = `vocabulary_size`.

    Cast after the head; pad the vocabulary inside the model, if at all.
    """
    model = redrawn(subject)
    expect(model.vocabulary_size == VOCABULARY, f"vocabulary_size is {model.vocabulary_size} instead of {VOCABULARY}")
    for shape in ((2, 9), (1, 1)):
        logits = logits_of(model, random_tokens(*shape))
        expected = (*shape, VOCABULARY)
        good = tuple(logits.shape) == expected and logits.dtype == torch.float32
        expect(good, f"the logits of {shape} tokens are {logits.dtype} {tuple(logits.shape)}")
        expect(logits.isfinite().all(), f"the logits of {shape} tokens are not finite")


LOGITS = (logits_are_fp32_over_the_vocabulary,)


@law(ARCHITECTURE, needs=LOGITS, capability="causal")
def later_tokens_change_no_earlier_logits(subject: Subject) -> None:
    """Changing the token at position t does not change the logits before t.

    Check the attention mask, and routers in which experts choose tokens.
    """
    model, token_BS = redrawn(subject), random_tokens(2, 9)
    before = logits_of(model, token_BS)
    for position in (4, 8):
        changed_BS = token_BS.clone()
        changed_BS[:, position] = (changed_BS[:, position] + 7) % VOCABULARY
        expect_close(logits_of(model, changed_BS)[:, :position], before[:, :position], f"before position {position}")


@law(ARCHITECTURE, needs=LOGITS)
def texts_of_a_batch_are_independent(subject: Subject) -> None:
    """A text has the same logits alone as in a batch.

    Do not compute statistics over the batch, and do not drop tokens because others want the same expert.
    """
    model, token_BS = redrawn(subject), random_tokens(3, 9)
    together = logits_of(model, token_BS)
    for row in range(3):
        expect_close(logits_of(model, token_BS[row : row + 1])[0], together[row], f"of text {row}")


@law(ARCHITECTURE, needs=LOGITS, capability="empty-batches")
def a_batch_may_be_empty(subject: Subject) -> None:
    """[0, S] tokens give logits [0, S, V] and a loss of zero that can be differentiated.

    Do not take a maximum over the batch, and reshape with explicit sizes instead of -1.
    """
    model, token_BS = redrawn(subject), random_tokens(0, 5)
    logits = logits_of(model, token_BS)
    expect(tuple(logits.shape) == (0, 5, VOCABULARY), f"the logits are {tuple(logits.shape)}")
    loss = loss_of(model, token_BS, token_BS).loss
    expect(loss.item() == 0, f"the loss is {loss.item()}")
    loss.backward()


@law(ARCHITECTURE, needs=LOGITS, capability="noise-free")
def training_computes_what_evaluation_does(subject: Subject) -> None:
    """Training mode and evaluation mode compute the same logits.

    Check for dropout, and for noise added by routers or norms.
    """
    model, token_BS = redrawn(subject), random_tokens(2, 9)
    expected = logits_of(model, token_BS)
    expect_close(logits_of(model.train(), token_BS), expected, "in training mode")


@law(ARCHITECTURE, needs=LOGITS)
def evaluation_changes_nothing(subject: Subject) -> None:
    """A forward pass in evaluation mode changes no parameter or buffer, and a second one gives the same logits.

    Do not count or keep running means in the forward pass: return what others count.
    """
    model, token_BS = redrawn(subject), random_tokens(2, 9)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    first, second = logits_of(model, token_BS), logits_of(model, token_BS)
    other = [name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])]
    expect(not other, f"a pass changed {', '.join(other)}")
    expect(torch.equal(first, second), "two evaluations give different logits")


@law(ARCHITECTURE, needs=LOGITS, capability="compilable")
def the_compiler_takes_a_pass_whole(subject: Subject) -> None:
    """`torch.compile(fullgraph=True)` traces a forward pass, and the compiled pass gives the same logits.

    Do not let tensor values decide what is computed (`if tensor.any():`) or a shape.
    """
    from torch._dynamo.eval_frame import is_dynamo_supported  # takes seconds: imported by this law alone

    if not is_dynamo_supported():
        raise NotApplicable("torch.compile does not work here")
    model, token_BS = redrawn(subject), random_tokens(2, 9)
    expected = logits_of(model, token_BS)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with _without_logging():  # what cannot be traced is the law's to tell
        found = model.logits(compiled(token_BS).hidden_BSD)
    expect_close(found.detach(), expected, "compiled")


@law(ARCHITECTURE, needs=LOGITS)
def every_router_has_a_routing(subject: Subject) -> None:
    """A forward pass returns a routing of every token for each layer in `routers`; so does the loss.

    Losses, balancers and traces go by layer index: use the same index in both.
    """
    model, token_BS = redrawn(subject), random_tokens(2, 9)
    routers = dict(model.routers)
    passes = (model(token_BS).routings, loss_of(model, token_BS, token_BS).routings)
    for routings in passes:
        expect(routings.keys() == routers.keys(), f"routers {sorted(routers)}, and routings {sorted(routings)}")
        for layer, routing in routings.items():
            expected = (18, routers[layer].k)
            good = isinstance(routing, Routing) and tuple(routing.expert_TK.shape) == expected
            expect(good, f"the routing of layer {layer} is not of {expected[0]} tokens and {expected[1]} experts each")


ROUTINGS = (every_router_has_a_routing,)


@law(ARCHITECTURE, needs=ROUTINGS)
def a_router_is_asked_once_a_pass(subject: Subject) -> None:
    """A forward pass calls each router once, for all tokens, and returns the routing that it gave.

    A router may drop tokens over capacity: the routing that is counted must be the one that is computed.
    """
    _require_chosen_routers(subject)
    answers: list[Routing] = []
    model = redrawn(subject, make_router=_routers_of(_Remembering, answers))
    routings = model(random_tokens(2, 9)).routings
    expect(len(answers) == len(routings), f"{len(model.routers)} routers were asked {len(answers)} times")
    own = all(any(routing is answer for answer in answers) for routing in routings.values())
    expect(own, "a returned routing did not come from a router")


@law(ARCHITECTURE, needs=(*ROUTINGS, *STACKS))
def slots_that_are_not_kept_compute_nothing(subject: Subject) -> None:
    """An expert whose slots are all dropped or empty does not affect logits or gradients, whatever its weights are.

    Skip slots that are False in `Routing.kept_TK`; do not multiply by zero, because zero times infinity is NaN.
    """
    _require_chosen_routers(subject)
    model = redrawn(subject, make_router=_routers_of(_Sparing))
    roles, token_BS = model.parameter_roles(), random_tokens(2, 9)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if roles[name] == ParameterRole.EXPERT:
                parameter[0] = math.nan
    expect(logits_of(model, token_BS).isfinite().all(), "weights of an expert without tokens reach the logits")
    loss_of(model, token_BS, token_BS).loss.backward()
    reached = [name for name, gradient in gradients_of(model).items() if not gradient.isfinite().all()]
    expect(not reached, f"weights of an expert without tokens reach the gradient of {', '.join(reached)}")


@law(ARCHITECTURE, needs=LOGITS)
def generated_tokens_follow_the_prompt(subject: Subject) -> None:
    """`generate` returns the prompt and the requested number of new tokens, int64, within the vocabulary.

    Return the whole text, not only the continuation.
    """
    model, prompt_BS = generating(redrawn(subject)), random_tokens(2, 5)
    text_BS = model.generate(prompt_BS, tokens=4)
    expect(tuple(text_BS.shape) == (2, 9), f"5 tokens and 4 more are {tuple(text_BS.shape)}")
    expect(text_BS.dtype == torch.int64, f"the tokens are {text_BS.dtype}")
    expect(torch.equal(text_BS[:, :5], prompt_BS), "the text does not begin with the prompt")
    inside = int(text_BS.min()) >= 0 and int(text_BS.max()) < VOCABULARY
    expect(inside, "a token is outside the vocabulary")


@law(ARCHITECTURE, needs=(generated_tokens_follow_the_prompt,))
def generation_is_greedy_unless_asked_otherwise(subject: Subject) -> None:
    """Without sampling options each new token is the argmax of a full forward pass, and the model's mode is restored.

    Check that the cache gives the same logits as a full pass, and restore `training`.
    """
    model, prompt_BS = generating(redrawn(subject)), random_tokens(2, 5)
    model.train()
    text_BS = model.generate(prompt_BS, tokens=4)
    expect(model.training, "the model was in training mode before, and is in evaluation mode after")
    model.eval()
    for position in range(5, 9):
        scores_BV = logits_of(model, text_BS[:, :position])[:, -1]
        chosen_B = scores_BV.gather(1, text_BS[:, position, None]).squeeze(1)
        expect((chosen_B >= scores_BV.amax(-1) - 1e-4).all(), f"token {position} is not the most likely one")


@law(ARCHITECTURE, needs=LOGITS, capability="cached")
def a_text_may_be_read_piece_by_piece(subject: Subject) -> None:
    """With a cache from `new_cache(batch, capacity)`, a text read in pieces has the same logits as the whole text.

    Check the positions of later pieces, and the mask within a piece.
    """
    model, token_BS = redrawn(subject), random_tokens(2, 9)
    whole, cache = logits_of(model, token_BS), model.new_cache(2, 9)
    pieces = [logits_of(model, piece, cache=cache) for piece in token_BS.split((4, 1, 3, 1), dim=1)]
    expect_close(torch.cat(pieces, dim=1), whole, "piece by piece")


@contextmanager
def _without_logging() -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


class _Remembering(TopKRouter):
    """Keeps the routings that it gives in a list that it was made with."""

    def __init__(self, hidden_size: int, experts: int, k: int, answers: list[Routing]) -> None:
        super().__init__(hidden_size, experts, k)
        self.answers = answers

    def forward(self, hidden_TD: Tensor) -> Routing:
        routing = super().forward(hidden_TD)
        self.answers.append(routing)
        return routing


class _Sparing(TopKRouter):
    """Drops every slot of expert 0."""

    def forward(self, hidden_TD: Tensor) -> Routing:
        routing = super().forward(hidden_TD)
        kept_TK = routing.expert_TK != 0
        return replace(routing, weight_TK=routing.weight_TK * kept_TK, kept_TK=kept_TK, dropped_TK=~kept_TK)


def _require_chosen_routers(subject: Subject) -> None:
    """A config chooses routers for the layers that the settings name; a model may bring its own, which no law makes."""
    chosen = getattr(subject.choice().settings, "expert_layers", None)
    if chosen is not None and not chosen:
        raise NotApplicable("no layer takes a router from the config")


def _routers_of(make: Callable[..., Router], *arguments: Any) -> RouterFactory:
    """A factory of routers that choose two experts, or all where there are fewer."""

    def make_router(layer: int, *, hidden_size: int, experts: int) -> Router:
        return make(hidden_size, experts, min(2, experts), *arguments)

    return make_router


LAWS = laws_in(globals())
