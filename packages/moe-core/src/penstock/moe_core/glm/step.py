"""The pass of a server in as few operations as it takes.

At a few rows the products of a small model take less time than calling modules does, so this pass calls none but
routers. Weights are taken once, as the forward pass of training computes with them; the gain of a norm is multiplied
into the matrix that reads it, and matrices that read the same input are joined. Rotated pairs lie side by side, as
complex numbers: queries and keys have the same order, so their products stay what they are. It computes in fp32; what
it lacks (`obstacle`), the model's own pass does.

Shape suffixes: B texts, S new tokens of each, T = B*S rows, D width, N query heads, M key/value heads, L = N + 2M,
Q = N + M, G = N / M, h head width, P positions, C positions that a pass reads, E experts, K experts a token, H hidden
width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from penstock.hooks.contracts import AskingRouter, Inputs, Router, Routing
from penstock.moe_core.layers.linear import Matrix
from penstock.moe_core.layers.mlp import SwiGLU
from penstock.moe_core.layers.norm import RMSNorm
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
    if any(isinstance(router, AskingRouter) and "token_T" in router.asks for router in model.routers.values()):
        return "a router asks for the ids of its tokens"
    return None


@dataclass(frozen=True, slots=True)
class _Matrix:
    """x / rms(x) times the gain of a norm, if there is one, times a weight, plus a bias."""

    weight: Tensor
    bias: Tensor | None
    epsilon: Tensor | None

    @classmethod
    def of(cls, *matrices: Matrix, norm: RMSNorm | None = None) -> _Matrix:
        """Of one matrix, or of several that read the same input."""
        weights, biases = zip(*(matrix.in_dtype(torch.float32) for matrix in matrices), strict=True)
        given = [bias for bias in biases if bias is not None]
        weight, bias = torch.cat(weights), torch.cat(given).detach() if given else None
        if norm is None:
            return cls(weight.detach(), bias, None)
        return cls((weight * norm.weight).detach(), bias, weight.new_tensor(norm.epsilon))

    def __call__(self, x_TD: Tensor) -> Tensor:
        return F.linear(x_TD if self.epsilon is None else _normalised(x_TD, self.epsilon), self.weight, self.bias)


def _normalised(x: Tensor, epsilon: Tensor) -> Tensor:
    """x / rms(x) over the last dimension."""
    mean = torch.add(epsilon, torch.linalg.vecdot(x, x), alpha=1 / x.shape[-1])
    return x * mean.rsqrt_().unsqueeze(-1)


class _Attention:
    def __init__(self, index: int, layer: Layer, rotary_dim: int) -> None:
        attention = layer.self_attn
        self.index = index
        self.heads, self.keys, _ = attention.heads
        self.head_dim = attention.head_dim
        joined = _Matrix.of(attention.q_proj, attention.k_proj, attention.v_proj, norm=layer.input_layernorm)
        order_h = _side_by_side(rotary_dim, self.head_dim)
        turned = (torch.arange(self.heads + self.keys)[:, None] * self.head_dim + order_h).flatten()
        order_O = torch.cat((turned, torch.arange(len(turned), len(joined.weight)))).to(joined.weight.device)
        bias = None if joined.bias is None else joined.bias[order_O]
        self.joined = replace(joined, weight=joined.weight[order_O], bias=bias)
        self.output = _Matrix.of(attention.o_proj)
        self.gain_Qh: Tensor | None = None
        if attention.q_norm is not None and attention.k_norm is not None:
            gains = (attention.q_norm.weight.expand(self.heads, -1), attention.k_norm.weight.expand(self.keys, -1))
            self.gain_Qh = torch.cat(gains)[:, order_h.to(gains[0].device)].detach()
            self.epsilon = self.gain_Qh.new_tensor(attention.q_norm.epsilon)

    def __call__(self, x_TD: Tensor, shape: tuple[int, int], turn_T1h: Tensor, seen: _Seen, cache: SlotCache) -> Tensor:
        heads_TLh = self.joined(x_TD).view(len(x_TD), -1, self.head_dim)
        turned_TQh = self._turned(heads_TLh[:, : self.heads + self.keys], turn_T1h)
        key_BMSh = turned_TQh[:, self.heads :].unflatten(0, shape).transpose(1, 2)
        value_BMSh = heads_TLh[:, self.heads + self.keys :].unflatten(0, shape).transpose(1, 2)
        key_BMCh, value_BMCh = cache.extend(self.index, key_BMSh, value_BMSh)
        query_TNh = turned_TQh[:, : self.heads]
        if shape[1] == 1:  # the queries of one key are rows of its product
            query_BMGh = query_TNh.reshape(len(x_TD), self.keys, -1, self.head_dim)
            out_TNh = F.scaled_dot_product_attention(query_BMGh, key_BMCh, value_BMCh, attn_mask=seen.visible)
        else:
            query_1NSh = query_TNh.transpose(0, 1)[None]
            out_1NSh = F.scaled_dot_product_attention(
                query_1NSh, key_BMCh, value_BMCh, attn_mask=seen.visible, is_causal=seen.causal, enable_gqa=True
            )
            out_TNh = out_1NSh[0].transpose(0, 1)
        return self.output(out_TNh.reshape(len(x_TD), -1))

    def _turned(self, x_TQh: Tensor, turn_T1h: Tensor) -> Tensor:
        """Normalised and rotated; see `penstock.moe_core.layers.rope.rotated_heads`."""
        if self.gain_Qh is not None:
            x_TQh = _normalised(x_TQh, self.epsilon).mul_(self.gain_Qh)
        turned = torch.view_as_complex(x_TQh.unflatten(-1, (-1, 2))) * turn_T1h
        return torch.view_as_real(turned).flatten(-2)


class _Seen(NamedTuple):
    """What new tokens see: `visible` as `scaled_dot_product_attention` takes it, or all before them if `causal`."""

    visible: Tensor | None
    causal: bool


def _side_by_side(rotary_dim: int, head_dim: int) -> Tensor:
    """The entries of a head with the two of each rotated pair next to each other.

    >>> _side_by_side(4, 6).tolist()
    [0, 2, 1, 3, 4, 5]
    """
    pairs = torch.arange(rotary_dim).view(2, -1).T.flatten()
    return torch.cat((pairs, torch.arange(rotary_dim, head_dim)))


class _Dense:
    def __init__(self, mlp: SwiGLU, norm: RMSNorm | None) -> None:
        self.gate_up, self.down = _Matrix.of(mlp.gate_proj, mlp.up_proj, norm=norm), _Matrix.of(mlp.down_proj)

    def __call__(self, x_TD: Tensor) -> Tensor:
        gate_TH, up_TH = self.gate_up(x_TD).chunk(2, dim=-1)
        return self.down(F.silu(gate_TH).mul_(up_TH))


class _Mixture:
    def __init__(self, mlp: MoE, norm: RMSNorm) -> None:
        self.router: Router = mlp.gate
        self.experts = mlp.experts
        gate_up_EFD, down_EDH = mlp.experts.effective_weights()
        self.gate_up_EFD, self.down_EDH = gate_up_EFD.detach().float(), down_EDH.detach().float()
        self.shared = None if mlp.shared_experts is None else _Dense(mlp.shared_experts, None)
        self.gain_D, self.epsilon = norm.weight.detach(), norm.weight.new_tensor(norm.epsilon)

    def __call__(self, x_TD: Tensor) -> tuple[Tensor, Tensor]:
        x_TD = _normalised(x_TD, self.epsilon).mul_(self.gain_D)
        routing = self.router(x_TD)
        if routing.kept_TK is not None:
            out_TD, chosen = self.experts(x_TD, routing), routing.expert_TK[routing.kept_TK]
        else:
            out_TD, chosen = self._mixed(x_TD, routing), routing.expert_TK
        return out_TD if self.shared is None else out_TD + self.shared(x_TD), chosen

    def _mixed(self, x_TD: Tensor, routing: Routing) -> Tensor:
        if len(x_TD) == 1:
            return self._of_one(x_TD, routing.expert_TK[0].tolist(), routing.weight_TK[0])
        if len(x_TD) * len(self.down_EDH) <= DENSE_ROWS:
            return self._of_all(x_TD, routing.expert_TK, routing.weight_TK)
        return self.experts(x_TD, routing)

    def _of_one(self, x_1D: Tensor, chosen: list[int], weight_K: Tensor) -> Tensor:
        hidden_KF = torch.cat([F.linear(x_1D, self.gate_up_EFD[expert]) for expert in chosen])
        gate_KH, up_KH = hidden_KF.chunk(2, dim=-1)
        hidden_KH = F.silu(gate_KH).mul_(up_KH).mul_(weight_K[:, None])
        out_1D = F.linear(hidden_KH[:1], self.down_EDH[chosen[0]])
        for index, expert in enumerate(chosen[1:], 1):
            out_1D.addmm_(hidden_KH[index : index + 1], self.down_EDH[expert].T)
        return out_1D

    def _of_all(self, x_TD: Tensor, expert_TK: Tensor, weight_TK: Tensor) -> Tensor:
        weight_TE = x_TD.new_zeros(len(x_TD), len(self.down_EDH)).scatter_(1, expert_TK, weight_TK)
        hidden_ETF = torch.matmul(x_TD, self.gate_up_EFD.transpose(1, 2))
        gate_ETH, up_ETH = hidden_ETF.chunk(2, dim=-1)
        hidden_ETH = F.silu(gate_ETH).mul_(up_ETH).mul_(weight_TE.T[..., None])
        return torch.bmm(hidden_ETH, self.down_EDH.transpose(1, 2)).sum(dim=0)


class GlmStep:
    """A `penstock.moe_core.layers.slot_decoder.FastPass` of a model without `obstacle`."""

    def __init__(self, model: GlmMoe, positions: int) -> None:
        config = model.config
        with torch.no_grad():
            self._embedding_VD = model.embed_tokens.effective().detach()
            self._gain_D = model.norm.weight.detach()
            self._epsilon = self._gain_D.new_tensor(model.norm.epsilon)
            position_P = torch.arange(positions, device=self._embedding_VD.device)
            cos_PR, sin_PR = rotary_table(position_P, config.rotary_dim, config.rope_theta)
            rest = (config.head_dim - config.rotary_dim) // 2
            self._turn_Ph = F.pad(torch.complex(cos_PR, sin_PR), (0, rest), value=1.0)
            self._layers: list[tuple[_Attention, _Dense | _Mixture]] = []
            for index in range(config.num_hidden_layers):
                layer: Any = model.layers[index]
                norm = layer.post_attention_layernorm
                mlp = _Dense(layer.mlp, norm) if isinstance(layer.mlp, SwiGLU) else _Mixture(layer.mlp, norm)
                self._layers.append((_Attention(index, layer, config.rotary_dim), mlp))

    def __call__(self, token_BS: Tensor, cache: SlotCache) -> tuple[Tensor, Mapping[int, Tensor]]:
        placed = cache.positions(Inputs(token_BS))
        batch, new = token_BS.shape
        turn_T1h = self._turn_Ph[placed.position.flatten()][:, None]
        seen = _Seen(placed.visible, causal=placed.visible is None and new > 1)
        x_TD = self._embedding_VD[token_BS.flatten()]
        chosen: dict[int, Tensor] = {}
        for attention, mlp in self._layers:
            x_TD = attention(x_TD, (batch, new), turn_T1h, seen, cache).add_(x_TD)
            if isinstance(mlp, _Dense):
                x_TD = mlp(x_TD).add_(x_TD)
            else:
                out_TD, chosen[attention.index] = mlp(x_TD)
                x_TD = x_TD + out_TD
        last_BD = x_TD if new == 1 else x_TD[-1:]
        return _normalised(last_BD, self._epsilon).mul_(self._gain_D), chosen
