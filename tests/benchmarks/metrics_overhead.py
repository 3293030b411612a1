"""What measuring takes of the tokens a second that `penstock serve` makes.

Two servers of one model have the same load in turn: one as it is, whose `/metrics` is read every second, and one whose
processes measure nothing, neither times and tokens of texts nor the experts that tokens choose. The second is the same
program, with these methods emptied by a `sitecustomize`; before anything is timed, its metrics have to show nothing.
Rounds are interleaved, with the other server stopped.

A second bar is the time to write the metrics of a model of 61 layers with 256 experts, because the server answers
nothing meanwhile.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np
from measure import Bar, finish, interleaved, json_option, rounds, runs_option
from serving import measured
from serving_programs import MODELS, OURS, TINY, Model, Server, get, model_of, served

from penstock.server.engine.client import EngineClient
from penstock.server.engine.process import EngineOptions
from penstock.server.metrics import WINDOW, ServerMetrics

MOST_OVERHEAD, MOST_MILLISECONDS = 0.02, 20.0
SCRAPED_EVERY = 1.0
LAYERS, EXPERTS = 61, 256  # of DeepSeek-V3
UNMEASURED = """
import sys

if "penstock.server.engine.process" in sys.orig_argv:
    from penstock.moe_core.layers.slot_loads import ExpertLoads

    ExpertLoads.add = lambda self, layer, experts: None
elif "serve" in sys.orig_argv:
    from penstock.server.metrics import TextMetrics

    TextMetrics.__init__ = TextMetrics.token = TextMetrics.ended = lambda self, *ignored: None
"""


@contextmanager
def unmeasured(model: Model, folder: Path, threads: int) -> Iterator[Server]:
    """A server that measures nothing."""
    (folder / "sitecustomize.py").write_text(UNMEASURED)
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(folder), *([before] if before else [])])
    try:
        with served(OURS, model, folder, threads=threads) as server:
            yield server
    finally:
        os.environ.pop("PYTHONPATH")
        os.environ.update({"PYTHONPATH": before} if before else {})


def require_shown(server: Server, *, shown: bool) -> None:
    """Raises where a server measures, and should not, or the other way round."""
    with server.awake():
        _, text = get(server.address, "/metrics")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    tokens = sum(float(line.split()[-1]) for line in lines if line.startswith("penstock_generation_tokens_total"))
    loads = any(line.startswith("penstock_expert_load_gini") for line in lines)
    if (tokens > 0, loads) != (shown, shown):
        raise click.ClickException(
            f"{server.log.name}: {tokens:g} tokens and {'some' if loads else 'no'} load measured"
        )


@contextmanager
def scraped(server: Server) -> Iterator[None]:
    """Reads the metrics now and then, as Prometheus does."""
    ended = threading.Event()

    def read() -> None:
        while not ended.wait(SCRAPED_EVERY):
            get(server.address, "/metrics")

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        with server.awake():  # it may be asked still
            thread.join()


def rates(
    measuring: Server, silent: Server, model: Model, *, streams: int, seconds: float, rounds: int
) -> dict[str, list[float]]:
    """Tokens a second in each round, in the order of the servers by turns: the second may find the machine warmer."""
    found: dict[str, list[float]] = {"measuring": [], "silent": []}
    for server in (measuring, silent):
        measured(server, model, streams, max(seconds, 2.5), "warm")
    require_shown(measuring, shown=True)
    require_shown(silent, shown=False)
    for number in range(rounds):
        cases = [("measuring", measuring), ("silent", silent)]
        for name, server in cases if number % 2 else reversed(cases):
            if name == "measuring":
                with scraped(server):
                    figures = measured(server, model, streams, seconds, f"{number}")
            else:
                figures = measured(server, model, streams, seconds, f"{number}")
            found[name].append(figures.rate)
    return found


def written_in(rounds: int) -> float:
    """Milliseconds to write the metrics of a large model."""
    metrics = ServerMetrics(EngineClient(EngineOptions("none", 32, 512, 512, 1, {})), "large")
    draws = np.random.default_rng(0)
    for _ in range(int(WINDOW)):  # the engine tells once a second
        metrics.loads.add({layer: draws.integers(0, 100, EXPERTS).tolist() for layer in range(LAYERS)})
    return 1e3 * interleaved({"text": metrics.text}, rounds=rounds)["text"]


@click.command(help=__doc__)
@click.option("--model", "name", default="1.7M", show_default=True, type=click.Choice([*MODELS, TINY]))
@click.option("--streams", default=8, show_default=True, type=click.IntRange(min=1), help="Texts at once.")
@click.option("--threads", default=1, show_default=True, type=click.IntRange(min=1), help="Of the model.")
@click.option("--seconds", default=4.0, show_default=True, type=click.FloatRange(min=0, min_open=True), help="A load.")
@rounds(15)
@runs_option
@json_option
def main(name: str, streams: int, threads: int, seconds: float, rounds: int, runs: Path | None, as_json: bool) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model = model_of(name, runs or folder)
        with served(OURS, model, folder, threads=threads) as measuring, unmeasured(model, folder, threads) as silent:
            found = rates(measuring, silent, model, streams=streams, seconds=seconds, rounds=rounds)
    rows: list[dict[str, Any]] = [
        {"model": name, "streams": streams, "server": each, "tokens/s": median(found[each])} for each in found
    ]
    overhead = 1 - median(found["measuring"]) / median(found["silent"])
    bars = [
        Bar(f"{name}: share of tokens/s that measuring takes", overhead, MOST_OVERHEAD, at_least=False),
        Bar(f"ms to write the metrics of {LAYERS} layers", written_in(rounds), MOST_MILLISECONDS, at_least=False),
    ]
    finish("metrics_overhead", rows, bars, as_json, threads=threads, seconds=seconds, rounds=rounds)


if __name__ == "__main__":
    main()
