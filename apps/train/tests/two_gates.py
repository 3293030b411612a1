"""A small model in fp64 with two routed layers, and the steps that laws of balancing take with it.

Shape suffixes: B sequences, S tokens of each, T = B*S tokens, K experts a token, E experts, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from penstock.hooks.contracts import ModelOutput, Routing
from penstock.routers.capacity import within_capacity
from penstock.routers.imbalance import entropy_loss, gini_loss, variance_loss, variation_loss
from penstock.routers.losses import GlobalLoss
from penstock.train.balancing import Balancing

EXPERTS, SEQUENCES, LENGTH, VOCABULARY = 8, 12, 6, 40
TOLERANCE = 1e-10


class Gate(nn.Module):
    """Sigmoid top-2 in fp64, which the routers of a model, fp32 by contract, cannot be."""

    experts, k = EXPERTS, 2
    e_score_correction_bias: Tensor
    calls: Tensor

    def __init__(self, generator: torch.Generator, capacity: int | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(EXPERTS, 16, dtype=torch.float64, generator=generator))
        self.register_buffer("e_score_correction_bias", torch.zeros(EXPERTS))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.capacity = capacity

    def forward(self, hidden_TD: Tensor) -> Routing:
        self.calls += 1
        logits_TE = hidden_TD @ self.weight.T
        score_TE = logits_TE.sigmoid()
        expert_TK = (score_TE + self.e_score_correction_bias).topk(2, dim=-1).indices
        weight_TK = score_TE.gather(-1, expert_TK)
        if self.capacity is None:
            return Routing(expert_TK, weight_TK, logits_TE, score_TE)
        kept_TK = within_capacity(expert_TK, experts=EXPERTS, capacity=self.capacity)
        return Routing(expert_TK, weight_TK * kept_TK, logits_TE, score_TE, kept_TK, ~kept_TK)


class TwoGates(nn.Module):
    """Two routed layers, each of which moves what the next one sees; no token sees another."""

    def __init__(self, capacity: int | None = None, *, checkpointed: bool | None = None) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.embedding_VD = nn.Parameter(torch.randn(VOCABULARY, 16, dtype=torch.float64, generator=generator) + 0.3)
        self.gates = nn.ModuleList(Gate(generator, capacity) for _ in range(2))
        self.mixing_EDD = torch.randn(EXPERTS, 16, 16, dtype=torch.float64, generator=generator) / 8
        self.checkpointed = checkpointed

    @property
    def routers(self) -> dict[int, Any]:
        return {1: self.gates[0], 2: self.gates[1]}

    def layer(self, gate: nn.Module, x_TD: Tensor) -> tuple[Tensor, Routing]:
        routing = gate(x_TD)
        weight_TE = torch.zeros_like(routing.score_TE).scatter(-1, routing.expert_TK, routing.weight_TK)
        return x_TD + torch.einsum("te,edf,td->tf", weight_TE, self.mixing_EDD, x_TD), routing

    def forward(self, token_BS: Tensor) -> ModelOutput:
        x_TD = self.embedding_VD[token_BS.flatten()]
        routings: dict[int, Routing] = {}
        for index, gate in self.routers.items():
            if self.checkpointed is None:
                x_TD, routings[index] = self.layer(gate, x_TD)
            else:
                x_TD, routings[index] = checkpoint(self.layer, gate, x_TD, use_reentrant=False)
        return ModelOutput(x_TD.view(*token_BS.shape, 16), routings)


def batch() -> Tensor:
    """Sequences of shifted vocabularies, so that no micro-batch is like another."""
    generator = torch.Generator().manual_seed(1)
    token_BS = torch.randint(0, 12, (SEQUENCES, LENGTH), generator=generator)
    return token_BS + 2 * torch.arange(SEQUENCES).unsqueeze(-1)


def padded(token_BS: Tensor, padding: int) -> tuple[Tensor, Tensor | None]:
    """With so many tokens of padding behind each sequence, and their mask."""
    if padding == 0:
        return token_BS, None
    mask_BS = torch.ones(len(token_BS), LENGTH + padding, dtype=torch.bool)
    mask_BS[:, LENGTH:] = False
    return nn.functional.pad(token_BS, (0, padding), value=VOCABULARY - 1), mask_BS


LOSSES: dict[str, Any] = {
    "global": lambda counts: GlobalLoss(1.0, counts),
    "gini": lambda counts: gini_loss(1.0, counts),
    "variance": lambda counts: variance_loss(1.0, counts),
    "cv": lambda counts: variation_loss(1.0, counts),
    "entropy": lambda counts: entropy_loss(1.0, counts),
}


def run_step(
    model: TwoGates, balancing: Balancing, rows: list[Tensor], padding: int = 0
) -> tuple[Any, dict[str, float], float]:
    """One step over micro-batches: leaves the gradient in the model; the load, the metrics and the objective."""
    cut = [padded(token_BS, padding) for token_BS in rows]
    value = 0.0
    balancing.begin(iter(cut), tokens=SEQUENCES * LENGTH)
    for token_BS, mask_BS in cut:
        routings = model(token_BS).routings
        mask_T = None if mask_BS is None else mask_BS.flatten()
        penalty, _ = balancing.penalty(routings, sequences=len(token_BS), mask_T=mask_T)
        assert penalty is not None
        penalty.backward()
        value += penalty.item()
    load, metrics = balancing.finish(tokens_seen=SEQUENCES * LENGTH)
    return load, metrics, value


def summed(tensors: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(tensors)).sum(dim=0)


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def whole_batch(name: str) -> tuple[dict[str, Tensor], float]:
    """What a plain call on the whole batch gives: the definition."""
    model = TwoGates()
    loss = LOSSES[name]("counts-first")
    value = torch.stack([loss(routing) for routing in model(batch()).routings.values()]).sum()
    value.backward()
    return gradients(model), value.item()


def relative_error(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> float:
    wrong = sum(float((found[name] - wanted[name]).square().sum()) for name in wanted)
    return (wrong / sum(float(each.square().sum()) for each in wanted.values())) ** 0.5
