"""What counting and balancing take of a quickstart step, in time of the processor.

Timed alone, forward and backward down to the logits, beside the step without them: the load counted, the exact global
loss and the z-loss, the biases moved, and the metrics of a step that is logged, as `penstock train` does all of it. The
step has one micro-batch: the pass that counts first, which only several need, is a row of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

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
    model, token_BS = quickstart.composition.model, quickstart.token_BS
    balancing = Balancing(model, {"global-loss": GlobalLoss(), "z-loss": ZLoss()}, [LossFree(0.0)])

    with torch.no_grad():
        routings = model(token_BS[:, :-1]).routings

    def accounting() -> None:
        leaves = {layer: routing.logits_TE.clone().requires_grad_() for layer, routing in routings.items()}
        scored = {
            layer: replace(routings[layer], logits_TE=leaf_TE, score_TE=leaf_TE.sigmoid())
            for layer, leaf_TE in leaves.items()
        }
        balancing.begin([], tokens=quickstart.tokens_per_step)
        penalty, measured = balancing.penalty(scored, sequences=len(token_BS))
        assert penalty is not None
        penalty.backward()
        balancing.finish(tokens_seen=1)
        _ = [value.item() for value in measured.values()]

    cases: dict[str, Callable[[], object]] = {
        "step without balancing": quickstart.step,
        "counting and balancing": accounting,
        "pass that counts first": torch.no_grad()(lambda: model(token_BS[:, :-1]).routings),
    }
    seconds = interleaved(cases, rounds=rounds, warmup=2, clock=time.process_time)
    shares = {name: each / seconds["step without balancing"] for name, each in seconds.items()}
    rows = [{"case": name, "ms": 1000 * each, "share of the step": shares[name]} for name, each in seconds.items()]
    bars = [Bar("counting and balancing over a step", shares["counting and balancing"], 0.02, at_least=False)]
    finish("accounting", rows, bars, as_json, threads=torch.get_num_threads(), rounds=rounds)


if __name__ == "__main__":
    main()
