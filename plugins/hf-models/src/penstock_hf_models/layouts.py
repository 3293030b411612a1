"""Layouts of transformers tensors that hold more than one matrix or are stored as [in, out].

Each family fuses q, k and v in its own way, so families are listed here by the class that splits them; anything else is
one matrix. Gate and up are fused the same way almost everywhere: the gate's rows first. A tensor whose name says that
it is fused, in a class that is not listed, is one matrix too, and a warning says so.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from penstock.hooks.contracts import ParameterLayout

# Experts stored as [E, in, out] without the attribute `is_transposed`, which the others have.
TRANSPOSED = frozenset({"Llama4TextExperts"})

# Names under which transformers keeps several matrices in one: q, k and v, gate and up, the inputs of a recurrence.
FUSED_NAMES = re.compile(r"qkv|key_value|^kv_b_proj$|c_attn|in_proj(_ba)?$|^x_proj$|input_linear|gate_(and_)?up|^Wi$")


def parameter_layout(model: nn.Module) -> dict[str, ParameterLayout]:
    """Layouts by parameter name, for parameters that are not one matrix [out, in] or a stack of them. Warns of those
    that may hold several matrices in a way that is not listed here."""
    names = {name for name, _ in model.named_parameters()}
    layouts = {name: layout for name, layout in _layouts(model) if name in names and layout != ParameterLayout()}
    divided = {name for name, layout in layouts.items() if layout.parts}
    if unknown := _unknown_fusions(model, names - divided):
        what = "how these weights are divided into matrices is not known, so muon updates each as one matrix"
        logging.getLogger("penstock").warning(f"{what}: {', '.join(unknown)}")
    return layouts


def _unknown_fusions(model: nn.Module, whole: set[str]) -> list[str]:
    """Class and name of the weights that are fused by their name and not listed."""
    found: set[str] = set()
    for name in whole:
        path, _, child = name.removesuffix(".weight").rpartition(".")
        owner = type(model.get_submodule(path)).__name__
        if name.endswith(".weight") and FUSED_NAMES.search(child) and (owner, child) not in FUSED:
            found.add(f"{owner}.{child}")
    return sorted(found)


def _layouts(model: nn.Module) -> Iterator[tuple[str, ParameterLayout]]:
    for path, owner in model.named_modules():
        if hasattr(owner, "num_experts"):
            yield from ((f"{path}.{name}", layout) for name, layout in _of_experts(owner))
        for child, module in owner.named_children():
            weight = getattr(module, "weight", None)
            if isinstance(weight, nn.Parameter) and weight.dim() > 1:
                yield f"{path}.{child}.weight", _of_child(owner, child, module)


def _of_experts(experts: Any) -> Iterator[tuple[str, ParameterLayout]]:
    """For stacks held directly by their module: `gate_up_proj` and the others."""
    transposed = getattr(experts, "is_transposed", type(experts).__name__ in TRANSPOSED)
    for name, stack in experts.named_parameters(recurse=False):
        if stack.dim() != 3:
            continue
        if name == "gate_up_proj":
            rows = stack.shape[-1 if transposed else -2]
            yield name, _gate_up(rows, transposed, in_turn=not getattr(experts, "is_concatenated", True))
        else:
            yield name, ParameterLayout(transposed=transposed)


def _of_child(owner: nn.Module, child: str, module: Any) -> ParameterLayout:
    transposed = isinstance(module, Conv1D)
    rows = module.weight.shape[-1 if transposed else -2]
    if (cut := FUSED.get((type(owner).__name__, child))) is not None:
        return cut(owner, rows)
    if child == "gate_up_proj":
        return _gate_up(rows)
    if child == "kv_b_proj":
        return _of_latent(owner, rows)
    return ParameterLayout(transposed=transposed)


def _gate_up(rows: int, transposed: bool = False, *, in_turn: bool = False) -> ParameterLayout:
    half, blocks = (1, rows // 2) if in_turn else (rows // 2, 1)
    return ParameterLayout((("gate", half), ("up", half)), blocks, transposed)


def _qkv(query: int, key_value: int, blocks: int = 1) -> ParameterLayout:
    return ParameterLayout((("q", query), ("k", key_value), ("v", key_value)), blocks)


def _of_latent(attention: Any, rows: int) -> ParameterLayout:
    key, value = attention.qk_nope_head_dim, attention.v_head_dim
    return ParameterLayout((("k", key), ("v", value)), rows // (key + value))


def _thirds(_: Any, rows: int) -> ParameterLayout:
    return _qkv(rows // 3, rows // 3)


def _short_convolution(_: Any, rows: int) -> ParameterLayout:
    return ParameterLayout((("before", rows // 3), ("after", rows // 3), ("whole", rows // 3)))


def _selective(_: Any, rows: int) -> ParameterLayout:
    """A state space of Mamba: what enters it, and the gate on what leaves it."""
    return ParameterLayout((("state", rows // 2), ("gate", rows // 2)))


def _selected(mixer: Any, _: int) -> ParameterLayout:
    """What a state space of Mamba computes from its input: the step size, and how it is written and read."""
    state = mixer.ssm_state_size
    return ParameterLayout((("dt", mixer.time_step_rank), ("b", state), ("c", state)))


def _delta(net: Any, _: int) -> ParameterLayout:
    return ParameterLayout((("q", net.key_dim), ("k", net.key_dim), ("v", net.value_dim)))


def _delta_by_head(net: Any, _: int) -> ParameterLayout:
    key, value = net.head_k_dim, net.num_v_heads // net.num_k_heads * net.head_v_dim
    return ParameterLayout((("q", key), ("k", key), ("v", value), ("z", value)), net.num_k_heads)


def _rates_by_head(net: Any, _: int) -> ParameterLayout:
    each = net.num_v_heads // net.num_k_heads
    return ParameterLayout((("b", each), ("a", each)), net.num_k_heads)


def _by_head(head: int, rows: int) -> ParameterLayout:
    return _qkv(head, head, rows // (3 * head))


def _grouped(attention: Any, rows: int) -> ParameterLayout:
    key_value = attention.num_key_value_heads * attention.head_dim
    return _qkv(rows - 2 * key_value, key_value)


def _key_value(_: Any, rows: int) -> ParameterLayout:
    return ParameterLayout((("k", rows // 2), ("v", rows // 2)))


def _gpt2(attention: Any, rows: int) -> ParameterLayout:
    crossed = getattr(attention, "is_cross_attention", False)
    cut = _key_value(attention, rows) if crossed else _thirds(attention, rows)
    return ParameterLayout(cut.parts, transposed=True)


def _bigcode(attention: Any, rows: int) -> ParameterLayout:
    if attention.is_cross_attention:
        return _key_value(attention, rows)
    if attention.multi_query:
        return _qkv(attention.embed_dim, attention.kv_dim)
    return _by_head(attention.head_dim, rows)


def _falcon(attention: Any, rows: int) -> ParameterLayout:
    """Groups of query heads, each followed by its key and its value."""
    head = attention.head_dim
    if attention.new_decoder_architecture:
        groups = attention.num_kv_heads
        return _qkv(rows // groups - 2 * head, head, groups)
    return _qkv(rows - 2 * head, head) if attention.multi_query else _by_head(head, rows)


def _codegen(_: Any, rows: int) -> ParameterLayout:
    """Four blocks, one per core of the machine that the family was trained on, with the value before the key."""
    part = rows // 12
    return ParameterLayout((("q", part), ("v", part), ("k", part)), blocks=4)


FUSED: dict[tuple[str, str], Callable[[Any, int], ParameterLayout]] = {
    ("Attention", "c_attn"): _gpt2,
    ("BloomAttention", "query_key_value"): lambda attention, rows: _by_head(attention.head_dim, rows),
    ("CodeGenAttention", "qkv_proj"): _codegen,
    ("DbrxAttention", "Wqkv"): _grouped,
    ("DisentangledSelfAttention", "in_proj"): lambda attention, rows: _by_head(attention.attention_head_size, rows),
    ("FalconAttention", "query_key_value"): _falcon,
    ("FalconMambaMixer", "in_proj"): _selective,
    ("FalconMambaMixer", "x_proj"): _selected,
    ("GPT2Attention", "c_attn"): _gpt2,
    ("GPTBigCodeAttention", "c_attn"): _bigcode,
    ("GPTNeoXAttention", "query_key_value"): lambda attention, rows: _by_head(attention.head_size, rows),
    ("GPTNeoXJapaneseAttention", "query_key_value"): lambda attention, rows: _by_head(attention.head_size, rows),
    ("GraniteMoeHybridMLP", "input_linear"): lambda _, rows: _gate_up(rows),
    ("GraniteMoeSWAMLP", "input_linear"): lambda _, rows: _gate_up(rows),
    ("GraniteMoeSharedMLP", "input_linear"): lambda _, rows: _gate_up(rows),
    ("JambaMambaMixer", "in_proj"): _selective,
    ("JambaMambaMixer", "x_proj"): _selected,
    ("JetMoeAttention", "kv_proj"): _key_value,
    ("JetMoeMoA", "input_linear"): lambda *_: ParameterLayout(),  # queries alone
    ("JetMoeMoE", "input_linear"): lambda _, rows: _gate_up(rows),
    ("Lfm2MoeShortConv", "in_proj"): _short_convolution,
    ("Lfm2ShortConv", "in_proj"): _short_convolution,
    ("Lfm3ShortConv", "in_proj"): _short_convolution,
    ("MambaMixer", "in_proj"): _selective,
    ("MambaMixer", "x_proj"): _selected,
    ("MiniMaxLightningAttention", "qkv_proj"): lambda attention, rows: _by_head(attention.head_dim, rows),
    ("ModernBertAttention", "Wqkv"): _thirds,
    ("ModernBertDecoderMLP", "Wi"): lambda _, rows: _gate_up(rows),
    ("ModernBertMLP", "Wi"): lambda _, rows: _gate_up(rows),
    ("MptAttention", "Wqkv"): _thirds,
    ("PersimmonAttention", "query_key_value"): lambda attention, rows: _by_head(attention.head_dim, rows),
    ("Phi3Attention", "qkv_proj"): _grouped,
    ("Phi4MultimodalAttention", "qkv_proj"): _grouped,
    ("Qwen3NextGatedDeltaNet", "in_proj_ba"): _rates_by_head,
    ("Qwen3NextGatedDeltaNet", "in_proj_qkvz"): _delta_by_head,
    ("Qwen3_5GatedDeltaNet", "in_proj_qkv"): _delta,
    ("Qwen3_5MoeGatedDeltaNet", "in_proj_qkv"): _delta,
}
