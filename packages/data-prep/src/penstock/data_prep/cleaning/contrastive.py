"""A linear classifier of good text against ordinary text, and the importance of a text for the good ones.

Both look at words and pairs of neighbours, hashed into buckets. The classifier is a logistic regression over the
normalised counts, calibrated on documents that it did not see (Platt 1999), as in fastText filters of DCLM (Li et al.
2024, arXiv 2406.11794). The importance of a text is the log ratio of its probability under a bag of n-grams of good and
of ordinary text (DSIR: Xie et al. 2023, arXiv 2302.03169).

Shape suffixes: N documents, H buckets.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from penstock.data_prep.cleaning.separation import platt, separation, sigmoid
from penstock.data_prep.files import import_extra
from penstock.hooks.atomic import replacing
from penstock.hooks.contracts import Decision, Document
from penstock.hooks.problems import Problem, ProblemError

FORMAT = 1
PATTERN = r"(?u)\w+|[^\w\s]"
"""A word, or a single character of punctuation."""
HELD_OUT = 5
"""One of so many documents is held out: it calibrates and measures."""
FEWEST = 20
"""Documents of a kind with which a classifier can be measured at all."""
SHARES = 1001
"""Quantiles that are kept of held-out ordinary text."""


@dataclass(frozen=True, slots=True)
class TextModel:
    """A trained classifier. `weight_H` and `bias` give log odds before calibration, which `slope` and `offset` make
    probabilities. `ratio_H` is the log ratio of an n-gram's probability in good and in ordinary text. `scores` and
    `importances` are quantiles on held-out ordinary text, ascending; the latter with the noise of resampling. `report`
    has the numbers of held-out texts, their `Separation`, and the n-grams that speak most for and against good text."""

    weight_H: Any
    bias: float
    slope: float
    offset: float
    ratio_H: Any
    scores: Any
    importances: Any
    seed: int
    report: dict[str, Any] = field(default_factory=dict)

    def log_odds(self, texts: Sequence[str]) -> Any:
        """float64 [N]: calibrated log odds that each text is of the good kind, where both kinds are equally common."""
        raw_N = _hashed(texts, len(self.weight_H), "l2") @ self.weight_H + self.bias
        return self.slope * raw_N.astype(np.float64) + self.offset

    def probability(self, texts: Sequence[str]) -> Any:
        """float64 [N]: the same as probabilities."""
        return sigmoid(self.log_odds(texts))

    def importance(self, texts: Sequence[str]) -> Any:
        """float64 [N]: log importance of each text, with Gumbel noise that follows from text and seed. Those above a
        threshold are a sample without replacement by importance."""
        noise = np.array([_gumbel(text, self.seed) for text in texts])
        return _hashed(texts, len(self.ratio_H), None) @ self.ratio_H + noise

    def save(self, path: Path) -> None:
        """Replaces the file, whole or not at all."""
        told = {"format": FORMAT, "bias": self.bias, "slope": self.slope, "offset": self.offset, "seed": self.seed}
        text = json.dumps({**told, "report": self.report})
        with replacing(path) as file:
            np.savez_compressed(
                file,
                told=np.frombuffer(text.encode(), np.uint8),
                weight_H=self.weight_H,
                ratio_H=self.ratio_H,
                scores=self.scores,
                importances=self.importances,
            )

    @classmethod
    def load(cls, path: Path) -> TextModel:
        """Raises `ProblemError` for a file that `save` did not write."""
        try:
            with np.load(path, allow_pickle=False) as arrays:
                told = json.loads(arrays["told"].tobytes())
                names = ("weight_H", "ratio_H", "scores", "importances")
                kept = {name: arrays[name] for name in names}
        except FileNotFoundError as error:
            fix = "train it with `penstock data learn`"
            raise ProblemError(Problem("missing-file", "file not found", str(path), fix)) from error
        except (OSError, ValueError, KeyError) as error:
            what = f"is no classifier of texts ({type(error).__name__}: {error})"
            raise ProblemError(
                Problem("damaged-file", what, str(path), "train it with `penstock data learn`")
            ) from error
        if told.pop("format") != FORMAT:
            what = f"has another format than {FORMAT}, which this release reads"
            raise ProblemError(Problem("other-format", what, str(path), "train it again with `penstock data learn`"))
        return cls(**kept, **told)


def learn(good: Iterable[str], ordinary: Iterable[str], *, buckets: int = 2**18, seed: int = 0) -> TextModel:
    """Trains a classifier of `good` against `ordinary` texts. A fifth of each, by a hash of the text, is held out.
    Equal texts of both kinds go. Raises `ProblemError` where a kind has too few texts to measure."""
    linear = import_extra("sklearn.linear_model", "contrastive", "training a classifier of texts")
    kinds = [dict.fromkeys(good), dict.fromkeys(ordinary)]
    both = kinds[0].keys() & kinds[1].keys()
    train: list[str] = []
    held: list[str] = []
    train_y: list[int] = []
    held_y: list[int] = []
    for label, texts in zip((1, 0), kinds, strict=True):
        for text in texts:
            if text not in both:
                held_out = is_held_out(text, seed)
                (held if held_out else train).append(text)
                (held_y if held_out else train_y).append(label)
    y_N = np.array(held_y, dtype=np.int64)
    counts = [int(np.count_nonzero(y_N == label)) for label in (1, 0)]
    if min(counts) < FEWEST:
        what = (
            f"too few held-out texts of a kind: {counts[0]} good and {counts[1]} ordinary ones, and at least {FEWEST} "
            f"of each are needed. {len(both)} texts are of both kinds, and do not count"
        )
        fix = f"give at least {FEWEST * HELD_OUT} or so of each kind that the other has not"
        raise ProblemError(Problem("too-few-texts", what, "learn", fix))
    model = linear.LogisticRegression(C=10.0, class_weight="balanced", max_iter=1000)
    model.fit(_hashed(train, buckets, "l2"), train_y)
    weight_H, bias = model.coef_[0].astype(np.float32), float(model.intercept_[0])
    log_odds_N = _hashed(held, buckets, "l2") @ weight_H + bias
    slope, offset = platt(log_odds_N, y_N)
    ratio_H = _log_ratio(train, np.array(train_y), buckets)
    bare = TextModel(weight_H, bias, slope, offset, ratio_H, np.zeros(0), np.zeros(0), seed)
    good_grams, ordinary_grams = _telling(bare, train)
    report = {
        "good": counts[0],
        "ordinary": counts[1],
        **asdict(separation(log_odds_N, y_N, seed=seed)),
        "for_good": good_grams,
        "for_ordinary": ordinary_grams,
    }
    ordinary_texts = [text for text, label in zip(held, held_y, strict=True) if not label]
    shares = np.linspace(0, 1, SHARES)
    return TextModel(
        weight_H,
        bias,
        slope,
        offset,
        ratio_H,
        np.quantile(bare.log_odds(ordinary_texts), shares),
        np.quantile(bare.importance(ordinary_texts), shares),
        seed,
        report,
    )


def is_held_out(text: str, seed: int) -> bool:
    """Whether a text calibrates and measures instead of training."""
    return _number(text, seed) % HELD_OUT == 0


class Contrastive:
    """Removes texts that a classifier finds ordinary. `keep` is the share of ordinary text that is kept, as held-out
    text says; `least`, a probability, is taken instead if given. Texts of equal score stay or go together."""

    def __init__(self, model: str | Path, keep: float = 0.3, least: float | None = None) -> None:
        self._model = TextModel.load(Path(model))
        self._least = float(np.quantile(self._model.scores, 1 - keep))
        if least is not None:
            self._least = math.log(least) - math.log1p(-least)

    def judge(self, document: Document) -> Decision | None:
        (score,) = self._model.log_odds([document.text])
        if score >= self._least:
            return None
        good, needed = sigmoid(score), sigmoid(self._least)
        return Decision("contrastive", f"good with probability {good:.3g}, at least {needed:.3g} is needed")


class Resampling:
    """Removes texts so that those that stay are distributed as good ones are, by their words: a sample by importance.
    `keep` is the share of ordinary text that is kept, as held-out text says."""

    def __init__(self, model: str | Path, keep: float = 0.3) -> None:
        self._model = TextModel.load(Path(model))
        self._least = float(np.quantile(self._model.importances, 1 - keep))

    def judge(self, document: Document) -> Decision | None:
        (importance,) = self._model.importance([document.text])
        if importance >= self._least:
            return None
        return Decision(
            "resampling", f"log importance {importance:.1f} with its noise, at least {self._least:.1f} is needed"
        )


def _hashed(texts: Sequence[str], buckets: int, norm: str | None) -> Any:
    """[N, H], sparse: how often words and pairs of neighbours fall into each bucket."""
    return _vectorizer(buckets, norm).transform(texts)


def _vectorizer(buckets: int, norm: str | None) -> Any:
    text = import_extra("sklearn.feature_extraction.text", "contrastive", "a classifier of texts")
    return text.HashingVectorizer(
        n_features=buckets, token_pattern=PATTERN, ngram_range=(1, 2), norm=norm, alternate_sign=False, dtype=np.float32
    )


def _log_ratio(texts: Sequence[str], label_N: Any, buckets: int) -> Any:
    """float32 [H], with one count more for each bucket."""
    counts = _hashed(texts, buckets, None)
    logs = []
    for label in (1, 0):
        count_H = np.asarray(counts[label_N == label].sum(axis=0)).ravel() + 1
        logs.append(np.log(count_H / count_H.sum()))
    return (logs[0] - logs[1]).astype(np.float32)


def _telling(model: TextModel, texts: Sequence[str], shown: int = 15, read: int = 2000) -> tuple[list[str], list[str]]:
    """The n-grams of some texts with the largest and the smallest weights that are in at least three of them. Of those
    that share a bucket, the most frequent stands for all."""
    analyse = _vectorizer(len(model.weight_H), None).build_analyzer()
    counts = Counter(gram for text in texts[:: max(1, len(texts) // read)] for gram in set(analyse(text)))
    grams = sorted((gram for gram, count in counts.items() if count >= 3), key=lambda gram: (-counts[gram], gram))
    if not grams:
        return [], []
    hashing = import_extra("sklearn.feature_extraction", "contrastive", "a classifier of texts")
    hasher = hashing.FeatureHasher(len(model.weight_H), input_type="string", alternate_sign=False)
    bucket_G = hasher.transform([[gram] for gram in grams]).indices
    of_bucket: dict[int, str] = {}
    for bucket, gram in zip(bucket_G.tolist(), grams, strict=True):
        of_bucket.setdefault(bucket, gram)
    ranked = sorted(of_bucket, key=lambda bucket: -model.weight_H[bucket])
    good = [of_bucket[bucket] for bucket in ranked if model.weight_H[bucket] > 0]
    ordinary = [of_bucket[bucket] for bucket in reversed(ranked) if model.weight_H[bucket] < 0]
    return good[:shown], ordinary[:shown]


def _number(text: str, seed: int) -> int:
    digest = hashlib.blake2b(f"{seed}\n{text}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _gumbel(text: str, seed: int) -> float:
    uniform = (_number(text, seed + 1) + 0.5) / 2**64
    return -math.log(-math.log(uniform))
