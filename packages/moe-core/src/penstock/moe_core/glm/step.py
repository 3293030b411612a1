"""One token for each of many texts, in as few operations as it takes: what a server computes most of the time.

At a few rows the products of a small model take less time than calling modules does, so this pass calls none. Weights
are taken once, as the forward pass of training computes with them, and joined where they read the same input. It
computes in fp32; what it lacks (`obstacle`), the model's own pass does.

Shape suffixes: B texts, D model width, L = N + 2M heads (queries, keys, values), Q = N + M, G = N / M queries a key,
h head width, R rotated pairs of a head, C positions, E experts, K experts a token, H hidden width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from penstock.hooks.contracts import Router
from penstock.moe_core.layers.linear import Matrix
from penstock.moe_core.layers.mlp import SwiGLU
from penstock.moe_core.layers.rope import rotary_table
from penstock.moe_core.layers.site import sites_of
from penstock.moe_core.layers.slots import SlotCache

if TYPE_CHECKING:
    from penstock.moe_core.glm.model import GlmMoe, Layer, MoE

DENSE_ROWS = 256
"""Up to so many pairs of a text and an expert all experts compute all texts: two batched products then cost less than
sorting rows by expert."""


def obstacle(model: GlmMoe) -> str | None:
    """What of a model this pass does not compute; None if it computes all."""
    if model.compute_dtype != torch.float32:
        return "it computes in fp32"
    if model.embed_tokens.projection or model.lm_head.projection:
        return "the embedding is a product of two matrices"
    if model.config.sub_norm:
        return "norms precede output projections"
    sites = sites_of(model).values()
    if any(site.site.reads is not None or site.site.product is not None for site in sites):
        return "inputs of products are rounded, or products are computed elsewhere"
    return None


@dataclass(frozen=True, slots=True)
class _Matrix:
    weight: Tensor
    bias: Tensor | None = None

    @classmethod
    def of(cls, *matrices: Matrix) -> _Matrix:
        """Of one matrix, or of several that read the same input."""
        weights, biases = zip(*(matrix.in_dtype(torch.float32) for matrix in matrices), strict=True)
        given = [bias for bias in biases if bias is not None]
        return cls(torch.cat(weights).detach(), torch.cat(given).detach() if given else None)

    def __call__(self, x_BD: Tensor) -> Tensor:
        return F.linear(x_BD, self.weight, self.bias)


@dataclass(frozen=True, slots=True)
class _Norm:
    gain: Tensor
    epsilon: float

    def __call__(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, x.shape[-1:], self.gain, self.epsilon)


class _Attention:
    def __init__(self, index: int, layer: Layer) -> None:
        attention = layer.self_attn
        self.index = index
        self.norm = _Norm(layer.input_layernorm.weight.detach(), layer.input_layernorm.epsilon)
        self.heads, self.keys, _ = attention.heads
        self.head_dim = attention.head_dim
        self.joined = _Matrix.of(attention.q_proj, attention.k_proj, attention.v_proj)
        self.output = _Matrix.of(attention.o_proj)
        self.gain_Qh: Tensor | None = None
        if attention.q_norm is not None and attention.k_norm is not None:
            gains = (attention.q_norm.weight.expand(self.heads, -1), attention.k_norm.weight.expand(self.keys, -1))
            self.gain_Qh = torch.cat(gains).detach()
            self.epsilon = attention.q_norm.epsilon

    def __call__(
        self, x_BD: Tensor, rotary: tuple[Tensor, Tensor], hidden_BC: Tensor | None, cache: SlotCache
    ) -> Tensor:
        heads_BLh = self.joined(self.norm(x_BD)).view(len(x_BD), -1, self.head_dim)
        turned_BQh = self._turned(heads_BLh[:, : self.heads + self.keys], *rotary)
        query_BMGh = turned_BQh[:, : self.heads].view(len(x_BD), self.keys, -1, self.head_dim)
        key_BM1h, value_BM1h = turned_BQh[:, self.heads :, None], heads_BLh[:, self.heads + self.keys :, None]
        key_BMCh, value_BMCh = cache.extend(self.index, key_BM1h, value_BM1h)
        score_BMGC = (query_BMGh @ key_BMCh.transpose(-1, -2)).mul_(1 / math.sqrt(self.head_dim))
        if hidden_BC is not None:
            score_BMGC.masked_fill_(hidden_BC[:, None, None], -math.inf)
        return self.output((score_BMGC.softmax(dim=-1) @ value_BMCh).flatten(1))

    def _turned(self, x_BQh: Tensor, cos_B1R: Tensor, sin_B1R: Tensor) -> Tensor:
        """Normalised and rotated; see `penstock.moe_core.layers.rope.rotated_heads`."""
        if self.gain_Qh is not None:
            x_BQh = F.rms_norm(x_BQh, x_BQh.shape[-1:], None, self.epsilon) * self.gain_Qh
        pairs = cos_B1R.shape[-1]
        first, second, rest = x_BQh.split((pairs, pairs, self.head_dim - 2 * pairs), dim=-1)
        turned = (first * cos_B1R - second * sin_B1R, second * cos_B1R + first * sin_B1R)
        return torch.cat((*turned, rest), dim=-1)


class _Dense:
    def __init__(self, mlp: SwiGLU) -> None:
        self.gate_up, self.down = _Matrix.of(mlp.gate_proj, mlp.up_proj), _Matrix.of(mlp.down_proj)

    def __call__(self, x_BD: Tensor) -> Tensor:
        gate_BH, up_BH = self.gate_up(x_BD).chunk(2, dim=-1)
        return self.down(F.silu(gate_BH).mul_(up_BH))


class _Mixture:
    def __init__(self, mlp: MoE) -> None:
        self.router: Router = mlp.gate
        self.experts = mlp.experts
        gate_up_EFD, down_EDH = mlp.experts.effective_weights()
        self.gate_up_EFD, self.down_EDH = gate_up_EFD.detach().float(), down_EDH.detach().float()
        self.shared = None if mlp.shared_experts is None else _Dense(mlp.shared_experts)

    def __call__(self, x_BD: Tensor) -> tuple[Tensor, Tensor]:
        routing = self.router(x_BD)
        if routing.kept_TK is not None:
            out_BD = self.experts(x_BD, routing)
        elif len(x_BD) == 1:
            out_BD = self._of_one(x_BD, routing.expert_TK[0].tolist(), routing.weight_TK[0])
        elif len(x_BD) * len(self.down_EDH) <= DENSE_ROWS:
            out_BD = self._of_all(x_BD, routing.expert_TK, routing.weight_TK)
        else:
            out_BD = self.experts(x_BD, routing)
        if self.shared is not None:
            out_BD = out_BD + self.shared(x_BD)
        kept_TK = routing.kept_TK
        return out_BD, routing.expert_TK if kept_TK is None else routing.expert_TK[kept_TK]

    def _of_one(self, x_1D: Tensor, chosen: list[int], weight_K: Tensor) -> Tensor:
        hidden_KH = torch.cat([F.linear(x_1D, self.gate_up_EFD[expert]) for expert in chosen])
        gate_KH, up_KH = hidden_KH.chunk(2, dim=-1)
        hidden_KH = F.silu(gate_KH).mul_(up_KH).mul_(weight_K[:, None])
        out_1D = F.linear(hidden_KH[:1], self.down_EDH[chosen[0]])
        for index, expert in enumerate(chosen[1:], 1):
            out_1D = out_1D.addmm_(hidden_KH[index : index + 1], self.down_EDH[expert].T)
        return out_1D

    def _of_all(self, x_BD: Tensor, expert_BK: Tensor, weight_BK: Tensor) -> Tensor:
        weight_BE = x_BD.new_zeros(len(x_BD), len(self.down_EDH)).scatter_(1, expert_BK, weight_BK)
        hidden_EBF = torch.matmul(x_BD, self.gate_up_EFD.transpose(1, 2))
        gate_EBH, up_EBH = hidden_EBF.chunk(2, dim=-1)
        hidden_EBH = F.silu(gate_EBH).mul_(up_EBH).mul_(weight_BE.T[..., None])
        return torch.bmm(hidden_EBH, self.down_EDH.transpose(1, 2)).sum(dim=0)


class GlmStep:
    """A `penstock.moe_core.layers.slot_decoder.FastPass` of a model without `obstacle`."""

    def __init__(self, model: GlmMoe, positions: int) -> None:
        config = model.config
        with torch.no_grad():
            self._embedding_VD = model.embed_tokens.effective().detach()
            self._norm = _Norm(model.norm.weight.detach(), model.norm.epsilon)
            position_P = torch.arange(positions, device=self._embedding_VD.device)
            self._cos_PR, self._sin_PR = rotary_table(position_P, config.rotary_dim, config.rope_theta)
            self._layers = [_parts(index, layer) for index, layer in enumerate(model.layers)]  # pyright: ignore[reportArgumentType]

    def __call__(self, token_B: Tensor, cache: SlotCache) -> tuple[Tensor, Mapping[int, Tensor]]:
        x_BD = self._embedding_VD[token_B]
        rotary = self._cos_PR[cache.position_B1], self._sin_PR[cache.position_B1]
        visible = cache.visible()
        hidden_BC = None if visible is None else ~visible[:, 0, 0]
        chosen: dict[int, Tensor] = {}
        for attention, norm, mlp in self._layers:
            x_BD = x_BD + attention(x_BD, rotary, hidden_BC, cache)
            if isinstance(mlp, _Dense):
                x_BD = x_BD + mlp(norm(x_BD))
            else:
                out_BD, chosen[attention.index] = mlp(norm(x_BD))
                x_BD = x_BD + out_BD
        return self._norm(x_BD), chosen


def _parts(index: int, layer: Layer) -> tuple[_Attention, _Norm, _Dense | _Mixture]:
    norm = _Norm(layer.post_attention_layernorm.weight.detach(), layer.post_attention_layernorm.epsilon)
    mlp = _Dense(layer.mlp) if isinstance(layer.mlp, SwiGLU) else _Mixture(layer.mlp)
    return _Attention(index, layer), norm, mlp
