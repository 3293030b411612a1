"""A model and its compressed form on the same text, token by token: what both find hard cancels out in the difference.

The logits of both are held for a few positions at a time, and kept as sums over documents, so memory does not grow with
the text. Sums are in fp64; a model compared with itself differs by exactly 0.

Shape suffixes: N scored positions, D model width, V vocabulary, K samples: documents, or the windows of a single one.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from penstock.eval_suite.intervals import Scores, ratio_interval
from penstock.eval_suite.likelihood import Progress, depends_on_batch, evaluating, scored_hidden, targets_of
from penstock.eval_suite.passes import require_vocabulary
from penstock.eval_suite.rows import Row
from penstock.eval_suite.runner import BATCH_SIZE, Asked, Prepared
from penstock.eval_suite.tasks import Stream
from penstock.hooks.contracts import Interval, LanguageModel, Rolling
from penstock.hooks.problems import Problem, ProblemError, failed

LOGITS_HELD = 1 << 22
"""Numbers of one model's logits that are held at once: 32 MB in fp64, and a few times that in a computation."""

Floats: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Sample:
    """What is drawn as one: a document, or a window of a single document. `token_N` are its tokens that count."""

    name: str
    token_N: NDArray[np.integer]


@dataclass(frozen=True, slots=True)
class Compared:
    """Sums over each sample, [K] by name: `tokens`, `bytes`, the nats and correct first choices of both models
    (`baseline_nll`, `compressed_nll`, `baseline_correct`, `compressed_correct`), tokens where both have the same first
    choice (`same`), and the divergence of the compressed model from the baseline in nats (`kl`)."""

    scores: Scores
    documents: bool


@dataclass(frozen=True, slots=True)
class Difference:
    """A figure of both models, and the compressed one's less the baseline's with its interval."""

    baseline: float
    compressed: float
    interval: Interval | None

    @property
    def difference(self) -> float:
        return self.compressed - self.baseline


def is_text(prepared: Prepared) -> bool:
    """Whether the task scores every token of a text."""
    streams = all(isinstance(each.item.document, Stream) for each in prepared.asked)
    return streams and all(isinstance(request, Rolling) for each in prepared.asked for request, _ in each.requests)


def require_bytes(prepared: Prepared, name: str) -> None:
    """Raises `ProblemError` for an empty text."""
    if not any(each.item.document.byte_N.any() for each in prepared.asked):
        what, fix = "the text has no bytes", "compare on a text of your own: --task '{use: text, paths: [FILE]}'"
        raise ProblemError(Problem("empty-corpus", what, f"task '{name}'", fix))


def compare(
    baseline: LanguageModel,
    compressed: LanguageModel,
    prepared: Prepared,
    *,
    batch_size: int = BATCH_SIZE,
    progress: Progress | None = None,
) -> Compared:
    """Both models read every window of the text. `progress` receives the predictions done and in total. Raises
    `ProblemError` for models of unlike vocabularies, and for logits that are not finite."""
    _require_alike(baseline, compressed, prepared)
    together = 1 if depends_on_batch(baseline) or depends_on_batch(compressed) else batch_size
    blocks, documents = _blocks(prepared)
    sums: dict[str, Floats] = defaultdict(lambda: np.zeros(int(blocks[-1][-1]) + 1))
    total, done, windows = sum(map(len, blocks)), 0, _windows(prepared, blocks)
    with evaluating(baseline), evaluating(compressed), torch.inference_mode():
        while batch := list(itertools.islice(windows, together)):
            sample_N = np.concatenate([sample_N for _, sample_N, _ in batch])
            byte_N = np.concatenate([byte_N for _, _, byte_N in batch])
            figures = _both(baseline, compressed, [row for row, _, _ in batch])
            _add(sums, sample_N, {"tokens": np.ones(len(sample_N)), "bytes": byte_N, **figures})
            done += len(sample_N)
            if progress is not None:
                progress(done, total)
    return Compared(sums, documents)


def samples_of(prepared: Prepared) -> list[Sample]:
    """The samples in the order of the scores."""
    window = prepared.context.sequence_length
    if len(prepared.asked) > 1:
        return [Sample(each.item.id, each.item.document.token_N[1:]) for each in prepared.asked]
    stream: Stream = prepared.asked[0].item.document
    block_N, documents = stream.blocks(window)
    kind, starts = "document" if documents else "window", np.flatnonzero(np.diff(block_N)) + 1
    return [Sample(f"{kind} {number}", part) for number, part in enumerate(np.split(stream.token_N[1:], starts), 1)]


def differences(scores: Scores) -> Mapping[str, Difference]:
    """Loss in nats a token, bits per byte, and the share of tokens that are the first choice."""
    bit_K = {who: scores[f"{who}_nll"] / math.log(2) for who in ("baseline", "compressed")}
    return {
        "loss": _difference(scores["baseline_nll"], scores["compressed_nll"], scores["tokens"]),
        "bits_per_byte": _difference(bit_K["baseline"], bit_K["compressed"], scores["bytes"]),
        "top1_accuracy": _difference(scores["baseline_correct"], scores["compressed_correct"], scores["tokens"]),
    }


def _difference(baseline_K: Floats, compressed_K: Floats, weight_K: Floats) -> Difference:
    weight = float(weight_K.sum())
    interval = ratio_interval(compressed_K - baseline_K, weight_K)
    return Difference(float(baseline_K.sum()) / weight, float(compressed_K.sum()) / weight, interval)


def _add(sums: dict[str, Floats], sample_N: NDArray[np.int64], values: Mapping[str, NDArray[Any]]) -> None:
    """Adds what belongs to each sample to its sum."""
    for name, value_N in values.items():
        np.add.at(sums[name], sample_N, value_N)


def _require_alike(baseline: LanguageModel, compressed: LanguageModel, prepared: Prepared) -> None:
    sizes = baseline.vocabulary_size, compressed.vocabulary_size
    if sizes[0] != sizes[1]:
        what = f"the baseline predicts {sizes[0]} tokens, and the compressed model {sizes[1]}"
        raise ProblemError(Problem("vocabulary-mismatch", what, "tokenizer", "compare models of one vocabulary"))
    tokens = [each.item.document.token_N for each in prepared.asked]
    require_vocabulary(baseline, min(int(each.min()) for each in tokens), max(int(each.max()) for each in tokens))


def _blocks(prepared: Prepared) -> tuple[list[NDArray[np.int64]], bool]:
    """The number of the sample of each prediction of each item; several items are a document each."""
    if len(prepared.asked) > 1:
        lengths = (len(each.item.document.byte_N) for each in prepared.asked)
        return [np.full(length, number) for number, length in enumerate(lengths)], True
    block_N, documents = prepared.asked[0].item.document.blocks(prepared.context.sequence_length)
    return [block_N], documents


def _windows(
    prepared: Prepared, blocks: list[NDArray[np.int64]]
) -> Iterator[tuple[Row, NDArray[np.int64], NDArray[np.int64]]]:
    """Each row, and of each of its predictions the number of the sample and the bytes of the token."""
    for each, block_N in zip(prepared.asked, blocks, strict=True):
        start = 0
        for row in _rows(each):
            end = start + len(row.token_S) - 1 - row.scored
            yield row, block_N[start:end], each.item.document.byte_N[start:end]
            start = end


def _rows(asked: Asked) -> Iterator[Row]:
    return (row for _, rows in asked.requests for row in rows)


def _both(baseline: LanguageModel, compressed: LanguageModel, rows: list[Row]) -> Mapping[str, Floats]:
    """What is summed of each prediction, [N] by name."""
    texts = [row.token_S for row in rows], [row.scored for row in rows]
    hidden_ND, other_ND = scored_hidden(baseline, *texts), scored_hidden(compressed, *texts)
    target_N, most = torch.from_numpy(targets_of(*texts)), max(1, LOGITS_HELD // baseline.vocabulary_size)
    parts = [
        _compared(baseline.logits(one).double().cpu(), compressed.logits(other).double().cpu(), target)
        for one, other, target in zip(hidden_ND.split(most), other_ND.split(most), target_N.split(most), strict=True)
    ]
    return {name: torch.cat([part[name] for part in parts]).numpy() for name in parts[0]}


def _compared(baseline_NV: Tensor, compressed_NV: Tensor, target_N: Tensor) -> dict[str, Tensor]:
    _require_finite("baseline", baseline_NV)
    _require_finite("compressed model", compressed_NV)
    log_NV, other_NV = baseline_NV.log_softmax(-1), compressed_NV.log_softmax(-1)
    first_N, other_N = baseline_NV.argmax(-1), compressed_NV.argmax(-1)
    return {
        "baseline_nll": -log_NV.gather(1, target_N[:, None])[:, 0],
        "compressed_nll": -other_NV.gather(1, target_N[:, None])[:, 0],
        "baseline_correct": (first_N == target_N).double(),
        "compressed_correct": (other_N == target_N).double(),
        "same": (first_N == other_N).double(),
        "kl": (log_NV.exp() * (log_NV - other_NV)).sum(-1),
    }


def _require_finite(who: str, logits_NV: Tensor) -> None:
    if not bool(logits_NV.isfinite().all()):
        what = f"the {who} computes logits that are NaN or infinite"
        raise failed("not-finite", what, "", "use a checkpoint from before it diverged")
