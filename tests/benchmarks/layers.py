"""A training step (forward and backward) with activation checkpointing and with compiled layers, against it as it is.

`quickstart` is the model of the quickstart, `wide` that of `train_step.py` with eight experts. Seconds are the
processor's. Peak memory is that of a process that builds one model and steps it: its growth over what the imports take.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import click
import torch
from measure import Bar, finish, interleaved, json_option, rounds
from torch import nn
from train_step import SETTINGS, build_ours, status

from penstock.moe_core.glm.config import PRESETS, GlmMoeConfig
from penstock.moe_core.glm.model import GlmMoe
from penstock.routers.topk import SigmoidTopK
from penstock.run.config import TrainSettings
from penstock.train.layers import layer_passes

BATCH, SEQUENCE = 8, 256
AS_IT_IS = "as it is"
CASES: dict[str, dict[str, Any]] = {
    AS_IT_IS: {},
    "selective": {"activation_checkpointing": "selective"},
    "full": {"activation_checkpointing": "full"},
    "compiled": {"compile_layers": True},
}


def quickstart() -> GlmMoe:
    torch.manual_seed(0)
    sizes = {name: value for name, value in PRESETS["quickstart"].items() if name != "router"}
    config = GlmMoeConfig(vocab_size=4096, tie_word_embeddings=True, **sizes)
    model = GlmMoe(config, make_router=lambda layer, **sizes: SigmoidTopK(**sizes, k=2))
    for parameter in model.parameters():
        if parameter.dim() >= 2:
            nn.init.normal_(parameter, std=0.02)
    return model


MODELS: dict[str, Callable[[], Any]] = {"quickstart": quickstart, "wide": lambda: build_ours(*SETTINGS["E8 k2 H256"])}


def stepper(model: Any, case: str) -> Callable[[], float]:
    settings = {"activation_checkpointing": "none", "compile_layers": False, **CASES[case]}
    passes = layer_passes(model, TrainSettings.model_construct(**settings))
    shape = (BATCH, SEQUENCE + 1)
    token_BS = torch.randint(0, model.vocabulary_size, shape, generator=torch.Generator().manual_seed(0))

    def step() -> float:
        with passes.training():
            loss = model.next_token_loss(token_BS[:, :-1], token_BS[:, 1:]).loss / token_BS[:, 1:].numel()
        loss.backward()
        model.zero_grad(set_to_none=True)
        return loss.item()

    return step


def peak_mebibytes(model: str, case: str) -> float:
    """In a process of its own; Linux."""
    command = [sys.executable, __file__, "--peak-of", model, case]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def _grown_mebibytes(model: str, case: str) -> float:
    importlib.import_module("torch._dynamo")  # checkpoints import it
    before = status("VmRSS")
    step = stepper(MODELS[model](), case)
    for _ in range(3):
        step()
    return (status("VmHWM") - before) / 1024


@click.command(help=__doc__)
@click.option("--peak-of", type=(str, str), hidden=True)
@rounds(9)
@json_option
def main(peak_of: tuple[str, str] | None, rounds: int, as_json: bool) -> None:
    if peak_of is not None:
        click.echo(_grown_mebibytes(*peak_of))
        return
    rows, bars = [], []
    for name, build in MODELS.items():
        steps = {case: stepper(build(), case) for case in CASES}
        losses = {case: step() for case, step in steps.items()}
        if {losses[case] for case in CASES if case != "compiled"} != {losses[AS_IT_IS]}:
            raise click.ClickException(f"checkpointing changed the loss: {losses}")
        seconds = interleaved(steps, rounds=rounds, clock=time.process_time)
        peak = {case: peak_mebibytes(name, case) for case in CASES if case != "compiled"}
        for case, each in seconds.items():
            row: dict[str, Any] = {"model": name, "layers": case, "ms": 1000 * each}
            row["times as it is"] = each / seconds[AS_IT_IS]
            if case in peak:
                row |= {"peak MiB": peak[case], "of as it is": peak[case] / peak[AS_IT_IS]}
            rows.append(row)
        bars.append(Bar(f"{name}: peak memory of full", peak["full"] / peak[AS_IT_IS], 0.95, at_least=False))
    parameters = {name: sum(each.numel() for each in build().parameters()) for name, build in MODELS.items()}
    finish("layers", rows, bars, as_json, threads=torch.get_num_threads(), torch=torch.__version__, **parameters)


if __name__ == "__main__":
    main()
