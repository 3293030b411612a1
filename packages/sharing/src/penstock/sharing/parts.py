"""Where a parameter stands in a model, read off its name: its stack and layer, and its parts.

Names are ours, and those of transformers' GPT-2, GPT-NeoX, GPT-Neo, Llama, BERT, Bart and T5 families. A layout that
names its matrices tells more than the name of the tensor, and wins. Imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from penstock.hooks.contracts import ParameterLayout, ParameterRole

Part: TypeAlias = Literal[
    "q",
    "k",
    "v",
    "o",
    "gate",
    "up",
    "down",
    "experts",
    "embedding",
    "positions",
    "head",
    "router",
    "norm",
    "bias",
    "other",
]
PARTS: tuple[Part, ...] = get_args(Part)
ATTENTION: tuple[Part, ...] = ("q", "k", "v", "o")
FEED_FORWARD: tuple[Part, ...] = ("gate", "up", "down", "experts")
Half: TypeAlias = Literal["attention", "cross-attention", "feed-forward"]

# The module that holds a weight, by the last words of its path; the first pattern that fits decides.
_OF_MODULE: tuple[tuple[str, tuple[Part, ...]], ...] = (
    (r"q_proj|query|SelfAttention\.q|EncDecAttention\.q", ("q",)),
    (r"k_proj|key|SelfAttention\.k|EncDecAttention\.k", ("k",)),
    (r"v_proj|value|SelfAttention\.v|EncDecAttention\.v", ("v",)),
    (r"c_attn|qkv_proj|query_key_value|Wqkv", ("q", "k", "v")),
    (r"attention\.(?:self\.)?(?:output\.)?dense|attn\.c_proj|SelfAttention\.o|EncDecAttention\.o", ("o",)),
    (r"o_proj|out_proj", ("o",)),
    (r"gate_up_proj", ("gate", "up")),
    (r"gate_proj|wi_0", ("gate",)),
    (r"up_proj|c_fc|fc1|intermediate\.dense|dense_h_to_4h|wi|wi_1", ("up",)),
    (r"down_proj|mlp\.c_proj|fc2|output\.dense|dense_4h_to_h|DenseReluDense\.wo", ("down",)),
)
_POSITIONS = re.compile(r"(?:.*\.)?(?:wpe|embed_positions|position_embeddings)\.weight")
_TOKEN_TYPES = re.compile(r"(?:.*\.)?(?:embed_types|token_type_embeddings)\.weight")
# What belongs to a token is a table of the vocabulary; others, such as T5's biases of relative positions, are not.
_TOKENS = re.compile(r"(?:.*\.)?(?:embed_tokens|wte|embed_in|word_embeddings|shared|embed)(?:\.base)?\.weight")
_IN_LAYER = re.compile(r"(?:(?P<stack>.*?)\.)?(?P<layer>\d+)\.(?P<rest>.*)")
_NORM = re.compile(r"(?:.*\.)?(?:\w*(?:norm|Norm)|ln_\w+)\.bias")
_CROSS = re.compile(r"(?:.*\.)?(?:EncDecAttention|encoder_attn|encoder_attn_layer_norm|crossattention)(?:\..*)?")
# Norms and biases that come with the feed-forward half. BERT's `output.LayerNorm` ends a layer, where
# `attention.output.LayerNorm` ends its attention.
_OF_FEED_FORWARD = re.compile(
    r"(?:.*\.)?(?:post_attention_layernorm|ln_2|mlp_norm|final_layer_norm|mlp|experts|DenseReluDense)(?:\..*)?"
    r"|output\.LayerNorm"
)
_OF_T5 = re.compile(r"layer\.(\d)\.layer_norm")


@dataclass(frozen=True, slots=True)
class Place:
    """`stack` and `layer` are the modules that a parameter stands in, None outside of layers; `rest` is its name there.
    `half` is the half of the layer, as far as the name tells. The bias of a norm is a part of the norm; `of` are the
    parts of the weight that another bias is added to.

    >>> place_of("encoder.block.3.layer.0.SelfAttention.q.weight", ParameterRole.MATRIX)
    Place(stack='encoder.block', layer=3, rest='layer.0.SelfAttention.q.weight', parts=('q',), half='attention', of=())
    """

    stack: str | None
    layer: int | None
    rest: str
    parts: tuple[Part, ...]
    half: Half | None = None
    of: tuple[Part, ...] = ()

    @property
    def block(self) -> str:
        """The path of the layer's module; only for a parameter in a layer."""
        return ".".join(filter(None, (self.stack, str(self.layer))))


def place_of(name: str, role: ParameterRole, layout: ParameterLayout | None = None) -> Place:
    """The place of one parameter."""
    inside = _IN_LAYER.fullmatch(name)
    if inside is None or role in (ParameterRole.EMBEDDING, ParameterRole.HEAD):
        return Place(None, None, name, _parts(name, role, layout))
    stack, rest = inside["stack"] or "", inside["rest"]
    parts = _parts(rest, role, layout)
    of = _matrix(rest) if parts == ("bias",) else ()
    return Place(stack, int(inside["layer"]), rest, parts, _half(stack, rest, of or parts), of)


def places_of(
    roles: Mapping[str, ParameterRole], layouts: Mapping[str, ParameterLayout] | None = None
) -> dict[str, Place]:
    known = layouts or {}
    return {name: place_of(name, role, known.get(name)) for name, role in roles.items()}


def _parts(name: str, role: ParameterRole, layout: ParameterLayout | None) -> tuple[Part, ...]:
    match role:
        case ParameterRole.EMBEDDING:
            return (_embedding(name),)
        case ParameterRole.EXPERT:
            return ("experts",)
        case ParameterRole.BIAS:
            return ("norm",) if _NORM.fullmatch(name) else ("bias",)
        case ParameterRole.HEAD | ParameterRole.ROUTER | ParameterRole.NORM:
            return (role.value,)
        case _:
            return _named(layout) or _matrix(name)


def _embedding(name: str) -> Part:
    if _POSITIONS.fullmatch(name):
        return "positions"
    known = not _TOKEN_TYPES.fullmatch(name) and (_TOKENS.fullmatch(name) or not _IN_LAYER.fullmatch(name))
    return "embedding" if known else "other"


def _named(layout: ParameterLayout | None) -> tuple[Part, ...]:
    names = [] if layout is None else [name for name, _ in layout.parts]
    return tuple(part for part in PARTS if part in names) if names and set(names) <= set(PARTS) else ()


def _matrix(name: str) -> tuple[Part, ...]:
    module = name.rpartition(".")[0] or name
    fitting = (parts for pattern, parts in _OF_MODULE if re.fullmatch(rf"(?:.*\.)?(?:{pattern})", module))
    return next(fitting, ("other",))


def _half(stack: str, rest: str, parts: tuple[Part, ...]) -> Half | None:
    if parts[0] in (*FEED_FORWARD, "router"):
        return "feed-forward"
    if _CROSS.fullmatch(rest):
        return "cross-attention"
    if own := _OF_T5.fullmatch(rest.rpartition(".")[0]):
        return _half_of_t5(stack, int(own[1]))
    if parts[0] != "norm":
        return "attention" if parts[0] in ATTENTION else None
    return "feed-forward" if _OF_FEED_FORWARD.fullmatch(rest.rpartition(".")[0]) else "attention"


def _half_of_t5(stack: str, index: int) -> Half:
    """T5 numbers its halves: attention, then that to the encoder in a decoder, then the feed-forward half."""
    halves: tuple[Half, ...] = ("attention", "cross-attention", "feed-forward")
    return halves[index] if "decoder" in stack.split(".") else halves[2 * index]
