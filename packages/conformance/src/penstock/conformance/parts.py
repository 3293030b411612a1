# pyright: basic
"""What laws of kinds that need torch hold components together with: small real parts, no mocks.

Shape suffixes: B batch, S sequence, T tokens, K experts a token, E experts, D model width, V vocabulary.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from penstock.hooks.contracts import (
    Inputs,
    LossOutput,
    ModelOutput,
    ParameterRole,
    Prediction,
    Router,
    Routing,
)
from penstock.hooks.problems import Problem, ProblemError

VOCABULARY = 32


def random_state() -> tuple[Any, bytes]:
    """The state of Python's and torch's global generators; equal states say that nothing was drawn between them."""
    return random.getstate(), torch.get_rng_state().numpy().tobytes()


class TopKRouter(nn.Module):
    """Sigmoid scores, the k highest after the bias, weights that add up to 1."""

    score_function = "sigmoid"
    e_score_correction_bias: Tensor

    def __init__(self, hidden_size: int, experts: int, k: int) -> None:
        super().__init__()
        self.experts, self.k = experts, k
        self.weight = nn.Parameter(torch.randn(experts, hidden_size) * 0.1)
        self.register_buffer("e_score_correction_bias", torch.zeros(experts))

    def forward(self, hidden_TD: Tensor) -> Routing:
        logits_TE = hidden_TD.float() @ self.weight.T
        score_TE = logits_TE.sigmoid()
        expert_TK = (score_TE + self.e_score_correction_bias).topk(self.k).indices
        weight_TK = score_TE.gather(1, expert_TK)
        return Routing(expert_TK, weight_TK / weight_TK.sum(-1, keepdim=True), logits_TE, score_TE)


def make_router(layer: int, *, hidden_size: int, experts: int) -> Router:
    """A `RouterFactory`: two experts a token, where there are as many."""
    return TopKRouter(hidden_size, experts, min(2, experts))


class HalvingQuantizer:
    """A `Quantizer` whose format holds half of each weight, exactly: what is seen through it is easily told."""

    roles = frozenset({ParameterRole.MATRIX, ParameterRole.EXPERT})

    def fake_quantize(self, weight: Tensor) -> Tensor:
        return weight / 2

    def packed_bytes(self, shape: tuple[int, ...]) -> int:
        return 4 * math.prod(shape)


class TinyModel(nn.Module):
    """A `LanguageModel` of an embedding, a matrix and a head, always the same one; its "quantizer" halves the matrix.

    A position sees itself alone, so that padding changes nothing.
    Its config has the keys that readers of config.json look for, and names no architecture that exists.
    """

    vocabulary_size = VOCABULARY
    compute_dtype = torch.float32
    embedding: nn.Parameter
    middle: nn.Parameter
    head: nn.Parameter

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        draw = {"embedding": (VOCABULARY, 8), "middle": (8, 8), "head": (VOCABULARY, 8)}
        for name, shape in draw.items():
            setattr(self, name, nn.Parameter(torch.randn(shape, generator=generator) * 0.5))

    @property
    def routers(self) -> Mapping[int, Router]:
        return {}

    def forward(self, inputs: Inputs | Tensor, *, cache: Any = None) -> ModelOutput:
        inputs = Inputs.of(inputs)
        inputs.require_only(type(self).__name__, "real_BS")
        return ModelOutput(F.embedding(inputs.token_BS, self.embedding) @ (self.middle.T / 2), {})

    def logits(self, hidden_BSD: Tensor) -> Tensor:
        return hidden_BSD @ self.head.T

    def next_token_loss(self, inputs: Inputs | Tensor, target_BS: Tensor, mask_BS: Tensor | None = None) -> LossOutput:
        output, counted_BS = self(inputs), Inputs.of(inputs).counted(mask_BS)
        logits_BSV = self.logits(output.hidden_BSD)
        nll_BS = F.cross_entropy(logits_BSV.flatten(0, 1), target_BS.flatten(), reduction="none").view_as(target_BS)
        if counted_BS is not None:
            nll_BS = nll_BS.masked_fill(~counted_BS, 0)
        return LossOutput(nll_BS.sum(), nll_BS.detach(), output.routings)

    def masked_token_loss(self, inputs: Inputs | Tensor, target_BS: Tensor, mask_BS: Tensor) -> LossOutput:
        return self.next_token_loss(inputs, target_BS, mask_BS)

    def new_cache(self, batch: int, capacity: int) -> None:
        return None

    @torch.no_grad()
    def generate(self, inputs: Inputs | Tensor, *, tokens: int, **sampling: Any) -> Tensor:
        token_BS = Inputs.of(inputs).token_BS
        for _ in range(tokens):
            next_B1 = self.logits(self(token_BS).hidden_BSD[:, -1:]).argmax(-1)
            token_BS = torch.cat((token_BS, next_B1), dim=1)
        return token_BS

    def parameter_roles(self) -> dict[str, ParameterRole]:
        return {
            "embedding": ParameterRole.EMBEDDING,
            "middle": ParameterRole.MATRIX,
            "head": ParameterRole.HEAD,
        }

    def export_config(self) -> dict[str, Any]:
        return {
            "architectures": ["TinyModel"],
            "model_type": "tiny",
            "vocab_size": VOCABULARY,
            "hidden_size": 8,
            "max_position_embeddings": 64,
            "tie_word_embeddings": False,
            "eos_token_id": 0,
        }

    def export_state(self, *, materialize: bool = False) -> dict[str, Tensor]:
        state = {f"model.{name}": tensor for name, tensor in self.state_dict().items()}
        return state | ({"model.middle": self.middle.detach() / 2} if materialize else {})

    def load_export_state(self, state: Mapping[str, Tensor]) -> None:
        wrong = sorted(state.keys() ^ self.export_state().keys())
        if wrong:
            raise ProblemError([Problem("bad-checkpoint", f"tensor '{name}' is missing or unknown") for name in wrong])
        self.load_state_dict({name.removeprefix("model."): tensor for name, tensor in state.items()})


class TinyEncoder(nn.Module):
    """What an objective may ask of an encoder: the loss of a `MaskedLanguageModel`, or the logits of a `TaskModel` with
    so many labels, and nothing else. A position sees itself alone; a text has the label of its first token."""

    def __init__(self, prediction: Prediction, labels: int) -> None:
        super().__init__()
        self.inner, self.prediction, self.labels = TinyModel(), prediction, labels

    def masked_token_loss(self, inputs: Inputs | Tensor, target_BS: Tensor, mask_BS: Tensor) -> LossOutput:
        if self.prediction != Prediction.MASKED:
            raise AttributeError("masked_token_loss")
        return self.inner.masked_token_loss(_without_types(inputs), target_BS, mask_BS)

    def task_logits(self, inputs: Inputs | Tensor) -> Tensor:
        if self.prediction == Prediction.MASKED:
            raise AttributeError("task_logits")
        logits_BSL = self.inner.logits(self.inner(_without_types(inputs)).hidden_BSD)[..., : self.labels]
        return logits_BSL[:, 0] if self.prediction == Prediction.CLASSIFICATION else logits_BSL


def _without_types(inputs: Inputs | Tensor) -> Inputs:
    return replace(Inputs.of(inputs), type_BS=None)


def write_tokenizer(folder: Path) -> Path:
    """A `tokenizer.json` with as many words as `TinyModel` has embeddings; word 0 ends a text."""
    words = {"<|endoftext|>": 0, **{f"word{number}": number for number in range(1, VOCABULARY)}}
    special = {"id": 0, "content": "<|endoftext|>", "special": True}
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    parts = dict.fromkeys(("truncation", "padding", "normalizer", "post_processor", "decoder"))
    document = {
        "version": "1.0",
        **parts,
        "added_tokens": [{**special, **plain}],
        "pre_tokenizer": {"type": "Whitespace"},
        "model": {"type": "WordLevel", "vocab": words, "unk_token": "<|endoftext|>"},
    }
    file = folder / "tokenizer.json"
    file.write_text(json.dumps(document), encoding="utf-8")
    return file
