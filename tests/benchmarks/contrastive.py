"""What the filters `contrastive` and `resampling` are worth: how well they tell good text from ordinary text, and how
much better a small model learns good text from what they keep.

`library` is on every machine: docstrings of the standard library are good, other modules as they are written ordinary.
`web` needs `PENSTOCK_DATA`: paragraphs of SQuAD against a mixture of web pages, encyclopedias of several languages and
code. Both are cut into documents of about 1,000 characters. A file of good text teaches or measures, never both; of
ordinary text, documents are drawn one by one, as a sample of a crawl is.

The first rows are of held-out documents: the area under the ROC curve and the calibration error, with 95 % bootstrap
intervals over documents. `perplexity` scores a document by its bits per byte under a model that was trained on the good
examples; it and `resampling` are calibrated on the other half of the held-out documents, `contrastive` is as `penstock
data learn` writes it.

Then a model of 0.4 million parameters is trained on documents that were kept, and on random ones of as many bytes, for
as many tokens, from the same weights. `bits/byte` is of held-out good text, and `fewer` the mean of the differences to
random text within a seed, with the half width of Student's 95 % interval.
"""

from __future__ import annotations

import ast
import json
import lzma
import random
import statistics
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from measure import finish, json_option, runs_option
from quickstart import trained_run
from sklearn.metrics import roc_auc_score

from penstock.data_prep.cleaning.contrastive import Contrastive, Resampling, TextModel, learn
from penstock.data_prep.cleaning.separation import draws, separation
from penstock.data_prep.corpora import PythonStdlib
from penstock.data_prep.tokenizer import train_tokenizer, write_tokenizer
from penstock.eval_suite.likelihood import token_nll
from penstock.evaluate.paired import paired
from penstock.hooks.contracts import Document, Judge
from penstock.sweep.heldout import document_pieces
from penstock.train.restore import RestoredRun

CHARACTERS = 1000
"""Of a document."""
VOCABULARY, BATCH, LENGTH = 2048, 8, 128
SETTINGS = (
    "model={use: glm-moe, hidden_size: 80, num_hidden_layers: 3, first_k_dense_replace: 3, intermediate_size: 224, "
    f"num_attention_heads: 5, num_key_value_heads: 5, head_dim: 16, max_position_embeddings: {LENGTH}, "
    "sharing: [{use: tied-embeddings}]}",
    "data.filters=[]",
    "data.heldout_share=0.05",
    f"data.sequence_length={LENGTH}",
    f"train.batch_size={BATCH}",
    "train.optimizer={use: muon, lr: 0.01, adamw_lr: 0.02, steps: 4}",
    "train.schedule={use: wsd, decay: 0.4, warmup_tokens: 2048}",
    "train.evaluate_every=null",
    "train.checkpoint_every=100000",
)
CONTRASTIVE, RESAMPLING, PERPLEXITY, RANDOM = "contrastive", "resampling", "perplexity", "random"
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Texts:
    """Documents: good `examples` and an ordinary `sample` teach, good and ordinary ones are held out, and the `pool` is
    what is chosen from."""

    examples: list[str]
    good: list[str]
    sample: list[str]
    ordinary: list[str]
    pool: list[str]


def divided(good: Sequence[str], ordinary: Sequence[str], megabytes: float) -> Texts:
    """Files as documents; the pool has at most so many megabytes, and the other parts are smaller."""
    size = megabytes * 1e6
    kept, examples = _parts([[*pieces(file, CHARACTERS)] for file in good], (0.1 * size, 0.4 * size))
    alone = [[each] for each in dict.fromkeys(each for file in ordinary for each in pieces(file, CHARACTERS))]
    held, sample, pool = _parts(alone, (0.1 * size, 0.4 * size, size))
    return Texts(examples, kept, sample, held, pool)


def _parts(groups: Sequence[Sequence[str]], sizes: Sequence[float]) -> Iterator[list[str]]:
    """Documents of whole groups in a random order, as many for each part as have its size."""
    shuffled = iter(random.Random(0).sample(groups, len(groups)))
    for size in sizes:
        part: list[str] = []
        taken = 0
        while taken < size and (group := next(shuffled, None)) is not None:
            part += group
            taken += sum(map(len, group))
        yield list(dict.fromkeys(part))


def pieces(text: str, characters: int) -> Iterator[str]:
    """Cut at the ends of lines, each but the last as soon as it has so many characters."""
    piece = ""
    for line in text.splitlines(keepends=True):
        piece += line
        if len(piece) >= characters:
            yield piece
            piece = ""
    if piece.strip():
        yield piece


def library() -> tuple[list[str], list[str]]:
    """Docstrings of two thirds of the modules and of those written in C, and the source of the others."""
    good: list[str] = []
    ordinary: list[str] = []
    for document in PythonStdlib().documents():
        if document.source.startswith("builtin/"):
            good.append(document.text)
        elif zlib.crc32(document.source.encode()) % 3:
            good.append(docstrings(document.text))
        else:
            ordinary.append(document.text)
    return [text for text in good if text], ordinary


def docstrings(source: str) -> str:
    """Those of at least 200 characters."""
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except SyntaxError:
        return ""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = (ast.get_docstring(node) or "" for node in nodes if isinstance(node, documented))
    return "\n\n".join(text for text in found if len(text) >= 200)


def web(data: Path) -> tuple[list[str], list[str]]:
    """Articles of SQuAD, and the files of `web_text`."""
    squad = json.loads(_unpacked(data / "squad" / "dev-v1.1.json.xz"))["data"]
    good = ["\n".join(paragraph["context"] for paragraph in article["paragraphs"]) for article in squad]
    return good, [_unpacked(file) for file in sorted((data / "web_text").glob("*.txt.xz"))]


def _unpacked(file: Path) -> str:
    return lzma.decompress(file.read_bytes()).decode()


# ------------------------------------------------------------------------------------------ held-out text


def separated(name: str, texts: Texts, model: TextModel, reader: RestoredRun) -> list[Row]:
    """How well each score tells held-out documents apart, and how much less than the classifier."""
    held = [*texts.good, *texts.ordinary]
    y_N = np.repeat([1, 0], [len(texts.good), len(texts.ordinary)])
    bit_N, byte_N = bits_of(reader, held)
    scores = {CONTRASTIVE: model.log_odds(held), RESAMPLING: model.importance(held), PERPLEXITY: -bit_N / byte_N}
    rows: list[Row] = []
    for method, score_N in scores.items():
        probability_N = model.probability(held) if method == CONTRASTIVE else None
        found = separation(score_N, y_N, probability_N=probability_N)
        row: Row = {"texts": name, "by": method, "held-out documents": len(held)}
        row |= {"AUC": found.auc, "AUC interval": interval(found.auc_interval)}
        row |= {"calibration error": found.calibration_error, "error interval": interval(found.calibration_interval)}
        if method != CONTRASTIVE:
            less = [_auc(y_N, scores[CONTRASTIVE], each) - _auc(y_N, score_N, each) for each in draws(y_N, seed=0)]
            row["AUC less than contrastive's"] = interval(np.quantile(less, [0.025, 0.975]))
        rows.append(row)
    return rows


def _auc(y_N: Any, score_N: Any, chosen: Any) -> float:
    return float(roc_auc_score(y_N[chosen], score_N[chosen]))


def interval(ends: Sequence[float] | np.ndarray) -> str:
    """
    >>> interval([0.91234, 1])
    '0.912 to 1.000'
    """
    return f"{ends[0]:.3f} to {ends[1]:.3f}"


def bits_of(run: RestoredRun, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Bits [N] and bytes [N] of each document under a run's model, which reads them one after the other."""
    end = run.tokenizer.end_of_text
    token_N = np.array([token for text in texts for token in (*run.tokenizer.encode(text), end)])
    found = document_pieces(token_N, run.tokenizer, None)
    return found.bits(token_nll(run.model, token_N, sequence_length=LENGTH)), found.byte_P


# ----------------------------------------------------------------------------------------------- training


def trained(runs: Path, name: str, texts: Sequence[str], tokens: int, seed: int) -> RestoredRun:
    """A finished run on these documents, which is trained unless `runs` has it."""
    folder = runs / name
    folder.mkdir(parents=True, exist_ok=True)
    corpus = folder / "documents.jsonl"
    corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    data = (f"data.corpus={{use: jsonl, paths: ['{corpus}']}}", f"data.tokenizer.file={runs / 'tokenizer.json'}")
    return trained_run(folder, *SETTINGS, *data, f"train.tokens={tokens}", f"seed={seed}", name=name)


def chosen(texts: Texts, model: Path, keep: float, seed: int) -> dict[str, tuple[list[str], float]]:
    """Documents of each way to choose, of about equal bytes and in a random order; and the percentage of the pool's
    documents that it kept."""
    stages = {CONTRASTIVE: Contrastive(model, keep=keep), RESAMPLING: Resampling(model, keep=keep)}
    kept = {RANDOM: texts.pool} | {name: _kept(stage, texts.pool) for name, stage in stages.items()}
    size = min(sum(len(text.encode()) for text in each) for each in kept.values())
    return {
        name: (_first(random.Random(seed).sample(each, len(each)), size), 100 * len(each) / len(texts.pool))
        for name, each in kept.items()
    }


def _kept(stage: Judge, texts: Sequence[str]) -> list[str]:
    return [text for text in texts if stage.judge(Document(text, "")) is None]


def _first(texts: Sequence[str], size: int) -> list[str]:
    ends = np.cumsum([len(text.encode()) for text in texts])
    return list(texts[: int(np.searchsorted(ends, size)) + 1])


def rows_of(name: str, texts: Texts, runs: Path, *, tokens: int, seeds: int, keep: float) -> list[Row]:
    """All that is measured on one collection of texts."""
    runs.mkdir(parents=True, exist_ok=True)
    tokenizer = write_tokenizer(train_tokenizer([*texts.examples, *texts.sample], vocabulary_size=VOCABULARY))
    (runs / "tokenizer.json").write_bytes(tokenizer["tokenizer.json"])
    rows: list[Row] = []
    bits: dict[str, list[float]] = {}
    for seed in range(seeds):
        click.echo(f"{name}, seed {seed}", err=True)
        model = learn(texts.examples, texts.sample, seed=seed)
        model.save(runs / f"classifier-{seed}.npz")
        if seed == 0:
            rows += separated(name, texts, model, trained(runs, "good", texts.examples, tokens, seed))
        for method, (documents, kept) in chosen(texts, runs / f"classifier-{seed}.npz", keep, seed).items():
            run = trained(runs, f"{method}-{seed}", documents, tokens, seed)
            bit_N, byte_N = bits_of(run, texts.good)
            bits.setdefault(method, []).append(float(bit_N.sum() / byte_N.sum()))
            row: Row = {"texts": name, "by": method, "seed": seed, "kept %": kept}
            row["MB"] = sum(len(text.encode()) for text in documents) / 1e6
            row["passes"] = tokens / len(run.dataset.split("train"))
            rows.append(row | {"bits/byte": bits[method][-1]})
    return [*rows, *(compared(name, method, bits) for method in bits)]


def compared(name: str, method: str, bits: dict[str, list[float]]) -> Row:
    """A way to choose over all seeds, beside random text."""
    row: Row = {"texts": name, "by": method, "seed": "all", "bits/byte": statistics.mean(bits[method])}
    fewer = paired(list(zip(bits[RANDOM], bits[method], strict=True)))
    if method != RANDOM and fewer is not None:
        row |= {"fewer": fewer.mean} | ({} if fewer.half_width is None else {"+-": fewer.half_width})
    return row


@click.command(help=__doc__)
@click.option("--data", envvar="PENSTOCK_DATA", type=click.Path(exists=True, path_type=Path), help="Adds `web`.")
@click.option("--megabytes", default=2.6, show_default=True, type=click.FloatRange(min=0.5), help="Size of the pool.")
@click.option("--keep", default=0.3, show_default=True, help="Share of ordinary text that is kept.")
@click.option("--tokens", default=200_000, show_default=True, type=click.IntRange(min=1), help="Tokens to train on.")
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(min=1), help="Seeds of each way to choose.")
@runs_option
@json_option
def main(
    data: Path | None, megabytes: float, keep: float, tokens: int, seeds: int, runs: Path | None, as_json: bool
) -> None:
    collections = {"library": library()} | ({} if data is None else {"web": web(data)})
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as temporary:
        for name, (good, ordinary) in collections.items():
            texts, folder = divided(good, ordinary, megabytes), (runs or Path(temporary)) / name
            rows += rows_of(name, texts, folder, tokens=tokens, seeds=seeds, keep=keep)
    finish("contrastive", rows, [], as_json, tokens=tokens, keep=keep, threads=torch.get_num_threads())


if __name__ == "__main__":
    main()
