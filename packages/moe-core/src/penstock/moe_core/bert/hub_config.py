"""The `config.json` of BERT checkpoints in the Hugging Face layout, written and read. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock.hooks.contracts import Prediction
from penstock.moe_core.hub.config_file import CONFIG_FILE, read_config, require_supported, require_whole_numbers

if TYPE_CHECKING:
    from penstock.moe_core.bert.config import BertConfig

SIZES = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
    "type_vocab_size",
)

# The defaults of transformers for missing fields. Those for sizes are not used: a file without sizes is refused.
ABSENT: dict[str, Any] = {
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "initializer_range": 0.02,
    "hidden_dropout_prob": 0.1,
    "tie_word_embeddings": True,
    "hidden_act": "gelu",
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
}

# transformers' class of each head.
CLASSES: Mapping[Prediction, str] = {
    Prediction.MASKED: "BertForMaskedLM",
    Prediction.CLASSIFICATION: "BertForSequenceClassification",
    Prediction.TAGS: "BertForTokenClassification",
    Prediction.SPANS: "BertForQuestionAnswering",
}
# What a config says whose tensors no class of transformers reads.
OWN: dict[str, Any] = {"architectures": ["PenstockBert"], "model_type": "penstock_bert"}
READS = "a model can start from Hugging Face's type bert"


def to_hub_config(config: BertConfig, *, tied: bool) -> dict[str, Any]:
    """`config.json` of the class that has the model's head."""
    ends = config.eos_token_id
    labels = {str(number): f"LABEL_{number}" for number in range(config.labels)}
    return {
        "architectures": [CLASSES[config.head.task]],
        "model_type": "bert",
        **{name: getattr(config, name) for name in SIZES},
        "hidden_act": "gelu",
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.dropout,
        "layer_norm_eps": config.layer_norm_eps,
        "initializer_range": config.initializer_range,
        "position_embedding_type": "absolute",
        "tie_word_embeddings": tied,
        "eos_token_id": config.eos_token_id,
        "pad_token_id": next(iter(ends), None) if isinstance(ends, list) else ends,
        "id2label": labels,
        "label2id": {label: int(number) for number, label in labels.items()},
    }


def read_settings(folder: Path) -> dict[str, Any]:
    """The fields of `BertConfig` that a folder fixes; raises `ProblemError` if it cannot be read or is not supported.

    The head is that of the checkpoint's class. Dropout is BERT's recipe of training and not part of it.
    """
    path = folder / CONFIG_FILE
    document = {**ABSENT, **read_config(folder, "bert", READS)}
    require_whole_numbers(document, SIZES, path)
    require_supported(
        {
            "hidden_act": (document["hidden_act"], ["gelu"]),
            "position_embedding_type": (document["position_embedding_type"], ["absolute"]),
            "is_decoder": (document["is_decoder"], [False]),
            "add_cross_attention": (document["add_cross_attention"], [False]),
        },
        path,
    )
    same = (*SIZES, "layer_norm_eps", "initializer_range", "tie_word_embeddings")
    return {**{name: document[name] for name in same}, "head": _head(document)}


def _head(document: Mapping[str, Any]) -> dict[str, Any]:
    names = document.get("architectures") or []
    task = next((task for task, name in CLASSES.items() if name in names), Prediction.MASKED)
    if task not in (Prediction.CLASSIFICATION, Prediction.TAGS):
        return {"task": task}
    return {"task": task, "labels": len(document.get("id2label") or {0: "LABEL_0", 1: "LABEL_1"})}
