# pyright: basic
"""What holds of `Inputs`: padding, documents, token ids for routers, and fields that a model cannot read.

Shape suffixes: B batch, S sequence, T tokens, K experts a token.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from penstock.conformance.law import Subject, expect, law, laws_in
from penstock.conformance.laws.models.build import (
    ARCHITECTURE,
    expect_close,
    logits_of,
    model_of,
    random_tokens,
    redrawn,
)
from penstock.conformance.laws.models.passes import LOGITS
from penstock.conformance.parts import TopKRouter
from penstock.hooks.architecture import ArchitectureSettings
from penstock.hooks.contracts import Inputs, Prediction, Router, Routing
from penstock.hooks.problems import ProblemError

LENGTHS = (7, 3, 5)
MEMBERS = ("vocabulary_size", "compute_dtype", "routers", "logits")
OF_A_LOSS = {
    Prediction.NEXT_TOKEN: ("next_token_loss", "new_cache", "generate"),
    Prediction.MASKED: ("masked_token_loss",),
}


@law(ARCHITECTURE)
def its_schema_is_one_of_architectures(subject: Subject) -> None:
    """The component's schema extends `penstock.hooks.architecture.ArchitectureSettings`.

    A run reads the router, balance, sharing, quantizer, vocabulary size and limits from it.
    """
    settings = subject.choice().settings
    expect(isinstance(settings, ArchitectureSettings), f"its settings are a {type(settings).__name__}")


@law(ARCHITECTURE)
def it_has_the_members_of_the_contract(subject: Subject) -> None:
    """A model has every member of what it predicts that runs use: of `LanguageModel`, or of `MaskedLanguageModel`.

    `new_cache` returns None if the model keeps nothing between passes.
    """
    model = model_of(subject)
    predicts = getattr(subject.choice().settings, "predicts", Prediction.NEXT_TOKEN)
    needed = (*MEMBERS, *OF_A_LOSS[predicts])
    if subject.component.contract == 1:
        needed = tuple(set(needed) - {"compute_dtype", "new_cache"})
    missing = [name for name in needed if not hasattr(model, name)]
    expect(not missing, f"it lacks {', '.join(missing)}")


@law(ARCHITECTURE, needs=LOGITS)
def what_a_model_cannot_read_is_refused_by_name(subject: Subject) -> None:
    """Each field of `Inputs` either changes the logits or is refused by a `ProblemError` that names it.

    Call `Inputs.of(inputs).require_only("MyModel", ...)` with the fields that are read: ignored padding gives wrong
    numbers.
    """
    model, token_BS = redrawn(subject), random_tokens(2, 9)
    plain = logits_of(model, token_BS)
    for name, value in _every_field(model, token_BS).items():
        try:
            found = logits_of(model, Inputs(token_BS, **{name: value}))
        except ProblemError as error:
            expect(name in str(error), f"`{name}` is refused without its name: {error}")
            continue
        expect(not torch.equal(found, plain), f"`{name}` is ignored")


@law(ARCHITECTURE, needs=LOGITS, capability="padding")
def padding_changes_nothing(subject: Subject) -> None:
    """Texts padded on either side have the same logits as each text alone, and no routing keeps a padding slot.

    Prompts padded on the left must continue as each does alone. Hide padding from attention and routers
    (`Inputs.real_BS`), and count positions from the first real token.
    """
    model, texts = redrawn(subject), [random_tokens(1, length, seed=length)[0] for length in LENGTHS]
    for side in ("left", "right"):
        inputs = _padded(texts, side)
        together, real_BS = logits_of(model, inputs), inputs.real_BS
        for row, text in enumerate(texts):
            expect_close(together[row][real_BS[row]], logits_of(model, text[None])[0], f"padded on the {side}")
        for layer, routing in model(inputs).routings.items():
            kept = routing.kept_TK is not None and not routing.kept_TK[~real_BS.flatten()].any()
            expect(kept, f"layer {layer} keeps slots of padding")
    if not hasattr(model, "generate"):
        return
    text_BS = model.generate(_padded(texts, "left"), tokens=4)
    for row, text in enumerate(texts):
        alone_S = model.generate(text[None], tokens=4)[0]
        expect(torch.equal(text_BS[row, -len(alone_S) :], alone_S), "a padded prompt continues differently")


@law(ARCHITECTURE, needs=LOGITS, capability="documents")
def documents_of_a_row_are_independent(subject: Subject) -> None:
    """With `Inputs.document_BS` each document of a row has the same logits as it has alone.

    Keep attention inside each document; positions may continue across documents.
    """
    model, texts = redrawn(subject), [random_tokens(1, length, seed=length)[0] for length in LENGTHS]
    document_BS = torch.cat([torch.full((length,), number) for number, length in enumerate(LENGTHS)])[None]
    packed = logits_of(model, Inputs(torch.cat(texts)[None], document_BS=document_BS))[0]
    for found, text in zip(packed.split(LENGTHS), texts, strict=True):
        expect_close(found, logits_of(model, text[None])[0], "of a document")


@law(ARCHITECTURE, needs=LOGITS, capability="token-ids")
def routers_are_given_the_ids_that_they_ask_for(subject: Subject) -> None:
    """A router whose `asks` contains "token_T" is called with the ids of its rows, in order.

    Call `router(hidden_TD, token_T=token_BS.flatten())` with real tokens only.
    """
    model, token_BS = redrawn(subject, make_router=_asking_router), random_tokens(2, 9)
    model(token_BS)
    expect(model.routers, "no layer takes a router from the config")
    for router in model.routers.values():
        expect(torch.equal(router.seen_T, token_BS.flatten()), "a router got different ids")


class _Asking(TopKRouter):
    """Remembers the ids that it was given."""

    asks = frozenset({"token_T"})
    seen_T: Tensor

    def forward(self, hidden_TD: Tensor, *, token_T: Tensor) -> Routing:
        self.seen_T = token_T
        return super().forward(hidden_TD)


def _asking_router(layer: int, *, hidden_size: int, experts: int) -> Router:
    router: Any = _Asking(hidden_size, experts, min(2, experts))
    return router


def _padded(texts: list[Tensor], side: str) -> Any:
    length = max(map(len, texts))
    token_BS = torch.zeros(len(texts), length, dtype=torch.int64)
    real_BS = torch.zeros_like(token_BS, dtype=torch.bool)
    for row, text in enumerate(texts):
        columns = slice(0, len(text)) if side == "right" else slice(length - len(text), None)
        token_BS[row, columns], real_BS[row, columns] = text, True
    return Inputs(token_BS, real_BS)


def _every_field(model: Any, token_BS: Tensor) -> dict[str, Any]:
    position_BS = torch.arange(token_BS.shape[1]).expand_as(token_BS)
    fields = {
        "real_BS": position_BS > 0,
        "document_BS": position_BS // 5,
        "position_BS": position_BS.flip(1),
        "type_BS": torch.ones_like(token_BS),
        "encoder": Inputs(token_BS),
    }
    experts = {layer: torch.arange(router.k).expand(*token_BS.shape, -1) for layer, router in model.routers.items()}
    return fields | ({"expert_BSK": experts} if experts else {})


LAWS = laws_in(globals())
