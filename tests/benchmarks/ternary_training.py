"""The quickstart trained in full precision and in low-bit formats: what each costs in quality and takes on disk.

Every seed trains one model a format, on the same data, from the same weights, in the same order, for as many tokens.
Bits per byte are of held-out text, and compared within a seed: `cost` is the mean of the paired differences to full
precision, with the half width of Student's 95 % interval. Bytes are those of files that hold what a run has: packed
codes and fp16 scales of quantized weights, and fp32 of all others. `bits a weight` are the file's bits of the ternary
weights alone, `difference` the largest between an unpacked weight and the one that the forward pass computes with.

`decoder gap` is what the decoder's bits per byte of the run's artifact differ by from those of the forward pass of
training; it needs the compiled library.

A format is trained with all of the quickstart's settings, which were tuned for full precision. `step / full` is the
time of a training step over that of full precision.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from balance import WINDOWS, heldout_windows
from measure import Bar, finish, interleaved, json_option, rounds, runs_option
from quickstart import Quickstart, trained_run

from penstock.cli.main import run
from penstock.eval_suite.metrics import bits_per_byte
from penstock.evaluate.paired import paired
from penstock.hooks.contracts import LanguageModel
from penstock.hooks.contracts.weights import FULL_PRECISION
from penstock.moe_core.layers.site import NamedSite
from penstock.quant158 import native
from penstock.quant158.artifact import Artifact
from penstock.quant158.decoder import Decoder, decodable
from penstock.train.compose import stored_tensors
from penstock.train.restore import RestoredRun
from penstock.train.weights import sites_of

FULL = "full precision"
FORMATS: dict[str, str] = {
    FULL: "null",
    "ternary": "ternary",
    "ternary g128": "{use: ternary, group: 128}",
    "ternary learned": "ternary-learned",
    "ternary, embedding int8": "{weights: ternary, embedding: int8, head: int8}",
}


@dataclass(slots=True)
class Files:
    """What the files of a run hold."""

    total: int = 0
    ternary: int = 0
    ternary_weights: int = 0
    difference: float = 0.0


def trained(name: str, seed: int, overrides: tuple[str, ...], runs: Path) -> RestoredRun:
    """A finished run of the quickstart, which is trained unless `runs` has it."""
    folder = runs / f"{name.replace(',', '').replace(' ', '-')}-{seed}"
    return trained_run(folder, f"seed={seed}", f"model.quantizer={FORMATS[name]}", *overrides)


@torch.inference_mode()
def heldout_bits(restored: RestoredRun, tokens: int, model: LanguageModel | None = None) -> float:
    """Of a run's model, or of another, on the held-out text of the run."""
    window_WS, model = heldout_windows(restored, tokens), model or restored.model
    losses = [model.next_token_loss(part[:, :-1], part[:, 1:]).loss.item() for part in window_WS.split(WINDOWS)]
    return bits_per_byte(losses, int(restored.dataset.tokenizer().byte_lengths()[window_WS[:, 1:]].sum()))


def decoded_bits(restored: RestoredRun, tokens: int, folder: Path) -> float:
    """As `heldout_bits`, by the decoder on the artifact."""
    path = folder / "model.penstock"
    with redirect_stdout(sys.stderr):
        run(["export", str(restored.path), "--format", "penstock", "--out", str(path)])
    artifact = Artifact.open(path)
    decoder = Decoder(artifact, decodable(artifact, artifact.header.decoder, str(path)))
    window_WS = heldout_windows(restored, tokens).numpy()
    text, nll = decoder.text(window_WS.shape[1]), 0.0
    for window_S in window_WS:
        text.cut(0)
        logits = text.logits(window_S[:-1].tolist()).astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        chosen = logits[np.arange(len(logits)), window_S[1:]]
        nll += float((np.log(np.exp(logits).sum(axis=1)) - chosen).sum())
    return bits_per_byte([nll], int(restored.dataset.tokenizer().byte_lengths()[window_WS[:, 1:]].sum()))


def written(restored: RestoredRun, folder: Path) -> Files:
    """Writes each stored tensor to a file of its own."""
    composition, files = restored.composition, Files()
    sites = {name: site for name, site in sites_of(restored.model).items() if isinstance(site, NamedSite)}
    for number, entry in enumerate(stored_tensors(composition)):
        path = folder / str(number)
        matrix = entry.name.removeprefix(entry.parameter).removeprefix(":") or "whole"
        if entry.format == FULL_PRECISION:
            whole = composition.module.get_parameter(entry.parameter).detach()
            part = whole if matrix == "whole" else sites[entry.parameter].layout.matrices(whole)[matrix]
            path.write_bytes(part.numpy().tobytes())
            files.total += path.stat().st_size
            continue
        files.difference = max(files.difference, packed(sites[entry.parameter], matrix, restored, path))
        files.total += path.stat().st_size
        if entry.format.startswith("ternary"):
            files.ternary += path.stat().st_size
            files.ternary_weights += torch.Size(entry.shape).numel()
    return files


@torch.no_grad()
def packed(site: NamedSite, matrix: str, restored: RestoredRun, path: Path) -> float:
    """Writes one packed matrix; the largest difference between what is read of it and what training computes with."""
    quantizer: Any = restored.composition.storage.formats[site.role]
    weight = site.layout.matrices(site.weight)[matrix]
    arrays = quantizer.pack(weight, site.site.quantizers[matrix], name=site.name)
    path.write_bytes(b"".join(array.tobytes() for array in arrays.values()))
    used = site.layout.matrices(site.effective())[matrix]
    return float((torch.from_numpy(quantizer.unpack(arrays, tuple(weight.shape))) - used).abs().max())


def measured(restored: RestoredRun, tokens: int) -> dict[str, Any]:
    status = restored.run.status()
    heldout, gap = heldout_bits(restored, tokens), ""
    with tempfile.TemporaryDirectory() as folder:
        files = written(restored, Path(folder))
        if files.ternary_weights and native.built():
            gap = abs(decoded_bits(restored, tokens, Path(folder)) - heldout)
    bits = 8 * files.ternary / files.ternary_weights if files.ternary_weights else ""
    return {
        "heldout bits/byte": heldout,
        "decoder gap": gap,
        "bytes": files.total,
        "bits a weight": bits,
        "difference": files.difference,
        "trained tokens": status.tokens_seen,
        "tokens/s": round((status.tokens_seen or 0) / (status.seconds or 1)),
    }


def steps(rounds: int) -> list[dict[str, Any]]:
    """A training step in each format, as processor time beside that of full precision."""
    formats = {**FORMATS, "ternary, activations int8": "{use: ternary, activations: int8}"}
    cases = {name: Quickstart(f"model.quantizer={chosen}").step for name, chosen in formats.items()}
    seconds = interleaved(cases, rounds=rounds, clock=time.process_time)
    return [{"format": name, "step / full": value / seconds[FULL]} for name, value in seconds.items()]


def compared(rows: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """A format over all seeds, beside full precision."""
    of: dict[str, dict[int, dict[str, Any]]] = {
        each: {row["seed"]: row for row in rows if row["format"] == each} for each in (FULL, name)
    }
    bits = [(of[name][seed]["heldout bits/byte"], of[FULL][seed]["heldout bits/byte"]) for seed in of[FULL]]
    difference = paired(bits)
    return {
        "seed": "all",
        "format": name,
        "heldout bits/byte": statistics.mean(ours for ours, _ in bits),
        "bytes": of[name][0]["bytes"],
        "times smaller": of[FULL][0]["bytes"] / of[name][0]["bytes"],
        "cost": statistics.mean(ours - full for ours, full in bits),
        "+-": "" if difference is None or difference.half_width is None else difference.half_width,
    }


@click.command(help=__doc__)
@click.option("--tokens", default=None, type=int, help="Tokens to train on; the quickstart's where it is not given.")
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(min=1), help="Seeds a format.")
@click.option("--measure", default=200_000, show_default=True, type=int, help="Tokens of held-out text to measure on.")
@runs_option
@click.option("--set", "overrides", multiple=True, help="An override of the config, for all formats.")
@rounds(9)
@json_option
def main(
    tokens: int | None,
    seeds: int,
    measure: int,
    runs: Path | None,
    overrides: tuple[str, ...],
    rounds: int,
    as_json: bool,
) -> None:
    stepped = steps(rounds)
    given = overrides if tokens is None else (f"train.tokens={tokens}", *overrides)
    with tempfile.TemporaryDirectory() as folder:
        rows: list[dict[str, Any]] = [
            {"seed": seed, "format": name, **measured(trained(name, seed, given, runs or Path(folder)), measure)}
            for seed in range(seeds)
            for name in FORMATS
        ]
    bars = [
        Bar(
            "largest difference between a packed weight and the trained one",
            max(row["difference"] for row in rows),
            0.0,
            False,
        )
    ]
    if gaps := [row["decoder gap"] for row in rows if row["decoder gap"] != ""]:
        bars.append(Bar("largest gap of the decoder in bits per byte", max(gaps), 0.0005, False))
    bars += [
        Bar(
            f"bits a weight of {name}", next(row["bits a weight"] for row in rows if row["format"] == name), 1.73, False
        )
        for name in FORMATS
        if name != FULL
    ]
    bars += [
        Bar(f"step of {row['format']} / full precision", row["step / full"], 1.3, False)
        for row in stepped
        if row["format"] != FULL
    ]
    rows += [*(compared(rows, name) for name in FORMATS), *stepped]
    finish("ternary_training", rows, bars, as_json, tokens=tokens or "quickstart", threads=torch.get_num_threads())


if __name__ == "__main__":
    main()
