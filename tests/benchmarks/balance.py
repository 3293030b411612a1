"""The quickstart trained with each way of balancing: how even the load is on text it has not seen, and what it costs.

Every seed trains one model a method, on the same data, from the same weights, in the same order, with four
micro-batches a step: of one, the Switch loss of a micro-batch and the exact global one would be the same. Bits per byte
are of held-out text and compared within a seed.

MaxVio is (max - mean) / mean of an expert's load over many tokens, the mean over layers (MaxVio_global of arXiv
2408.15664). It is taken of the tokens that training would have read next, the text that it balanced for, and held to
the bar there. That of the held-out text is printed too. It is made of other files, a few dozen, and experts that care
what they read are not as busy there: `floor` is what remains of it when the load of the training text is made even,
by moving nothing but the selection biases.

`specialisation` is how much of the choice of experts on held-out text the token's id explains, from 0 to 1, and `of an
untrained router` the same where the router's weights are those it began with and all else is trained. A router that has
learned nothing follows the token too, through its hidden state: only what exceeds it was learned. `faint-loss` is the
Switch loss at a hundredth of its published weight.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from measure import Bar, finish, json_option, runs_option
from quickstart import trained_run
from torch import Tensor, nn

from penstock.data_prep.order import TokenOrder
from penstock.eval_suite.metrics import bits_per_byte
from penstock.hooks.contracts import Routing
from penstock.routers.balancers import bias_of
from penstock.routers.load import entropy, expert_load, max_violation
from penstock.routers.specialisation import token_specialisation
from penstock.train.compose import compose_model
from penstock.train.restore import RestoredRun

# The Switch loss has its published weight. A tenth of the weight below leaves the global loss where the Switch loss is.
METHODS: dict[str, str | None] = {
    "switch-loss": "[{use: switch-loss, weight: 0.01}]",
    "global-loss": "[{use: global-loss, weight: 0.1}]",
    "loss-free": None,  # as the quickstart has it
    "faint-loss": "[{use: switch-loss, weight: 0.0001}]",
}
WINDOWS = 16  # of a forward pass
Routings = list[Mapping[int, Routing]]
# "No worse" is a mean over paired seeds that is worse by no more than a fifth of a percent.
LEEWAY = 0.002


def trained(method: str, seed: int, overrides: tuple[str, ...], runs: Path) -> RestoredRun:
    """A finished run of the quickstart, which is trained unless `runs` has it."""
    folder = runs / f"{method}-{seed}"
    balance = METHODS[method]
    chosen = [] if balance is None else [f"model.balance={balance}"]
    return trained_run(folder, f"seed={seed}", "train.micro_batch_size=2", *chosen, *overrides)


@torch.inference_mode()
def measured(restored: RestoredRun, tokens: int) -> dict[str, float]:
    """Bits per byte, load and specialisation, of about so many tokens of each text."""
    heldout_WS, next_WS = heldout_windows(restored, tokens), next_windows(restored, tokens)
    loss, routings = passed(restored, heldout_WS)
    width = restored.dataset.tokenizer().byte_lengths()
    seen = {"MaxVio": load(restored, next_WS), "held-out MaxVio": load_of(routings)}
    learned = {
        "entropy": entropy(seen["MaxVio"]).mean().item(),
        "specialisation": specialised(restored, heldout_WS, routings),
    }
    even_out(restored, next_WS)
    seen["floor"] = load(restored, heldout_WS)
    forget_routers(restored)
    learned["of an untrained router"] = specialised(restored, heldout_WS, passed(restored, heldout_WS)[1])
    return {
        "heldout bits/byte": bits_per_byte(loss, int(width[heldout_WS[:, 1:]].sum())),
        **{name: max_violation(counts_LE).mean().item() for name, counts_LE in seen.items()},
        **learned,
        "tokens": next_WS[:, 1:].numel(),
        "held-out tokens": heldout_WS[:, 1:].numel(),
    }


def heldout_windows(restored: RestoredRun, tokens: int) -> Tensor:
    """[W, S + 1], spread evenly over the held-out text: files differ, and the first are few."""
    length, heldout = restored.config.data.sequence_length, restored.dataset.split("heldout")
    available = (len(heldout) - 1) // length
    windows = min(available, max(1, tokens // length))
    starts_W = [number * available // windows * length for number in range(windows)]
    return torch.from_numpy(np.stack([heldout.slice(start, start + length + 1) for start in starts_W]))


def next_windows(restored: RestoredRun, tokens: int) -> Tensor:
    """[W, S + 1], the batches that would have come after the last step; raises where the text was read to its end."""
    config = restored.config
    order = TokenOrder(
        restored.dataset.split("train"),
        sequence_length=config.data.sequence_length,
        batch_size=config.train.batch_size,
        seed=config.seed,
    )
    last = restored.step
    steps = range(last, last + max(1, tokens // order.tokens_per_step))
    if steps.stop > order.steps_per_epoch:
        raise click.ClickException("the training text has no tokens left that were not read")
    return torch.from_numpy(np.concatenate([order.batch(step) for step in steps]))


def passed(restored: RestoredRun, window_WS: Tensor) -> tuple[list[float], Routings]:
    """Nats and routings of each forward pass."""
    output = [restored.model.next_token_loss(part[:, :-1], part[:, 1:]) for part in window_WS.split(WINDOWS)]
    return [part.loss.item() for part in output], [part.routings for part in output]


def load(restored: RestoredRun, window_WS: Tensor) -> Tensor:
    """int64 [L, E]"""
    return load_of([restored.model(part).routings for part in window_WS[:, :-1].split(WINDOWS)])


def load_of(routings: Routings) -> Tensor:
    """int64 [L, E]"""
    return torch.stack([expert_load(part).counts_LE for part in routings]).sum(dim=0)


def specialised(restored: RestoredRun, window_WS: Tensor, routings: Routings) -> float:
    """`token_specialisation`, the mean over layers."""
    token_T = window_WS[:, :-1].flatten()
    return statistics.mean(
        token_specialisation(torch.cat([part[layer].expert_TK for part in routings]), token_T, router.experts)
        for layer, router in restored.model.routers.items()
    )


def forget_routers(restored: RestoredRun) -> None:
    """Gives each router weights as at the beginning of training, and no selection bias."""
    torch.manual_seed(restored.config.seed)
    fresh = compose_model(restored.config, restored.dataset.manifest.vocabulary_size).model
    for layer, router in restored.model.routers.items():
        began = fresh.routers[layer]
        assert isinstance(router, nn.Module)
        assert isinstance(began, nn.Module)
        router.load_state_dict(began.state_dict())


def even_out(restored: RestoredRun, window_WS: Tensor) -> None:
    """Moves the selection biases until the load of these windows is even. A layer's scores depend on the choices of
    those below it, and so they follow one another."""
    for layer, router in sorted(restored.model.routers.items()):
        parts = window_WS[:, :-1].split(WINDOWS)
        score_TE = torch.cat([restored.model(part).routings[layer].score_TE for part in parts])
        bias_E = bias_of(router, "floor")
        for number in range(200):
            counts_E = (score_TE + bias_E).topk(router.k).indices.flatten().bincount(minlength=router.experts)
            step = score_TE.std().item() / (5 + number)
            bias_E.add_(1 - counts_E / counts_E.float().mean(), alpha=step)


@click.command()
@click.option("--tokens", default=None, type=int, help="Tokens to train on; the quickstart's where it is not given.")
@click.option("--seeds", default=5, show_default=True, type=click.IntRange(min=1), help="Seeds a method.")
@click.option("--measure", default=200_000, show_default=True, type=int, help="Tokens of each text to measure on.")
@click.option(
    "--method", "methods", multiple=True, type=click.Choice(list(METHODS)), help="A method; all if not given."
)
@runs_option
@click.option("--set", "overrides", multiple=True, help="An override of the config, for all methods.")
@json_option
def main(
    tokens: int | None,
    seeds: int,
    measure: int,
    methods: tuple[str, ...],
    runs: Path | None,
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    given = overrides if tokens is None else (f"train.tokens={tokens}", *overrides)
    with tempfile.TemporaryDirectory() as folder:
        rows: list[dict[str, Any]] = [
            {"seed": seed, "method": name, **measured(trained(name, seed, given, runs or Path(folder)), measure)}
            for seed in range(seeds)
            for name in methods or METHODS
        ]
    finish("balance", rows, bars_of(rows), as_json, tokens=tokens or "quickstart", threads=torch.get_num_threads())


def bars_of(rows: list[dict[str, Any]]) -> list[Bar]:
    """How even the load of two methods is, and what they cost beside the Switch loss, as far as they were measured."""
    bars: list[Bar] = []
    bits = {name: [row["heldout bits/byte"] for row in rows if row["method"] == name] for name in METHODS}
    for name in ("global-loss", "loss-free"):
        if bits[name]:
            violation = statistics.mean(row["MaxVio"] for row in rows if row["method"] == name)
            bars.append(Bar(f"MaxVio of {name}", violation, 0.1, at_least=False))
        if bits[name] and bits["switch-loss"]:
            worse = [ours / theirs - 1 for ours, theirs in zip(bits[name], bits["switch-loss"], strict=True)]
            bars.append(Bar(f"bits of {name} over the Switch loss's", statistics.mean(worse), LEEWAY, at_least=False))
    return bars


if __name__ == "__main__":
    main()
