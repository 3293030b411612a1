"""Checkpoints of llama2.c, version 0: seven int32 sizes, then fp32 weights without names.

The model inside is a Llama, which is a `GlmMoe` with only dense layers, without QK-norm and biases, and with fully
rotated heads. llama2.c rotates the neighbours (2i, 2i + 1) of a head where GLM rotates entry i of one half with entry i
of the other; queries and keys only meet in dot products, so their rows are reordered once and the scores stay the same.

Nothing here imports torch, because config validation needs the sizes.
Shape suffixes: L layers, R rows of all heads, D model width.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.hooks.problems import Problem, ProblemError

_HEADER = struct.Struct("<7i")
_STACKED = "model.layers.{}."


@dataclass(frozen=True, slots=True)
class Header:
    """The sizes at the beginning of the file. `vocab_size` is negative if the head is not the embedding."""

    dim: int
    hidden_dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    vocab_size: int
    seq_len: int

    @property
    def is_sound(self) -> bool:
        sizes = (self.dim, self.hidden_dim, self.n_layers, self.n_heads, self.n_kv_heads, self.seq_len)
        return (
            min(sizes) > 0
            and self.vocab_size != 0
            and self.dim % (2 * self.n_heads) == 0
            and self.n_heads % self.n_kv_heads == 0
        )

    def layout(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of each block of the file, in order; `{}` stands for the layer, the first dimension."""
        layers, dim, hidden, vocabulary = self.n_layers, self.dim, self.hidden_dim, abs(self.vocab_size)
        head = dim // self.n_heads
        key_value = head * self.n_kv_heads
        return {
            "model.embed_tokens.weight": (vocabulary, dim),
            f"{_STACKED}input_layernorm.weight": (layers, dim),
            f"{_STACKED}self_attn.q_proj.weight": (layers, dim, dim),
            f"{_STACKED}self_attn.k_proj.weight": (layers, key_value, dim),
            f"{_STACKED}self_attn.v_proj.weight": (layers, key_value, dim),
            f"{_STACKED}self_attn.o_proj.weight": (layers, dim, dim),
            f"{_STACKED}post_attention_layernorm.weight": (layers, dim),
            f"{_STACKED}mlp.gate_proj.weight": (layers, hidden, dim),
            f"{_STACKED}mlp.down_proj.weight": (layers, dim, hidden),
            f"{_STACKED}mlp.up_proj.weight": (layers, hidden, dim),
            "model.norm.weight": (dim,),
            "rotary cosines": (self.seq_len, head // 2),
            "rotary sines": (self.seq_len, head // 2),
            **({"lm_head.weight": (vocabulary, dim)} if self.vocab_size < 0 else {}),
        }


def read_settings(path: Path) -> dict[str, Any]:
    """The fields of `GlmMoeConfig` that the file fixes; raises `ProblemError` if it is not a llama2.c file, or its
    length does not match its sizes."""
    header = _read_header(path)
    return {
        "vocab_size": abs(header.vocab_size),
        "hidden_size": header.dim,
        "num_hidden_layers": header.n_layers,
        "first_k_dense_replace": header.n_layers,
        "num_attention_heads": header.n_heads,
        "num_key_value_heads": header.n_kv_heads,
        "head_dim": header.dim // header.n_heads,
        "attention_bias": False,
        "use_qk_norm": False,
        "partial_rotary_factor": 1.0,
        "rope_theta": 10_000.0,
        "max_position_embeddings": header.seq_len,
        "intermediate_size": header.hidden_dim,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": header.vocab_size > 0,
    }


def read_weights(path: Path) -> dict[str, NDArray[np.float32]]:
    """The weights under the names of the Hugging Face layout; raises `ProblemError` as `read_settings` does."""
    header = _read_header(path)
    values = np.fromfile(path, dtype="<f4", offset=_HEADER.size)
    weights: dict[str, NDArray[np.float32]] = {}
    start = 0
    for name, shape in header.layout().items():
        block = values[start : start + math.prod(shape)].reshape(shape)
        start += block.size
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            block = _neighbours_to_halves(block, header.dim // header.n_heads)
        if name.startswith(_STACKED):
            weights.update({name.format(layer): matrix for layer, matrix in enumerate(block)})
        elif not name.startswith("rotary"):  # read by older programs; follows from the sizes
            weights[name] = block
    return weights


def _neighbours_to_halves(weight_LRD: NDArray[np.float32], head_dim: int) -> NDArray[np.float32]:
    layers, rows, dim = weight_LRD.shape
    return weight_LRD.reshape(layers, rows // head_dim, head_dim // 2, 2, dim).swapaxes(2, 3).reshape(weight_LRD.shape)


def _read_header(path: Path) -> Header:
    try:
        with path.open("rb") as file:
            data = file.read(_HEADER.size)
            size = file.seek(0, 2)
    except OSError as error:
        raise ProblemError(Problem("missing-file", f"cannot be read ({error.strerror})", str(path))) from error
    header = Header(*_HEADER.unpack(data)) if len(data) == _HEADER.size else None
    if header is None or not header.is_sound:
        fix = "give a llama2.c .bin of version 0, or a Hugging Face folder"
        raise ProblemError(Problem("unknown-format", "not a llama2.c checkpoint", str(path), fix))
    expected = _HEADER.size + 4 * sum(math.prod(shape) for shape in header.layout().values())
    if size != expected:
        what = f"has {size} bytes, but a llama2.c checkpoint with these sizes has {expected}"
        raise ProblemError(Problem("damaged-file", what, str(path), "download or export it again"))
    return header
