"""`penstock data learn`: a classifier of texts, and what held-out texts say of it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from penstock.cli import output
from penstock.data.config import LearnConfig
from penstock.data_prep.cleaning.contrastive import learn
from penstock.hooks.config import read_config, validate
from penstock.hooks.contracts import Corpus
from penstock.hooks.registry import Registry


def learnt(path: Path, overrides: tuple[str, ...], registry: Registry, out: Path) -> dict[str, Any]:
    """Trains on the corpora that a file names, and writes the classifier to `out`."""
    settings = validate(LearnConfig, read_config(path, overrides), registry)
    good, ordinary = settings.good.build(), settings.ordinary.build()
    output.note("reading the texts, training and measuring")
    model = learn(
        _texts(good, settings.texts), _texts(ordinary, settings.texts), buckets=settings.buckets, seed=settings.seed
    )
    model.save(out)
    return {"model": str(out), **model.report}


def _texts(corpus: Corpus, most: int) -> Iterator[str]:
    return (document.text for document in islice(corpus.documents(), most))


def learnt_text(told: dict[str, Any]) -> str:
    """
    >>> print(learnt_text({
    ...     "model": "m.npz", "good": 30, "ordinary": 40, "auc": 0.912, "auc_interval": (0.88, 0.94),
    ...     "calibration_error": 0.04, "calibration_interval": (0.02, 0.09), "for_good": ["the", "of the"],
    ...     "for_ordinary": ["click", "|"]}))
    on 30 good and 40 ordinary texts that were held out
    AUC 0.912 (0.880 to 0.940)
    calibration error 0.040 (0.020 to 0.090)
    good texts: the, of the
    ordinary texts: click, |
    model: m.npz
    """
    (low, high), (least, most) = told["auc_interval"], told["calibration_interval"]
    return "\n".join(
        [
            f"on {told['good']:,} good and {told['ordinary']:,} ordinary texts that were held out",
            f"AUC {told['auc']:.3f} ({low:.3f} to {high:.3f})",
            f"calibration error {told['calibration_error']:.3f} ({least:.3f} to {most:.3f})",
            f"good texts: {', '.join(told['for_good'])}",
            f"ordinary texts: {', '.join(told['for_ordinary'])}",
            f"model: {told['model']}",
        ]
    )
