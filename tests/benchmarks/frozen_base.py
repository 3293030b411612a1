"""Experts beside the MLPs of a model that stays as it is: `FrozenBase` against a straightforward program.

The model has the shape of TinyStories-1M (GPT-Neo of transformers, width 64, 8 layers, 50,257 tokens; random weights).
Its second, fourth, sixth and eighth layer get 8 experts, 2 a token, softmax scores at temperature 0.5, balanced by the
Switch loss with weight 0.1; a step takes 4 texts of 256 tokens, and AdamW steps routers and experts.

`straightforward` does the same as one writes it down: the base runs with gradients enabled and only the optimizer
leaves it alone, logits of all tokens at once, a loop over experts. `straightforward, base frozen` has `requires_grad`
off, as a careful program would, and is no part of a bar. All three start from the same weights; losses and gradients
are compared before anything is timed.

The floor is the head's two matrix products alone, of hidden states to logits and of probabilities back, in pieces that
stay in the cache: any program with this vocabulary computes them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click
import torch
from measure import Bar, finish, interleaved, json_option, rounds
from penstock_hf_models.build import hf_model
from torch import Tensor, nn
from torch.nn import functional as F

from penstock.hooks.contracts import Routing
from penstock.moe_core.frozen_base.model import FrozenBase
from penstock.moe_core.layers.matmul import rows_times_transposed
from penstock.routers.losses import SwitchLoss
from penstock.routers.topk import SoftmaxTopK
from penstock.train.memory import keep_freed_memory

LAYERS, EXPERTS, K, TEMPERATURE, WEIGHT = (1, 3, 5, 7), 8, 2, 0.5, 0.1
WIDTH, HIDDEN, VOCABULARY = 64, 256, 50_257
BATCH, SEQUENCE, SAMPLES = 4, 256, 1000
SHAPE: dict[str, Any] = {
    "hidden_size": WIDTH,
    "num_layers": 8,
    "num_heads": 16,
    "attention_types": [[["global", "local"], 4]],
    "max_position_embeddings": 2048,
    "window_size": 256,
}
OURS, PLAIN, CAREFUL = "penstock", "straightforward", "straightforward, base frozen"
FLOOR = "floor: products of the head"


def build_ours() -> Any:
    torch.manual_seed(0)
    base: Any = hf_model(model_type="gpt_neo", settings=SHAPE, vocab_size=VOCABULARY)
    model = FrozenBase(
        base,
        layers=LAYERS,
        experts=EXPERTS,
        expert_size=HIDDEN,
        make_router=lambda layer, **sizes: SoftmaxTopK(**sizes, k=K, temperature=TEMPERATURE),
    )
    for adapter in model.adapters.values():  # what starts at zero would hide a difference between the programs
        nn.init.normal_(adapter.get_parameter("experts.down_proj"), std=0.02)
    return model


class LoopedExperts(nn.Module):
    """A gate and a list of experts, each called with the tokens that chose it."""

    def __init__(self, mlp: nn.Module, ours: Any) -> None:
        super().__init__()
        self.mlp = mlp
        self.gate = nn.Linear(WIDTH, EXPERTS, bias=False)
        self.gate.weight.data.copy_(ours.gate.weight)
        self.experts: Any = nn.ModuleList(nn.ModuleList(self._linears(expert, ours)) for expert in range(EXPERTS))
        self.probabilities, self.chosen = torch.empty(0), torch.empty(0)

    @staticmethod
    def _linears(expert: int, ours: Any) -> list[nn.Linear]:
        gate_up, down = ours.experts.gate_up_proj[expert], ours.experts.down_proj[expert]
        linears = [nn.Linear(weight.shape[1], weight.shape[0], bias=False) for weight in (*gate_up.chunk(2), down)]
        for linear, weight in zip(linears, (*gate_up.chunk(2), down), strict=True):
            linear.weight.data.copy_(weight)
        return linears

    def forward(self, hidden: Tensor) -> Tensor:
        flat = hidden.reshape(-1, WIDTH)
        self.probabilities = F.softmax(self.gate(flat) / TEMPERATURE, dim=-1)
        weights, self.chosen = self.probabilities.topk(K, dim=-1)
        weights = weights / weights.sum(dim=-1, keepdim=True)
        out = torch.zeros_like(flat)
        for number, (gate, up, down) in enumerate(self.experts):
            token, slot = torch.where(self.chosen == number)
            expert_out = down(F.silu(gate(flat[token])) * up(flat[token]))
            out = out.index_add(0, token, expert_out * weights[token, slot, None])
        return self.mlp(hidden) + out.view_as(hidden)

    def balance(self) -> Tensor:
        share = F.one_hot(self.chosen, EXPERTS).float().mean(dim=(0, 1))
        return EXPERTS * (share * self.probabilities.mean(dim=0)).sum()


def build_plain(ours: Any, *, frozen: bool) -> Any:
    """transformers' model with the same weights, and `LoopedExperts` instead of some MLPs."""
    network = type(ours.base.network)(ours.base.network.config)
    network.load_state_dict(ours.base.network.state_dict())
    network.requires_grad_(not frozen)
    for layer in LAYERS:
        block = network.transformer.h[layer]
        block.mlp = LoopedExperts(block.mlp, ours.adapters[str(layer)])
    return network.eval()  # without dropout, as ours


def our_loss(model: Any, token_BS: Tensor) -> Tensor:
    output = model.next_token_loss(token_BS[:, :-1], token_BS[:, 1:])
    balance = [SwitchLoss()(routing) for routing in output.routings.values() if isinstance(routing, Routing)]
    return output.loss / token_BS[:, 1:].numel() + WEIGHT * torch.stack(balance).sum()


def plain_loss(network: Any, token_BS: Tensor) -> Tensor:
    logits_BSV = network(token_BS[:, :-1], use_cache=False).logits
    loss = F.cross_entropy(logits_BSV.flatten(0, 1), token_BS[:, 1:].flatten())
    return loss + WEIGHT * torch.stack([network.transformer.h[layer].mlp.balance() for layer in LAYERS]).sum()


def trained(model: Any) -> dict[str, nn.Parameter]:
    return {
        name: each
        for name, each in model.named_parameters()
        if "adapters" in name or "gate" in name or "experts" in name
    }


def stepper(model: Any, loss_of: Callable[[Any, Tensor], Tensor], token_BS: Tensor) -> Callable[[], float]:
    optimizer = torch.optim.AdamW(trained(model).values(), lr=1e-4, fused=True)

    def step() -> float:
        loss = loss_of(model, token_BS)
        loss.backward()
        optimizer.step()
        model.zero_grad(set_to_none=True)
        return loss.item()

    return step


def products_of_the_head() -> Callable[[], None]:
    hidden_TD, weight_VD = torch.randn(BATCH * SEQUENCE, WIDTH), torch.randn(VOCABULARY, WIDTH)

    @torch.no_grad()
    def multiply() -> None:
        for part in weight_VD.split(1024):
            rows_times_transposed(rows_times_transposed(hidden_TD, part), part.T)

    return multiply


def require_the_same(ours: Any, plain: Any, token_BS: Tensor) -> None:
    """Raises where the two do not compute the same loss and gradients."""
    losses = our_loss(ours, token_BS), plain_loss(plain, token_BS)
    for loss in losses:
        loss.backward()
    gaps = [abs(losses[0].item() - losses[1].item())]
    for layer in LAYERS:
        mine, theirs = ours.adapters[str(layer)], plain.transformer.h[layer].mlp
        down_EDH = torch.stack([expert[2].weight.grad for expert in theirs.experts])
        for found, expected in (
            (mine.gate.weight.grad, theirs.gate.weight.grad),
            (mine.experts.down_proj.grad, down_EDH),
        ):
            gaps.append(float((found - expected).abs().max() / expected.abs().max()))
    ours.zero_grad(set_to_none=True)
    plain.zero_grad(set_to_none=True)
    if max(gaps) > 1e-3:
        raise click.ClickException(f"the programs do not compute the same: {max(gaps):.2g}")


@click.command(help=__doc__)
@click.option("--threads", default=2, show_default=True, type=click.IntRange(min=1))
@rounds(9)
@json_option
def main(threads: int, rounds: int, as_json: bool) -> None:
    torch.set_num_threads(threads)
    keep_freed_memory()  # as `penstock train` does; all programs profit
    token_BS = torch.randint(0, VOCABULARY, (BATCH, SEQUENCE + 1), generator=torch.Generator().manual_seed(0))
    ours = build_ours()
    plain, careful = build_plain(ours, frozen=False), build_plain(ours, frozen=True)
    for layer in LAYERS:
        careful.transformer.h[layer].mlp.gate.requires_grad_(True)
        careful.transformer.h[layer].mlp.experts.requires_grad_(True)
    require_the_same(ours, plain, token_BS)
    steps = {
        OURS: stepper(ours, our_loss, token_BS),
        PLAIN: stepper(plain, plain_loss, token_BS),
        CAREFUL: stepper(careful, plain_loss, token_BS),
        FLOOR: products_of_the_head(),
    }
    seconds = interleaved(steps, rounds=rounds)
    rows = [
        {
            "program": name,
            "ms a step": 1000 * each,
            "steps a second": 1 / each,
            f"s for {SAMPLES} samples": each * SAMPLES / BATCH,
        }
        for name, each in seconds.items()
    ]
    bars = [
        Bar("steps a second against straightforward", seconds[PLAIN] / seconds[OURS], 2.0),
        Bar(f"seconds for {SAMPLES} samples", seconds[OURS] * SAMPLES / BATCH, 60.0, at_least=False),
    ]
    finish("frozen_base", rows, bars, as_json, threads=threads, torch=torch.__version__)


if __name__ == "__main__":
    main()
