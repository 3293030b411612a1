"""Converts our parameter names to and from those of BERT checkpoints on the Hugging Face hub.

A module has another path there, and its parameters keep their names. Checkpoints of `BertModel` lack the prefix
`bert.`, and those of the first years call the parameters of a LayerNorm gamma and beta.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from penstock.hooks.problems import Problem, ProblemError
from penstock.moe_core.hub.tensors import check_one_tensor

# Our module -> theirs. "N" is the number of a layer.
MODULES = {
    "embed_tokens": "bert.embeddings.word_embeddings",
    "embed_positions": "bert.embeddings.position_embeddings",
    "embed_types": "bert.embeddings.token_type_embeddings",
    "embed_norm": "bert.embeddings.LayerNorm",
    "layers.N.self_attn.q_proj": "bert.encoder.layer.N.attention.self.query",
    "layers.N.self_attn.k_proj": "bert.encoder.layer.N.attention.self.key",
    "layers.N.self_attn.v_proj": "bert.encoder.layer.N.attention.self.value",
    "layers.N.self_attn.o_proj": "bert.encoder.layer.N.attention.output.dense",
    "layers.N.attention_norm": "bert.encoder.layer.N.attention.output.LayerNorm",
    "layers.N.mlp.up_proj": "bert.encoder.layer.N.intermediate.dense",
    "layers.N.mlp.down_proj": "bert.encoder.layer.N.output.dense",
    "layers.N.mlp_norm": "bert.encoder.layer.N.output.LayerNorm",
    "pooler": "bert.pooler.dense",
    "masked_lm.transform": "cls.predictions.transform.dense",
    "masked_lm.norm": "cls.predictions.transform.LayerNorm",
    "classifier": "classifier",
    "spans": "qa_outputs",
}
# Single tensors, whose module there is another one than their neighbour's.
TENSORS = {"lm_head.weight": "cls.predictions.decoder.weight", "lm_head.bias": "cls.predictions.bias"}
OURS = {theirs: ours for ours, theirs in MODULES.items()}
OUR_TENSORS = {theirs: ours for ours, theirs in TENSORS.items()}

# Parts of a checkpoint that a model of another head does not have.
HEADS = ("pooler.", "masked_lm.", "lm_head.", "classifier.", "spans.", "cls.")
_POSITION_IDS = "embeddings.position_ids"  # a buffer that older versions saved
_DECODER_BIAS = "cls.predictions.decoder.bias"
_OLD = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}


def to_hub_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {TENSORS.get(name) or _renamed(name, MODULES): tensor for name, tensor in state.items()}


def from_hub_names(state: Mapping[str, Tensor], *, tied: bool) -> dict[str, Tensor]:
    """Inverse of `to_hub_names`. The second copies of what BERT ties, the decoder's weight and bias, are left out;
    raises `ProblemError` if they differ from the first."""
    named = {_current(name): tensor for name, tensor in state.items() if not name.endswith(_POSITION_IDS)}
    loaded = {OUR_TENSORS.get(name) or _renamed(name, OURS): tensor for name, tensor in named.items()}
    if (bias_V := loaded.pop(_DECODER_BIAS, None)) is not None:
        check_one_tensor(loaded.setdefault("lm_head.bias", bias_V), bias_V, "cls.predictions.bias")
    if tied and "lm_head.weight" in loaded and "embed_tokens.weight" in loaded:
        check_one_tensor(loaded["embed_tokens.weight"], loaded["lm_head.weight"])
    return loaded


def of_head(names: Iterable[str]) -> list[str]:
    """The names that belong to a head, or to the pooler below it."""
    return [name for name in names if name.startswith(HEADS)]


def require_any(loaded: Mapping[str, Tensor]) -> None:
    """Raises `ProblemError` for a file that has not a single tensor of BERT's body."""
    if not any(name.startswith(("embed_", "layers.")) for name in loaded):
        what = "the weights have no tensor of a BERT encoder"
        raise ProblemError(Problem("bad-checkpoint", what, "", "use a folder of type bert"))


def _current(name: str) -> str:
    """Today's name of a tensor of any age, with the prefix that `BertModel` leaves out."""
    for old, new in _OLD.items():
        name = name.replace(old, new)
    return f"bert.{name}" if name.startswith(("embeddings.", "encoder.", "pooler.")) else name


def _renamed(name: str, modules: Mapping[str, str]) -> str:
    """The name with another path for its module; what a module there does not have keeps its name."""
    number = re.search(r"\blayers?\.(\d+)\.", name)
    pattern = name if number is None else name[: number.start(1)] + "N" + name[number.end(1) :]
    for ours, theirs in modules.items():
        if pattern.startswith(f"{ours}."):
            path = theirs if number is None else theirs.replace(".N.", f".{number[1]}.")
            return path + pattern[len(ours) :]
    return name
