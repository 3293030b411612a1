"""What each way of sharing saves and costs at equal training, beside what is claimed of it.

A small decoder of eight dense layers is trained on the quickstart's text, once for each way of sharing and seed: on the
same data, in the same order, for as many tokens. `encoder-decoder` is a small T5 of transformers, which reads the first
half of each window and writes the second. `saved` is the share of the parameters that a model without the strategy has;
`of layers` that of the layers alone, which claims count. `cost` is how many percent more bits per byte (nats a token of
T5) held-out text takes than without the strategy, the mean of the differences within a seed, with the half width of
Student's 95 % interval.

A claim holds where the upper end of the interval is within it, and fails where the lower end is beyond it; in between
it is not decided. "Costs nothing" is held to a fifth of a percent. Three seeds of 750,000 tokens take about 4,500
seconds on two cores of 2 GHz (estimated from a short run).
"""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch
from balance import WINDOWS, heldout_windows
from measure import finish, json_option, runs_option
from quickstart import trained_run
from torch import Tensor
from transformers import T5Config, T5ForConditionalGeneration

from penstock.eval_suite.metrics import bits_per_byte
from penstock.evaluate.paired import paired
from penstock.sharing.apply import share_module
from penstock.sharing.encoder_decoder import EncoderDecoder
from penstock.train.restore import RestoredRun

LAYERS = 8
MODEL = (
    f"model.num_hidden_layers={LAYERS}",
    f"model.first_k_dense_replace={LAYERS}",
    "model.balance=[]",
)
NOTHING = 0.2  # percent


@dataclass(frozen=True, slots=True)
class Case:
    """A way of sharing, the one that it is compared with, and the claim: percent lost at most, and percent saved."""

    sharing: str
    beside: str = ""
    lost: float | None = None
    saved: float | None = None


TIED = "tied-embeddings"
CASES: dict[str, Case] = {
    "nothing": Case(""),
    TIED: Case(TIED, "nothing", lost=NOTHING),
    "attention": Case(f"{TIED}, attention", TIED, lost=2),
    "feed-forward": Case(f"{TIED}, feed-forward", TIED, lost=2),
    "cross-layer, 2 to 1": Case(f"{TIED}, {{use: cross-layer, interval: 2}}", TIED, lost=3, saved=50),
    "cross-layer, 4 to 1": Case(f"{TIED}, {{use: cross-layer, interval: 4}}", TIED, lost=3, saved=75),
    "cross-layer, 8 to 1": Case(f"{TIED}, cross-layer", TIED, lost=10, saved=85),
    "learned, 2 to 1": Case(f"{TIED}, {{use: learned-sharing, budget: 4}}", TIED),
}
T5, T5_SHARED = "T5", "encoder-decoder"
T5_CLAIM = Case("", T5, lost=3)


def trained(name: str, seed: int, overrides: tuple[str, ...], runs: Path) -> RestoredRun:
    """A finished run, which is trained unless `runs` has it."""
    folder, data = runs / f"{name.replace(',', '').replace(' ', '-')}-{seed}", runs / "data"
    data.mkdir(parents=True, exist_ok=True)
    folder.mkdir(exist_ok=True)
    if not (folder / "data").exists():
        (folder / "data").symlink_to(data.resolve())  # prepared once for all
    return trained_run(folder, f"seed={seed}", *MODEL, f"model.sharing=[{CASES[name].sharing}]", *overrides)


@torch.inference_mode()
def measured(restored: RestoredRun, tokens: int) -> dict[str, Any]:
    window_WS = heldout_windows(restored, tokens)
    losses = [
        restored.model.next_token_loss(part[:, :-1], part[:, 1:]).loss.item() for part in window_WS.split(WINDOWS)
    ]
    text_bytes = int(restored.dataset.tokenizer().byte_lengths()[window_WS[:, 1:]].sum())
    module = restored.composition.module
    return {
        "loss": bits_per_byte(losses, text_bytes),
        "parameters": numbers(module.parameters()),
        "of layers": numbers(module.get_submodule("layers").parameters()),
    }


def numbers(parameters: Iterator[torch.nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def t5(vocabulary: int, seed: int, *, shared: bool) -> T5ForConditionalGeneration:
    """Four layers in encoder and decoder."""
    torch.manual_seed(seed)
    sizes: dict[str, Any] = {"d_model": 128, "d_kv": 32, "d_ff": 384, "num_layers": 4, "num_heads": 4}
    begins: dict[str, Any] = {"decoder_start_token_id": 0, "pad_token_id": 0}
    config = T5Config(vocab_size=vocabulary, dropout_rate=0.0, **begins, **sizes)
    model = T5ForConditionalGeneration(config)
    if shared:
        share_module(model, [EncoderDecoder()])
    return model


def written(restored: RestoredRun, seed: int, tokens: int, measure: int, *, shared: bool, runs: Path) -> dict[str, Any]:
    """A T5 that is trained on the windows of the run's data; `runs` keeps what was measured of it."""
    path = runs / f"t5-{'shared' if shared else 'apart'}-{seed}-{tokens}.json"
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))
    model = t5(restored.dataset.manifest.vocabulary_size, seed, shared=shared)
    length, split = restored.config.data.sequence_length, restored.dataset.split("train")
    batch = restored.config.train.batch_size
    steps = max(1, tokens // (batch * length))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, steps)
    order_N = torch.randperm((len(split) - 1) // length, generator=torch.Generator().manual_seed(seed))
    for step in range(steps):
        chosen_B = order_N[(torch.arange(batch) + step * batch) % len(order_N)]
        windows = [torch.from_numpy(split.slice(int(at) * length, (int(at) + 1) * length)).long() for at in chosen_B]
        second_half(model, torch.stack(windows)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    with torch.inference_mode():
        parts = heldout_windows(restored, measure)[:, :length].split(WINDOWS)
        loss = statistics.mean(float(second_half(model, part)) for part in parts)
    stacks = [model.encoder.block, model.decoder.block]
    layers = {id(each): each.numel() for stack in stacks for each in stack.parameters()}
    result = {"loss": loss, "parameters": numbers(model.parameters()), "of layers": sum(layers.values())}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result), encoding="utf-8")
    return result


def second_half(model: T5ForConditionalGeneration, window_BS: Tensor) -> Tensor:
    """Mean nats of the tokens of the second half."""
    first_BS, second_BS = window_BS.chunk(2, dim=1)
    output: Any = model(input_ids=first_BS, labels=second_BS.contiguous())
    return output.loss


def compared(rows: list[dict[str, Any]], name: str, case: Case) -> dict[str, Any]:
    """A way of sharing over all seeds, beside the model without it."""
    ours, base = ({row["seed"]: row for row in rows if row["strategy"] == each} for each in (name, case.beside))
    percents = [(100 * ours[seed]["loss"] / base[seed]["loss"], 100.0) for seed in ours]
    difference = paired(percents)
    half = None if difference is None else difference.half_width
    cost = statistics.mean(mine - one for mine, one in percents)
    saved = {key: 100 * (1 - ours[0][key] / base[0][key]) for key in ("parameters", "of layers")}
    return {
        "seed": "all",
        "strategy": name,
        "loss": statistics.mean(row["loss"] for row in ours.values()),
        "saved %": saved["parameters"],
        "saved of layers %": saved["of layers"],
        "cost %": cost,
        "+-": "" if half is None else half,
        "claimed": claimed(case),
        "verdict": verdict(case, cost, half, saved["of layers"]),
    }


def claimed(case: Case) -> str:
    if case.lost is None:
        return ""
    saved = "" if case.saved is None else f"{case.saved:g} % saved, "
    return saved + ("costs nothing" if case.lost == NOTHING else f"at most {case.lost:g} % lost")


def verdict(case: Case, cost: float, half: float | None, saved: float) -> str:
    if case.lost is None:
        return "no claim"
    if half is None:
        return "not decided: too few seeds for an interval"
    if case.saved is not None and round(saved) < case.saved:
        return f"fails: saves {saved:.0f} %"
    if cost + half <= case.lost:
        return "holds"
    return "fails" if cost - half > case.lost else "not decided: more seeds would"


@click.command(help=__doc__)
@click.option("--tokens", default=None, type=int, help="Tokens to train on; the quickstart's where it is not given.")
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(min=1), help="Seeds a strategy.")
@click.option("--measure", default=200_000, show_default=True, type=int, help="Tokens of held-out text to measure on.")
@runs_option
@click.option("--set", "overrides", multiple=True, help="An override of the config, for all strategies.")
@json_option
def main(
    tokens: int | None, seeds: int, measure: int, runs: Path | None, overrides: tuple[str, ...], as_json: bool
) -> None:
    given = overrides if tokens is None else (f"train.tokens={tokens}", *overrides)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = runs or Path(temporary)
        for seed in range(seeds):
            restored = {name: trained(name, seed, given, folder) for name in CASES}
            rows += [{"seed": seed, "strategy": name, **measured(each, measure)} for name, each in restored.items()]
            base = restored[TIED]
            for name in (T5, T5_SHARED):
                shared = name == T5_SHARED
                result = written(base, seed, base.config.train.tokens, measure, shared=shared, runs=folder)
                rows.append({"seed": seed, "strategy": name, **result})
    against = {name: case for name, case in CASES.items() if case.beside} | {T5_SHARED: T5_CLAIM}
    rows += [compared(rows, name, case) for name, case in against.items()]
    finish("sharing_claims", rows, [], as_json, tokens=tokens or "quickstart", threads=torch.get_num_threads())


if __name__ == "__main__":
    main()
