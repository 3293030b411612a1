"""What counting and balancing take of a quickstart step: two steps that are the same but for it, in turn.

Both take the gradient of the same batch and an optimizer step. One counts the load, takes the exact global loss and the
Both take the gradient of the same batch and an optimizer step. One counts the load, takes the exact global loss and
of it. The step has one micro-batch: the pass that counts first, which only several need, is a row of its own.
"""

from __future__ import annotations

from collections.abc import Callable

import click
import torch
from measure import Bar, finish, interleaved, json_option, rounds
from quickstart import Quickstart

from penstock.routers.balancers import LossFree
from penstock.routers.losses import GlobalLoss, ZLoss
from penstock.train.balancing import Balancing


@click.command()
@rounds(20)
@json_option
def main(rounds: int, as_json: bool) -> None:
    torch.manual_seed(0)
    quickstart = Quickstart()
    model, engine, token_BS = quickstart.composition.model, quickstart.engine, quickstart.token_BS
    balancing = Balancing(model, {"global-loss": GlobalLoss(), "z-loss": ZLoss()}, [LossFree(0.0)])

    def step(balanced: bool) -> None:
        output = model.next_token_loss(token_BS[:, :-1], token_BS[:, 1:])
        loss = output.loss / quickstart.tokens_per_step
        if balanced:
            balancing.begin([], tokens=quickstart.tokens_per_step)
            penalty, measured = balancing.penalty(output.routings, sequences=len(token_BS))
            loss = loss + penalty
        engine.backward(loss)
        if balanced:
            balancing.finish(tokens_seen=1)
            [value.item() for value in measured.values()]
        quickstart.optimizer_step()

    def accounting() -> None:
        balancing.begin([], tokens=quickstart.tokens_per_step)
        balancing.penalty(routings, sequences=len(token_BS))
        balancing.finish(tokens_seen=1)

    with torch.no_grad():
        routings = model(token_BS[:, :-1]).routings
    cases: dict[str, Callable[[], object]] = {
        "plain step": lambda: step(False),
        "balanced step": lambda: step(True),
        "the accounting alone, without its backward": accounting,
        "a pass that counts first": torch.no_grad()(lambda: model(token_BS[:, :-1]).routings),
    }
    seconds = interleaved(cases, rounds=rounds, warmup=2)
    plain = seconds["plain step"]
    rows = [{"case": name, "ms": 1000 * each, "share of a step": each / plain} for name, each in seconds.items()]
    share = seconds["the accounting alone, without its backward"] / plain
    bars = [
        Bar("accounting over a step", share, 0.02, at_least=False),
        Bar("balanced step over plain step", seconds["balanced step"] / plain, 1.02, at_least=False),
    ]
    finish("accounting", rows, bars, as_json, threads=torch.get_num_threads(), rounds=rounds)


if __name__ == "__main__":
    main()
