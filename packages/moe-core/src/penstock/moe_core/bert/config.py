"""Hyper-parameters of the BERT architecture, under the names of its `config.json`, and the presets.

Sizes of `bert-base` are those of bert-base-uncased (arXiv 1810.04805): 109,482,240 parameters with the pooler and
without a head. `small` is what one CPU core trains on a few thousand sentences in half a minute.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from penstock.hooks.architecture import LARGEST_DEPTH, LARGEST_SIZE
from penstock.hooks.contracts import ParameterRole, Prediction
from penstock.hooks.inputs import InputPath
from penstock.hooks.problems import Problem
from penstock.hooks.schema import Schema
from penstock.moe_core.bert import hub_config
from penstock.moe_core.hub.export import rounded_inputs
from penstock.moe_core.hub.settings import PretrainedSettings

PRESETS: dict[str, dict[str, Any]] = {
    "bert-base": {
        "vocab_size": 30_522,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "max_position_embeddings": 512,
    },
    "small": {
        "hidden_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 512,
        "max_position_embeddings": 128,
    },
}

# Fields that may differ from the pretrained checkpoint: they change no weight of the body.
CHANGEABLE = frozenset({"head", "dropout", "initializer_range", "eos_token_id"})


class HeadSettings(Schema):
    """What the model predicts."""

    task: Prediction = Prediction.MASKED
    """`masked-lm` (hidden tokens), `classification` (a label for each text), `tags` (a label for each token) or `spans`
    (the first and the last token of an answer)."""
    labels: int | None = Field(default=None, ge=2, le=LARGEST_SIZE)
    """Number of labels of `classification` and `tags`: as many as the objective names."""

    def misfits(self) -> Iterator[tuple[tuple[str], str]]:
        if self.task == Prediction.NEXT_TOKEN:
            yield ("task",), "an encoder sees the next token: use masked-lm, classification, tags or spans"
        needed = self.task in (Prediction.CLASSIFICATION, Prediction.TAGS)
        if needed and self.labels is None:
            yield ("labels",), f"{self.task} needs the number of labels"
        if not needed and self.labels is not None:
            yield ("labels",), f"{self.task} has no labels: remove it"


class BertConfig(PretrainedSettings):
    """A BERT encoder. Missing sizes come from `preset` or `pretrained`, if given."""

    preset: str | None = None
    """Named set of sizes to start from: bert-base or small."""
    pretrained: InputPath | None = None
    """Hugging Face folder of type bert to take sizes and weights from. A head that it lacks starts fresh, and training
    says so."""
    changeable = CHANGEABLE

    head: HeadSettings = HeadSettings()
    """The head: of masked-language modelling, or of a task."""
    hidden_size: int = Field(gt=0, le=LARGEST_SIZE)
    """Model width D."""
    num_hidden_layers: int = Field(gt=0, le=LARGEST_DEPTH)
    """Number of layers."""
    num_attention_heads: int = Field(gt=0, le=LARGEST_SIZE)
    """Number of attention heads, which divide the width among them."""
    intermediate_size: int = Field(gt=0, le=LARGEST_SIZE)
    """Hidden width of the MLP."""
    max_position_embeddings: int = Field(default=512, gt=0, le=LARGEST_SIZE)
    """Positions that have an embedding; a sequence may not be longer."""
    type_vocab_size: int = Field(default=2, gt=0, le=LARGEST_SIZE)
    """Token types: the first and the second text of a pair."""
    layer_norm_eps: float = Field(default=1e-12, gt=0)
    """Epsilon of every LayerNorm."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of hidden states and attention weights that training drops; 0.1 in BERT. 0 suits models that see each
    example a few times, and is what every comparison with transformers is made with."""
    initializer_range: float = Field(default=0.02, gt=0)
    """Standard deviation of the initial weights."""
    tie_word_embeddings: bool = True
    """Use the embedding matrix in the head of masked-language modelling too, as BERT does."""

    @classmethod
    def presets(cls) -> Mapping[str, Mapping[str, Any]]:
        return PRESETS

    @classmethod
    def example(cls, folder: Path) -> Mapping[str, Any]:
        """Two layers, small enough for a test."""
        return {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 48,
            "max_position_embeddings": 64,
        }

    @classmethod
    def of_checkpoint(cls, path: Path) -> dict[str, Any]:
        return hub_config.read_settings(path)

    @classmethod
    def placeholder(cls) -> Mapping[str, Any]:
        return PRESETS["small"]

    @property
    def absent_roles(self) -> frozenset[ParameterRole]:
        return frozenset({ParameterRole.EXPERT, ParameterRole.ROUTER})

    @property
    def predicts(self) -> Prediction:
        return self.head.task

    @property
    def labels(self) -> int:
        """Outputs of the head of a task."""
        return 2 if self.head.labels is None else self.head.labels

    @property
    def max_positions(self) -> int:
        return self.max_position_embeddings

    @property
    def has_pooler(self) -> bool:
        """BERT's classes for tags, spans and hidden tokens have none: nothing would train it."""
        return self.head.task == Prediction.CLASSIFICATION

    def export_obstacles(self) -> list[Problem]:
        return rounded_inputs(self.quantizer)

    def misfits(self) -> Iterator[tuple[tuple[str | int, ...], str | Problem]]:
        yield from super().misfits()
        if self.hidden_size % self.num_attention_heads:
            heads = f"num_attention_heads ({self.num_attention_heads})"
            yield ("hidden_size",), f"hidden_size ({self.hidden_size}) is not a multiple of {heads}"
