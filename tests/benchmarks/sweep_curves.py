"""The runs that `sweep.py` replays: 48 small models, each trained alone with three seeds, and measured on the way.

A cell is a vocabulary, a shape and a kind of feed-forward layer; all have 0.1 to 0.3 million parameters and their
embedding tied. Each seed of a cell is trained once on all tokens, and once on each of a few shares of them with a whole
learning-rate schedule of its own, as the short phase of a sweep trains. The curves keep the bits of each held-out
document, so that a rule can be replayed that reads them.
"""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import click

STORED = Path(__file__).parent / "results" / "sweep_curves.csv.gz"
CONFIG = Path(__file__).parents[2] / "configs" / "quickstart.yaml"
TOKENS = 400_000
BATCH, LENGTH = 8, 128
SHORT = (0.02, 0.04, 0.08, 0.16)
"""Shares of the tokens that have runs of their own, which are measured at their end."""
RUNGS = (*SHORT, 0.32, 0.64, 1.0)
"""Where runs on all tokens are measured."""
SEEDS = (0, 1, 2)
HELDOUT_BYTES = 40_000

VOCABULARIES = (512, 1024, 1536)
SHAPES = {"48x5": (48, 5), "48x4": (48, 4), "64x2": (64, 2), "80x1": (80, 1)}  # width, layers
HEAD = 16
KINDS = {  # of a width: expansion of a dense layer, or experts, how many a token takes, and their expansion
    "dense 2": "first_k_dense_replace: {layers}, intermediate_size: {wide}",
    "dense 4": "first_k_dense_replace: {layers}, intermediate_size: {wider}",
    "1 of 4": "n_routed_experts: 4, moe_intermediate_size: {width}, "
    "router: {{use: sigmoid-topk, k: 1, normalize: false}}",
    "2 of 8": "n_routed_experts: 8, moe_intermediate_size: {half}, router: {{use: sigmoid-topk, k: 2}}",
}


@dataclass(frozen=True, slots=True)
class Model:
    """One configuration."""

    vocabulary: int
    shape: str
    kind: str

    @property
    def name(self) -> str:
        return f"{self.vocabulary}, {self.shape}, {self.kind}"

    def overrides(self) -> list[str]:
        """What makes the quickstart's config this cell's."""
        width, layers = SHAPES[self.shape]
        feed_forward = KINDS[self.kind].format(
            width=width, layers=layers, half=width // 2, wide=2 * width, wider=4 * width
        )
        routed = "n_routed_experts" in feed_forward
        heads = f"num_attention_heads: {width // HEAD}, num_key_value_heads: {width // HEAD}, head_dim: {HEAD}"
        sizes = f"hidden_size: {width}, num_hidden_layers: {layers}, {heads}, max_position_embeddings: {LENGTH}"
        if routed:
            sizes += (
                f", intermediate_size: {2 * width}, first_k_dense_replace: 0, balance: [{{use: loss-free, rate: 0.01}}]"
            )
        return [
            f"model={{use: glm-moe, {sizes}, {feed_forward}, sharing: [{{use: tied-embeddings}}]}}",
            f"data.tokenizer.vocab_size={self.vocabulary}",
        ]


def models() -> list[Model]:
    return [Model(*each) for each in itertools.product(VOCABULARIES, SHAPES, KINDS)]


@dataclass(frozen=True, slots=True)
class Point:
    """A cell with one seed after `tokens` tokens of a run of `planned` tokens. `perplexity` is that of a token;
    `document_bits` are [P]."""

    cell: str
    seed: int
    parameters: int
    active_parameters: int
    planned: int
    tokens: int
    seconds: float
    bits_per_byte: float
    perplexity: float
    document_bits: Sequence[int]


def steps_of(share: float) -> int:
    return round(share * TOKENS / (BATCH * LENGTH))


def common_overrides(data: Path) -> list[str]:
    """The settings of all cells. The warm-up is equal in tokens, so that short runs begin as long ones do."""
    files = f"paths: ['{data}/tinystories'], separator: '<|endoftext|>'"
    return [
        f"data.corpus={{use: text, {files}}}",
        f"data.sequence_length={LENGTH}",
        f"train.batch_size={BATCH}",
        "train.optimizer={use: muon, lr: 0.01, adamw_lr: 0.02, steps: 4, role_lr: {router: 0.003}}",
        "train.schedule={use: wsd, decay: 0.4, warmup_tokens: 2048}",
        "train.evaluate_every=null",
        "train.checkpoint_every=100000",
    ]


@dataclass(frozen=True, slots=True)
class Work:
    """All runs of one cell with one seed."""

    model: Model
    seed: int
    data: Path
    folder: Path

    @property
    def result(self) -> Path:
        return self.folder / "points" / f"{self.model.name.replace(', ', '-').replace(' ', '')}-seed{self.seed}.json"

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    def config(self, steps: int) -> tuple[Any, Any, list[str], Any]:
        from penstock.hooks import Registry
        from penstock.run.config import load_run_config

        planned = f"train.tokens={steps * BATCH * LENGTH}"
        overrides = [*common_overrides(self.data), *self.model.overrides(), planned, f"seed={self.seed}"]
        overrides.append(f"name={self.result.stem}")
        registry = Registry.discover()
        return *load_run_config(CONFIG, overrides, registry), overrides, registry


def trained(work: Work) -> float:
    """Trains and measures, unless it is done; returns the seconds it took."""
    begun = time.perf_counter()
    if not work.result.exists():
        points = [point for share in (*SHORT, 1.0) for point in run_points(work, share)]
        work.result.parent.mkdir(parents=True, exist_ok=True)
        written = work.result.with_suffix(".part")
        written.write_text(json.dumps([asdict(point) for point in points]), encoding="utf-8")
        written.replace(work.result)
        shutil.rmtree(work.runs / work.result.stem, ignore_errors=True)
    return time.perf_counter() - begun


def run_points(work: Work, share: float) -> Iterator[Point]:
    """One run, measured at its end, and on its way there if it trains on all tokens."""
    from penstock.eval_suite.likelihood import token_nll
    from penstock.eval_suite.metrics import token_perplexity
    from penstock.evaluate.evaluation import heldout_tokens
    from penstock.sweep.heldout import pieces_of
    from penstock.train.compose import active_parameters, parameter_summary
    from penstock.train.restore import restore_run
    from penstock.train.training import train_alone

    steps = steps_of(share)
    config, document, overrides, registry = work.config(steps)
    resume: str | None = None
    for rung in RUNGS if share == 1.0 else (share,):
        until = None if rung == share else steps_of(rung)
        run = train_alone(config, document, work.runs, registry, overrides=overrides, resume=resume, until=until)
        resume = run.run_dir
        restored = restore_run(Path(run.run_dir), registry)
        pieces = pieces_of(heldout_tokens(restored.dataset), restored.tokenizer, HELDOUT_BYTES)
        nll_N = token_nll(restored.model, pieces.token_N, sequence_length=LENGTH)
        bits_P, seconds = pieces.bits(nll_N), restored.run.status().seconds
        yield Point(
            cell=work.model.name,
            seed=work.seed,
            parameters=parameter_summary(restored.composition).total,
            active_parameters=active_parameters(restored.composition),
            planned=steps * BATCH * LENGTH,
            tokens=steps_of(rung) * BATCH * LENGTH,
            seconds=round(seconds or 0.0, 2),
            bits_per_byte=round(float(bits_P.sum() / pieces.byte_P.sum()), 6),
            perplexity=round(token_perplexity(nll_N), 4),
            document_bits=[round(bits) for bits in bits_P],
        )


def train(folder: Path, data: Path, workers: int, cells: int | None) -> None:
    """All runs that are not there yet, in processes of one thread, and then the file of curves."""
    from penstock.train.training import prepare_run

    os.environ["OMP_NUM_THREADS"] = "1"  # read by the workers
    chosen = models() if cells is None else models()[:: max(1, len(models()) // cells)][:cells]
    works = [Work(model, seed, data, folder) for seed in SEEDS for model in chosen]
    for vocabulary in VOCABULARIES:  # before two workers would do it at once
        prepare_run(next(work for work in works if work.model.vocabulary == vocabulary).config(8)[0], folder / "runs")
    left = [work for work in works if not work.result.exists()]
    tokens = sum(steps_of(share) for share in (*SHORT, 1.0)) * BATCH * LENGTH
    click.echo(f"{len(works) - len(left)} of {len(works)} are there; {tokens:,} tokens each", err=True)
    begun = time.perf_counter()
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        asked = {pool.submit(trained, work): work for work in left}
        for done, future in enumerate(as_completed(asked), 1):
            spent = time.perf_counter() - begun
            speed, ahead = done * tokens / spent, (len(left) - done) * spent / done / 60
            rate = tokens / future.result()
            said = f"{rate:,.0f} tokens/s here, {speed:,.0f} in all, about {ahead:.0f} minutes left"
            click.echo(f"{done} of {len(left)}: {asked[future].result.stem}: {said}", err=True)
    if cells is None:
        write_curves(STORED, [point for work in works for point in read_points(work.result)], document_bytes(works[0]))
        click.echo(f"curves: {STORED}", err=True)


def read_points(path: Path) -> list[Point]:
    return [Point(**each) for each in json.loads(path.read_text(encoding="utf-8"))]


FIELDS = [field for field in Point.__dataclass_fields__ if field != "document_bits"]
BYTES = "bytes of document "


def document_bytes(work: Work) -> list[int]:
    """Bytes of each held-out document, the same for every tokenizer."""
    from penstock.data_prep.dataset import TokenDataset
    from penstock.data_prep.tokenizer import BpeTokenizer
    from penstock.evaluate.evaluation import heldout_tokens
    from penstock.sweep.heldout import pieces_of
    from penstock.train.data import prepare_data

    folder = prepare_data(work.folder / "runs", work.config(8)[0], None).folder
    tokens = heldout_tokens(TokenDataset.open(folder, verify=False))
    return pieces_of(tokens, BpeTokenizer.load(folder), HELDOUT_BYTES).byte_P.tolist()


def write_curves(path: Path, points: Sequence[Point], byte_P: Sequence[int]) -> None:
    """A line a point, and a column for the bits of each held-out document, whose head says how many bytes it has."""
    with gzip.GzipFile(path, mode="wb", mtime=0) as packed, io.TextIOWrapper(packed, "utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow([*FIELDS, *(f"{BYTES}{number}: {size}" for number, size in enumerate(byte_P))])
        table.writerows([*(getattr(point, name) for name in FIELDS), *point.document_bits] for point in points)


def read_curves(path: Path = STORED) -> tuple[list[Point], list[int]]:
    """The points, and the bytes of each held-out document."""
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        rows = csv.reader(file)
        head = next(rows)
        return [_point(row) for row in rows], [int(name.partition(": ")[2]) for name in head[len(FIELDS) :]]


def _point(row: Sequence[str]) -> Point:
    types = {"cell": str, "seconds": float, "bits_per_byte": float, "perplexity": float}
    known = {name: types.get(name, int)(value) for name, value in zip(FIELDS, row, strict=False)}
    return Point(**known, document_bits=[int(value) for value in row[len(FIELDS) :]])
