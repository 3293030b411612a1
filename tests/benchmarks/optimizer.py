"""One step of `MuonAdamW` on a layer of 160 experts against `torch.optim.Muon`, and its share of a training step.

`torch.optim.Muon` takes 2-D parameters alone, so it gets every matrix of the stacks as a parameter of its own: the same
matrices with the same gradients and settings. Two ways to cut the experts are compared: gate and up as one matrix
[2H, D], as `split_fused: false` takes them, and as two [H, D], as they are by default.

Newton-Schulz runs in each optimizer's own precision: bf16 in torch, which has no other; here bf16 where the processor
multiplies it, else fp32, which is several times as fast there. `ours in` shows both. `products alone` is the time of
the iterations' matrix products at the faster precision, as one batch that fills the processor: `torch / products` is
the ratio that no optimizer with these products exceeds.

The share is that of clip and step in the quickstart's training step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click
import torch
from measure import Bar, finish, interleaved, json_option, rounds
from quickstart import Quickstart
from torch import Tensor, nn

from penstock.hooks.contracts import ParameterRole
from penstock.optim_muon.muon import MuonAdamW
from penstock.optim_muon.newton_schulz import CPU_PIECE, multiplies_bf16

EXPERTS, WIDTH, HIDDEN = 160, 256, 128
CUTS = {
    "gate_up [2H, D], down": {"gate_up": (2 * HIDDEN, WIDTH), "down": (WIDTH, HIDDEN)},
    "gate, up [H, D], down": {"gate": (HIDDEN, WIDTH), "up": (HIDDEN, WIDTH), "down": (WIDTH, HIDDEN)},
}
SETTINGS: dict[str, Any] = {"lr": 0.02, "momentum": 0.95, "nesterov": True, "weight_decay": 0.1}


def stacks(shapes: dict[str, tuple[int, int]]) -> dict[str, nn.Parameter]:
    """One [E, rows, columns] parameter a name, each with a gradient; the same at every call."""
    torch.manual_seed(0)
    parameters = {name: nn.Parameter(torch.randn(EXPERTS, *shape) * 0.02) for name, shape in shapes.items()}
    for parameter in parameters.values():
        parameter.grad = torch.randn_like(parameter) * 1e-3
    return parameters


def ours(shapes: dict[str, tuple[int, int]], **settings: Any) -> tuple[MuonAdamW, list[Tensor]]:
    parameters = stacks(shapes)
    optimizer = MuonAdamW({ParameterRole.EXPERT: parameters}, scaling="match_rms", **SETTINGS, **settings)
    return optimizer, list(parameters.values())


def theirs(shapes: dict[str, tuple[int, int]]) -> tuple[torch.optim.Muon, list[Tensor]]:
    """The stacks as parameters of their own memory, one a matrix."""
    matrices: list[Tensor] = []
    for stack in stacks(shapes).values():
        assert stack.grad is not None
        for matrix, gradient in zip(stack.detach().unbind(), stack.grad.unbind(), strict=True):
            matrices.append(nn.Parameter(matrix.clone()))
            matrices[-1].grad = gradient.clone()
    return torch.optim.Muon(matrices, adjust_lr_fn="match_rms_adamw", **SETTINGS), matrices


def products(shapes: dict[str, tuple[int, int]]) -> Callable[[], None]:
    """The products of five iterations for every matrix: Gram matrix, its square, the polynomial times the matrix."""
    dtype = torch.bfloat16 if multiplies_bf16(torch.device("cpu")) else torch.float32
    cases: list[tuple[int, Tensor, Tensor]] = []
    for shape in shapes.values():
        rows, columns = max(shape), min(shape)
        together = max(1, CPU_PIECE // (rows * columns))
        upright = torch.randn(together, rows, columns, dtype=dtype)
        cases.append((5 * EXPERTS // together, upright, torch.randn(together, columns, columns, dtype=dtype)))

    def run() -> None:
        for count, upright, square in cases:
            tall, small = torch.empty_like(upright), torch.empty_like(square)
            for _ in range(count):
                torch.bmm(upright.mT, upright, out=small)
                torch.bmm(square, square, out=small)
                torch.bmm(upright, square, out=tall)

    return run


def difference(ours: list[Tensor], theirs: list[Tensor], before: list[Tensor]) -> float:
    """How far apart the same steps of both took the same parameters, as a share of the distance they went."""
    expected = joined(theirs) - joined(before)
    return float((joined(ours) - joined(theirs)).norm() / expected.norm())


def joined(parameters: list[Tensor]) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in parameters])


@click.command(help=__doc__)
@rounds(5)
@json_option
def main(rounds: int, as_json: bool) -> None:
    rows: list[dict[str, Any]] = []
    bars: list[Bar] = []
    # First: what the experts leave in the heap would slow the quickstart's step.
    quickstart = Quickstart()
    parts = {"forward and backward": quickstart.gradients, "clip and step": quickstart.optimizer_step}
    seconds = interleaved(parts, rounds=5 * rounds, warmup=3)
    share = seconds["clip and step"] / sum(seconds.values())
    rows.append({"step of": "quickstart", "ours": f"{seconds['clip and step'] * 1e3:.0f} ms", "share of a step": share})
    bars.append(Bar("share of a quickstart training step", share, 0.15, at_least=False))

    for cut, shapes in CUTS.items():
        (our_optimizer, our_stacks), (their_optimizer, their_matrices) = ours(shapes), theirs(shapes)
        cases: dict[str, Callable[[], Any]] = {
            "ours": our_optimizer.step,
            "ours in bf16": ours(shapes, iteration_dtype="bfloat16")[0].step,
            "ours in fp32": ours(shapes, iteration_dtype="float32")[0].step,
            "torch.optim.Muon": their_optimizer.step,
            "products alone": products(shapes),
        }
        seconds = interleaved(cases, rounds=rounds)
        times = {name: f"{value * 1e3:.0f} ms" for name, value in seconds.items()}
        ratio = seconds["torch.optim.Muon"] / seconds["ours"]
        limit = seconds["torch.optim.Muon"] / seconds["products alone"]
        rows.append({"step of": f"{EXPERTS} experts: {cut}", **times, "torch / ours": ratio, "torch / products": limit})
        bars.append(Bar(f"torch.optim.Muon / ours, {cut}", ratio, 3))
        apart = difference(our_stacks, their_matrices, before=list(stacks(shapes).values()))
        bars.append(Bar(f"relative difference after these steps, {cut}", apart, 0.02, at_least=False))
    finish("optimizer", rows, bars, as_json, torch=torch.__version__, threads=torch.get_num_threads())


if __name__ == "__main__":
    main()
