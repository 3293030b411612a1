"""One layer of routed experts, forward and backward, against transformers' implementations of the same.

The weights, the tokens and the routing are the same for all, and the outputs are compared before anything is timed.
Rows named `penstock <backend>` force one of ours; plain `penstock` is the choice that users get.
"""

from __future__ import annotations

from collections.abc import Callable

import click
import torch
from measure import Bar, finish, interleaved, json_option, rounds
from torch import Tensor, nn
from transformers import Glm4MoeConfig
from transformers.models.glm4_moe.modeling_glm4_moe import Glm4MoeExperts

from penstock.hooks.contracts import Routing
from penstock.moe_core.layers.expert_backends import BACKENDS
from penstock.moe_core.layers.experts import Experts

# Tokens, experts a token, experts, width, hidden width.
SIZES = {"T1024 k8 E160 D256 H128": (1024, 8, 160, 256, 128), "T1024 k2 E8 D256 H512": (1024, 2, 8, 256, 512)}
THEIRS = ("eager", "grouped_mm")
OURS = "penstock"


def their_experts(layer: Experts, implementation: str) -> nn.Module:
    experts, width, hidden = layer.down_proj.shape
    sizes = {"hidden_size": width, "moe_intermediate_size": hidden, "n_routed_experts": experts}
    config = Glm4MoeConfig(**{**sizes, "experts_implementation": implementation})
    twin = Glm4MoeExperts(config)
    twin.load_state_dict(layer.state_dict())
    return twin


def pass_through(
    call: Callable[[Tensor, Tensor], Tensor], layer: nn.Module, x_TD: Tensor, weight_TK: Tensor, grad_TD: Tensor
) -> Callable[[], Tensor]:
    """Forward and backward to the tokens, the routing weights and the experts."""
    leaves = [x_TD, weight_TK, *layer.parameters()]

    def run() -> Tensor:
        out_TD = call(x_TD, weight_TK)
        torch.autograd.grad(out_TD, leaves, grad_TD)
        return out_TD.detach()

    return run


def cases(tokens: int, k: int, experts: int, width: int, hidden: int) -> dict[str, Callable[[], Tensor]]:
    torch.manual_seed(0)
    layer = Experts(experts, width, hidden)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.05)
    x_TD = torch.randn(tokens, width, requires_grad=True)
    expert_TK = torch.rand(tokens, experts).topk(k).indices
    weight_TK = torch.rand(tokens, k, requires_grad=True)
    grad_TD = torch.randn(tokens, width)

    def ours(backend: str | None) -> Callable[[], Tensor]:
        forced = Experts(experts, width, hidden, backend=backend)
        forced.load_state_dict(layer.state_dict())

        def call(x_TD: Tensor, weight_TK: Tensor) -> Tensor:
            return forced(x_TD, Routing(expert_TK, weight_TK, grad_TD, grad_TD))

        return pass_through(call, forced, x_TD, weight_TK, grad_TD)

    def theirs(implementation: str) -> Callable[[], Tensor]:
        twin = their_experts(layer, implementation)
        return pass_through(lambda x, weight: twin(x, expert_TK, weight), twin, x_TD, weight_TK, grad_TD)

    return {
        OURS: ours(None),
        **{f"{OURS} {name}": ours(name) for name in BACKENDS},
        **{f"transformers {name}": theirs(name) for name in THEIRS},
    }


@click.command(help=__doc__)
@rounds(9)
@json_option
def main(rounds: int, as_json: bool) -> None:
    rows, bars = [], []
    for size, numbers in SIZES.items():
        programs = cases(*numbers)
        expected = programs[OURS]()
        for program in programs.values():
            torch.testing.assert_close(program(), expected, rtol=1e-4, atol=1e-4)
        seconds = interleaved(programs, rounds=rounds)
        rows += [
            {"sizes": size, "program": name, "ms": 1000 * each, "speed of penstock": each / seconds[OURS]}
            for name, each in seconds.items()
        ]
        best = min(seconds[f"transformers {name}"] for name in THEIRS)
        bars.append(Bar(f"{size}: speed against transformers' best", best / seconds[OURS], 1.0))
        if numbers[2] >= 160:
            bars.append(Bar(f"{size}: speed against eager", seconds["transformers eager"] / seconds[OURS], 10.0))
    finish("experts", rows, bars, as_json, threads=torch.get_num_threads(), torch=torch.__version__)


if __name__ == "__main__":
    main()
