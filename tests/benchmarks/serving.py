"""`penstock serve` beside `transformers serve`, vLLM and a step written by hand, on one machine with equal threads.

Two loads, both with the lengths of `serving_trace.jsonl` and prompts that no program has seen: a number of streams that
always have a request, which says how many tokens a second a program makes, and the trace as it arrives, which says how
long first tokens take; they are timed from the scheduled arrival, whenever the request could be sent. Answers are
streamed and greedy, and every program has to make exactly as many tokens as it is asked for.

Rounds are interleaved: every program is measured in turn, and the others are stopped (SIGSTOP) meanwhile. Before
anything is timed, all programs have to continue texts alike (`serving_parity.py`). `transformers serve` is measured
twice, with continuous batching and as it starts by default, one text after the other. vLLM needs an environment of its
own: `--vllm PYTHON` names its Python. The hand-written step has no requests, no prompts and no sampling.

With `--store`, the figures in `docs/serving.md` are written from the result.
"""

from __future__ import annotations

import asyncio
import json
import math
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from statistics import fmean, median
from typing import Any

import click
from measure import RESULTS, Bar, finish, json_option, rounds, runs_option
from serving_load import Figures, figures, replayed
from serving_parity import bar as parity_bar
from serving_parity import rows_of as parity_rows
from serving_programs import (
    BATCHING,
    HAND_WRITTEN,
    MODELS,
    OURS,
    SERIAL,
    TINY,
    VLLM,
    Model,
    Server,
    Steps,
    hand_written,
    model_of,
    served,
)
from serving_trace import arriving, saturating

from penstock.evaluate.paired import half_width

STREAMS = (1, 8, 32)
ARRIVING = "trace"
"""In place of a number of streams: the trace as it arrives."""
FACTORS = {BATCHING: 4.0, SERIAL: 20.0}
BARRED = 8
"""Streams at which these factors are asked of us; the serial server is measured with no other number."""
OF_HAND_WRITTEN, FIRST_ANSWER = 0.6, 5.0
PAGE = Path(__file__).parents[2] / "docs" / "serving.md"
BEGIN, END = "<!-- figures: written by tests/benchmarks/serving.py -->\n", "<!-- end of figures -->"
Row = dict[str, Any]
Load = int | str


@dataclass
class Measured:
    """What rounds found of one program under one load."""

    rates: list[float] = field(default_factory=list[float])
    first: list[float] = field(default_factory=list[float])
    later: list[float] = field(default_factory=list[float])

    def add(self, found: Figures) -> None:
        self.rates.append(found.rate)
        self.first += found.first
        self.later += found.later

    def row(self, model: str, program: str, load: Load) -> Row:
        row: Row = {"model": model, "program": program, "streams": load, "tokens/s": median(self.rates)}
        if self.first:
            row |= {"first ms": 1000 * median(self.first), "first ms, p99": 1000 * _largest(self.first, 0.99)}
            row |= {"later ms": 1000 * median(self.later)}
        return row


def _largest(values: Sequence[float], share: float) -> float:
    """
    >>> _largest([3.0, 1.0, 2.0], 0.99), _largest([3.0, 1.0, 2.0], 0.5)
    (3.0, 2.0)
    """
    return sorted(values)[math.ceil(share * len(values)) - 1]


Found = Mapping[tuple[str, Load], Measured]


def measured(server: Server, model: Model, load: Load, seconds: float, salt: str) -> Figures:
    """One load once. Salts keep prompts apart that a cache would know."""
    begun = time.perf_counter()
    if load == ARRIVING:
        requests, streams, counted = arriving(model.words, salt), max(STREAMS), None
    else:
        requests = saturating(model.words, salt, seconds=seconds, begun=begun)
        streams, counted = int(load), seconds
    with server.awake():
        told = asyncio.run(replayed(server.send, requests, streams, begun))
    try:
        return figures(told, begun, counted)
    except ValueError as error:
        raise click.ClickException(f"{server.name}: {error}") from error


def interleaved(
    servers: Sequence[Server], steps: Steps, model: Model, *, seconds: float, rounds: int
) -> dict[tuple[str, Load], Measured]:
    """Every program under every load, in turn, once all have warmed up."""
    found: dict[tuple[str, Load], Measured] = {}
    for server in servers:
        measured(server, model, BARRED, seconds, "warm")
    for number in range(rounds):
        for load in (*STREAMS, ARRIVING):
            for server in servers:
                if server.name != SERIAL or load in (BARRED, ARRIVING):
                    one = measured(server, model, load, seconds, f"{number}/{load}")
                    found.setdefault((server.name, load), Measured()).add(one)
            if isinstance(load, int):
                found.setdefault((HAND_WRITTEN, load), Measured()).rates.append(steps.rate(load, seconds))
    return found


def bars_of(model: str, found: Found, start: float) -> Iterator[Bar]:
    for peer, factor in FACTORS.items():
        if (peer, BARRED) in found:
            ratio = median(found[OURS, BARRED].rates) / median(found[peer, BARRED].rates)
            yield Bar(f"{model}: tokens/s against {peer}, {BARRED} streams", ratio, factor)
    for load in STREAMS:
        ours = found[OURS, load].rates
        ratio = median(ours) / median(found[HAND_WRITTEN, load].rates)
        yield Bar(f"{model}: tokens/s against a {HAND_WRITTEN}, {load} streams", ratio, OF_HAND_WRITTEN)
        if (VLLM, load) in found and (upper := _upper(ours, found[VLLM, load].rates)) is not None:
            yield Bar(f"{model}: tokens/s against vLLM, {load} streams, upper end of the interval", upper, 1.0)
    yield Bar(f"{model}: seconds from the command to the first answer", start, FIRST_ANSWER, at_least=False)


def _upper(ours: Sequence[float], theirs: Sequence[float]) -> float | None:
    """Of the interval (95 %) of the ratio of two rates, over rounds; None where they are too few.

    >>> _upper([1.0, 1.0], [2.0, 2.0]), _upper([1.0, 1.0, 1.0], [2.0, 2.0, 2.0])
    (None, 0.5)
    """
    ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
    half = half_width(ratios)
    return None if half is None else fmean(ratios) + half


def figures_of(result: Mapping[str, Any]) -> str:
    """What `docs/serving.md` tells of a result: tokens a second by streams, and first tokens of the trace."""
    rows: list[Row] = result["rows"]
    columns = ["model", "program", *(f"{load} streams" for load in STREAMS), "first token", "the slowest of 100"]
    lines = [columns, ["---", "---", *(["--:"] * (len(columns) - 2))]]
    for model, program in dict.fromkeys((row["model"], row["program"]) for row in rows):
        by_load = {row["streams"]: row for row in rows if (row["model"], row["program"]) == (model, program)}
        rates = [f"{by_load[load]['tokens/s']:,.0f}" if load in by_load else "-" for load in STREAMS]
        first = by_load.get(ARRIVING, {})
        times = [f"{first[name]:.0f} ms" if name in first else "-" for name in ("first ms", "first ms, p99")]
        lines.append([model, program, *rates, *times])
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    starts = ", ".join(f"{each[OURS]:.1f} s ({model})" for model, each in result["first_answer_seconds"].items())
    return (
        f"Tokens a second with 1, 8 and 32 streams that always have a request, and the time from a scheduled arrival "
        f"to its first token when requests come as in the trace. {result['threads']} thread each, weights in fp32, "
        f"{result['machine']}, {result['date']}, commit {result['commit']}.\n\n{table}\n\n"
        f"From the command to the first answer: {starts}.\n"
    )


def page_of(result: Mapping[str, Any], page: str) -> str:
    """`docs/serving.md` with the figures of a result between their marks."""
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n{figures_of(result)}\n{END}{rest.partition(END)[2]}"


def started(
    stack: ExitStack, model: Model, folder: Path, threads: int, peers: bool, vllm: str | None, absent: dict[str, str]
) -> list[Server]:
    """The programs; `absent` gets those that do not start, with the reason."""
    found: list[Server] = []
    for name in (OURS, *((BATCHING, SERIAL) if peers else ()), *((VLLM,) if vllm else ())):
        try:
            found.append(stack.enter_context(served(name, model, folder, threads=threads, vllm=vllm)))
        except RuntimeError as error:
            if name == OURS:
                raise
            absent[name] = str(error)
            click.echo(str(error), err=True)
    return found


@click.command(help=__doc__)
@click.option("--model", "names", multiple=True, type=click.Choice([*MODELS, TINY]), help="Default: all but tiny.")
@click.option("--threads", default=1, show_default=True, type=click.IntRange(min=1), help="Of each program's model.")
@click.option("--seconds", default=5.0, show_default=True, type=click.FloatRange(min=0, min_open=True), help="A load.")
@click.option("--peers/--no-peers", default=True, show_default=True, help="Measure `transformers serve` too.")
@click.option("--vllm", metavar="PYTHON", help="A Python that has vLLM.")
@rounds(5)
@runs_option
@json_option
def main(
    names: tuple[str, ...],
    threads: int,
    seconds: float,
    peers: bool,
    vllm: str | None,
    rounds: int,
    runs: Path | None,
    as_json: bool,
) -> None:
    rows: list[Row] = []
    bars: list[Bar] = []
    starts: dict[str, dict[str, float]] = {}
    absent: dict[str, str] = {}
    parity: list[Row] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name in names or MODELS:
            model = model_of(name, runs or folder)
            with ExitStack() as stack:
                servers = started(stack, model, folder, threads, peers, vllm, absent)
                starts[name] = {each.name: each.start_seconds for each in servers}
                if not parity:
                    parity = parity_rows(model, servers)
                    bars.append(parity_bar(parity))
                steps = stack.enter_context(hand_written(model, threads))
                found = interleaved(servers, steps, model, seconds=seconds, rounds=rounds)
            rows += [each.row(name, program, load) for (program, load), each in found.items()]
            bars += bars_of(name, found, starts[name][OURS])
    facts = {"threads": threads, "seconds": seconds, "rounds": rounds, "first_answer_seconds": starts}
    facts |= {"parity": parity, "absent": absent, "transformers": version("transformers"), "torch": version("torch")}
    try:
        finish("serving", rows, bars, as_json, **facts)
    finally:
        if (kept := RESULTS / "serving.json").exists():
            page = PAGE.read_text(encoding="utf-8")
            if (renewed := page_of(json.loads(kept.read_text(encoding="utf-8")), page)) != page:
                PAGE.write_text(renewed, encoding="utf-8")


if __name__ == "__main__":
    main()
