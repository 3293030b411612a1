"""Random models as an artifact stores them, and their logits by plain numpy in fp64, one token at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.quant158.artifact.formats import weight_of
from penstock.quant158.decoder.description import Dense, Description, Mixture, hidden_of, single_mlp
from penstock.quant158.stored import FORMATS, code_bytes, scale_shape
from penstock.quant158.values import BF16, FP32, VALUES

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Tensor:
    format: str
    shape: tuple[int, ...]


@dataclass
class Stored:
    """Tensors in memory with the interface of an artifact."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    parts: dict[str, dict[str, NDArray[Any]]] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.tensors)

    def tensor(self, name: str) -> Tensor:
        return self.tensors[name]

    def arrays(self, name: str) -> dict[str, NDArray[Any]]:
        return self.parts[name]

    def weight(self, name: str) -> NDArray[np.float32]:
        stored = self.tensors[name]
        return weight_of(stored.format, self.parts[name], stored.shape)

    def put(self, name: str, stored_as: str, shape: tuple[int, ...], arrays: dict[str, NDArray[Any]]) -> None:
        self.tensors[name], self.parts[name] = Tensor(stored_as, shape), arrays


def random_model(
    description: Description, *, ternary: str = "ternary-base3-g64", rows: str = FP32, seed: int = 0
) -> Stored:
    """Weights of a size that keeps activations near 1, and gains and biases that show if one is left out."""
    random, stored = np.random.default_rng(seed), Stored()
    for name, shape in description.matrices():
        codes = _ternary_codes(random, int(np.prod(shape)))
        scale = (random.uniform(0.7, 1.3, scale_shape(ternary, shape)) / shape[-1] ** 0.5).astype(np.float16)
        stored.put(name, ternary, shape, {"codes": codes, "scale": scale})
    for name, shape in description.vectors():
        values = random.normal(1.0 if "norm" in name else 0.0, 0.3, shape).astype(np.float32)
        stored.put(name, FP32, shape, {"values": values})
    for name, shape in description.rows():
        stored.put(name, rows, shape, _rows(random, rows, shape))
    return stored


def _ternary_codes(random: np.random.Generator, count: int) -> NDArray[np.uint8]:
    digits = np.ones(-(-count // 5) * 5, np.int64)
    digits[:count] = random.integers(0, 3, count)
    return (digits.reshape(-1, 5) @ np.array([1, 3, 9, 27, 81])).astype(np.uint8)


def _rows(random: np.random.Generator, stored_as: str, shape: tuple[int, ...]) -> dict[str, NDArray[Any]]:
    if stored_as in VALUES:
        values = random.normal(0, 1, shape).astype(np.float32)
        bits = values.view(np.uint32) >> 16
        return {"values": (bits if stored_as == BF16 else values).astype(VALUES[stored_as])}
    largest = {"int8": 127, "int4": 7}[FORMATS[stored_as].coding]
    scale = (random.uniform(1, 2, (shape[0], 1)) / largest).astype(np.float16)
    if FORMATS[stored_as].coding == "int8":
        return {"codes": random.integers(-127, 128, shape).astype(np.int8).reshape(-1), "scale": scale}
    nibbles = np.full(2 * code_bytes(stored_as, shape), 8, np.int64)
    nibbles[: np.prod(shape)] = random.integers(1, 16, int(np.prod(shape)))
    return {"codes": (nibbles[::2] + 16 * nibbles[1::2]).astype(np.uint8), "scale": scale}


class Oracle:
    """The definition of what the decoder computes."""

    def __init__(self, stored: Stored, description: Description) -> None:
        self.weights = {name: stored.weight(name).astype(np.float64) for name in stored.names}
        self.stored, self.d = stored, description
        self.cache: list[list[tuple[Floats, Floats]]] = [[] for _ in description.layers]

    def logits(self, tokens: list[int]) -> Floats:
        """[n, vocabulary]"""
        return np.stack([self._token(token) for token in tokens])

    def _token(self, token: int) -> Floats:
        d = self.d
        x = self.weights["embed_tokens.weight"][token]
        for index, layer in enumerate(d.layers):
            x = x + self._attention(index, self._norm(x, f"layers.{index}.input_layernorm.weight"))
            x = x + self._mlp(index, layer, self._norm(x, f"layers.{index}.post_attention_layernorm.weight"))
        x = self._norm(x, "norm.weight")
        head = "embed_tokens.weight" if d.tied else "lm_head.weight"
        rounded = x if self.stored.tensor(head).format in VALUES else self._rounded(x, "head")
        return self.weights[head] @ rounded

    def _norm(self, x: Floats, name: str) -> Floats:
        return x / np.sqrt((x * x).mean() + self.d.epsilon) * self.weights[name]

    def _rounded(self, x: Floats, role: str) -> Floats:
        limit = {8: 127, 16: 32512}[getattr(self.d.activations, role)]
        return np.rint(x * (limit / np.abs(x).max())) * (np.abs(x).max() / limit)

    def _attention(self, index: int, x: Floats) -> Floats:
        d, name = self.d, f"layers.{index}.self_attn"
        rounded = self._rounded(x, "matrix")
        query, key, value = (
            (
                self.weights[f"{name}.{each}_proj.weight"] @ rounded
                + (self.weights[f"{name}.{each}_proj.bias"] if d.bias else 0)
            ).reshape(-1, d.head_width)
            for each in "qkv"
        )
        position = len(self.cache[index])
        query, key = (
            np.stack(
                [
                    self._turned(self._norm(head, f"{name}.{each}_norm.weight") if d.qk_norm else head, position)
                    for head in heads
                ]
            )
            for each, heads in (("q", query), ("k", key))
        )
        self.cache[index].append((key, value))
        keys, values = (np.stack(each) for each in zip(*self.cache[index], strict=True))
        shared = d.heads // d.key_value_heads
        out = np.concatenate(
            [_attended(head, keys[:, n // shared], values[:, n // shared]) for n, head in enumerate(query)]
        )
        if d.sub_norm:
            out = self._norm(out, f"{name}.sub_norm.weight")
        return self.weights[f"{name}.o_proj.weight"] @ self._rounded(out, "matrix")

    def _turned(self, head: Floats, position: int) -> Floats:
        width = self.d.rotary_width
        angle = position * self.d.rope_theta ** -(np.arange(0, width, 2) / width)
        a, b = head[: width // 2], head[width // 2 : width]
        first, second = a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)
        return np.concatenate([first, second, head[width:]])

    def _mlp(self, index: int, layer: Dense | Mixture, x: Floats) -> Floats:
        out = np.zeros_like(x)
        if hidden_of(layer):
            name = single_mlp(index, layer)
            gate, up, down = (self.weights[f"{name}.{each}_proj.weight"] for each in ("gate", "up", "down"))
            norm = f"{name}.sub_norm.weight" if self.d.sub_norm else None
            out = out + self._swiglu(x, gate, up, down, None if norm is None else self.weights[norm], 1.0, "matrix")
        if isinstance(layer, Mixture):
            name = f"layers.{index}.mlp.experts"
            for expert, weight in self._chosen(index, layer, x):
                gate, up = (self.weights[f"{name}.gate_up_proj:{each}"][expert] for each in ("gate", "up"))
                gain = self.weights[f"{name}.sub_norm"][expert] if self.d.sub_norm else None
                out = out + self._swiglu(x, gate, up, self.weights[f"{name}.down_proj"][expert], gain, weight, "expert")
        return out

    def _swiglu(
        self, x: Floats, gate: Floats, up: Floats, down: Floats, gain: Floats | None, weight: float, role: str
    ) -> Floats:
        rounded = self._rounded(x, role)
        opened = gate @ rounded
        hidden = opened / (1 + np.exp(-opened)) * (up @ rounded)
        if gain is not None:
            hidden = hidden / np.sqrt((hidden * hidden).mean() + self.d.epsilon) * gain
        return down @ self._rounded(hidden * weight, role)

    def _chosen(self, index: int, layer: Mixture, x: Floats) -> Iterator[tuple[int, float]]:
        logits = self.weights[f"layers.{index}.mlp.gate.weight"] @ x / layer.temperature
        score = 1 / (1 + np.exp(-logits)) if layer.score == "sigmoid" else np.exp(logits) / np.exp(logits).sum()
        chosen = np.argsort(-(score + self.weights[f"layers.{index}.mlp.gate.e_score_correction_bias"]))[: layer.k]
        whole = score[chosen].sum() if layer.normalize else 1.0
        return ((int(expert), float(score[expert] / whole * layer.scale)) for expert in chosen)


def _attended(query: Floats, keys: Floats, values: Floats) -> Floats:
    scores = keys @ query / len(query) ** 0.5
    weights = np.exp(scores - scores.max())
    return weights @ values / weights.sum()
