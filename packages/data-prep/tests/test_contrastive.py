from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from penstock.data_prep.cleaning.contrastive import (
    Contrastive,
    Resampling,
    TextModel,
    is_held_out,
    learn,
)
from penstock.data_prep.cleaning.separation import calibration_error, separation
from penstock.hooks.contracts import Document
from penstock.hooks.problems import ProblemError

sklearn = pytest.importorskip("sklearn", reason="scikit-learn is not installed")
COMMON = ["the", "gate", "water", "a", "of", "mill", "stands", "and", "river"]


def texts(kind: str, count: int, telling: float = 0.25) -> list[str]:
    random = np.random.default_rng(sum(map(ord, kind)))
    own = [f"{kind}{number}" for number in range(5)]
    return [
        " ".join(random.choice(own if random.random() < telling else COMMON) for _ in range(random.integers(5, 40)))
        for _ in range(count)
    ]


@pytest.fixture(scope="module")
def model() -> TextModel:
    return learn([*texts("x", 300), "of both kinds"], [*texts("y", 400), "of both kinds"], buckets=2**14)


def test_it_tells_good_from_ordinary_text_and_says_by_which_words(model):
    report = model.report
    assert report["auc"] > 0.99
    low, high = report["auc_interval"]
    assert low <= report["auc"] <= high <= 1
    assert (report["good"], report["ordinary"]) == (pytest.approx(60, abs=25), pytest.approx(80, abs=25))
    assert set(report["for_good"][:5]) & {f"x{number}" for number in range(5)}
    assert set(report["for_ordinary"][:5]) & {f"y{number}" for number in range(5)}
    good, ordinary = model.probability(["x1 x2 gate", "y1 y2 gate"])
    assert good > 0.5 > ordinary


def test_no_word_speaks_for_both_kinds_where_few_are_frequent():
    said = [[f"{word} {number}" for number in range(200)] for word in ("good", "dull")]
    report = learn(*said, buckets=2**14).report
    assert report["for_good"][0] == "good"
    assert report["for_ordinary"][0] == "dull"
    assert not set(report["for_good"]) & set(report["for_ordinary"])


def test_where_kinds_are_one_it_says_that_it_tells_nothing():
    shuffled = texts("x", 800)
    report = learn(shuffled[:400], shuffled[400:], buckets=2**14).report
    low, high = report["auc_interval"]
    assert low < 0.5 < high
    assert report["calibration_error"] < 0.2


@pytest.mark.parametrize("stage", [Contrastive, Resampling])
@pytest.mark.parametrize("keep", [0.1, 0.5])
def test_the_share_of_ordinary_text_that_stays_is_what_was_asked(model, tmp_path, stage, keep):
    model.save(tmp_path / "model.npz")
    cleaner = stage(tmp_path / "model.npz", keep=keep)
    fresh = [Document(text, str(number)) for number, text in enumerate(texts("y", 1600)[400:])]
    stay = [document for document in fresh if cleaner.judge(document) is None]
    # The quantile is that of some 80 held-out texts.
    assert len(stay) / len(fresh) == pytest.approx(keep, abs=4 * np.sqrt(keep * (1 - keep) / 60))
    assert all(cleaner.judge(document) is None for document in stay)


@pytest.mark.parametrize(("stage", "keep"), [(Contrastive, 0.25), (Resampling, 0.5)])
def test_the_kept_share_is_exact_on_the_texts_that_it_was_measured_on(model, tmp_path, stage, keep):
    model.save(tmp_path / "model.npz")
    cleaner = stage(tmp_path / "model.npz", keep=keep)
    held = [text for text in texts("y", 400) if is_held_out(text, seed=0)]
    stay = sum(cleaner.judge(Document(text, "")) is None for text in held)
    assert len(held) == model.report["ordinary"]
    assert abs(stay - keep * len(held)) <= 1


def test_texts_without_words_have_one_score_and_stay_or_go_together(model, tmp_path):
    model.save(tmp_path / "model.npz")
    stage = Contrastive(tmp_path / "model.npz", keep=0.5)
    assert len({stage.judge(Document(text, "")) is None for text in ("", " ", "\n\t")}) == 1


def test_resampling_prefers_the_words_of_good_text(model, tmp_path):
    model.save(tmp_path / "model.npz")
    cleaner = Resampling(tmp_path / "model.npz", keep=0.1)
    kept = [sum(cleaner.judge(Document(text, "")) is None for text in texts(kind, 200)) for kind in "xy"]
    assert kept[0] > 5 * kept[1]


def test_a_file_has_every_bit_of_the_model(model, tmp_path):
    model.save(tmp_path / "model.npz")
    again = TextModel.load(tmp_path / "model.npz")
    for method in ("probability", "importance"):
        assert np.array_equal(getattr(again, method)(texts("x", 50)), getattr(model, method)(texts("x", 50)))
    assert json.dumps(again.report) == json.dumps(model.report)


@pytest.mark.parametrize("skill", [0.0, 3.0])
def test_intervals_of_few_documents_hold_their_estimates(skill, monkeypatch):
    monkeypatch.setattr("penstock.data_prep.cleaning.separation.DRAWS", 200)
    random = np.random.default_rng(1)
    y_N = np.repeat([1, 0], 20)
    found = separation(random.normal(size=40) + skill * y_N, y_N)
    for value, (low, high) in (
        (found.auc, found.auc_interval),
        (found.calibration_error, found.calibration_interval),
    ):
        assert 0 <= low <= value <= high <= 1
    assert found.calibration_interval[0] < 0.1


def test_the_calibration_error_is_that_of_its_definition():
    half_N = np.repeat([0, 1], 30)
    assert calibration_error(half_N.astype(float), half_N) == 0
    assert calibration_error(1.0 - half_N, half_N) == pytest.approx(1)
    assert calibration_error(np.full(60, 0.7), half_N[::-1]) == pytest.approx(0.5)


def test_what_cannot_be_learnt_or_read_is_said(tmp_path: Path):
    with pytest.raises(ProblemError, match="held-out texts of a kind"):
        learn(texts("x", 30), texts("y", 400))
    for good, ordinary in (([], texts("y", 400)), (texts("x", 400), []), ([], [])):
        with pytest.raises(ProblemError, match="too few held-out texts of a kind"):
            learn(good, ordinary)
    with pytest.raises(ProblemError, match=r"0 good and .* 400 texts are of both kinds"):
        learn(texts("x", 400), [*texts("x", 400), *texts("y", 400)])
    with pytest.raises(ProblemError, match="file not found"):
        Contrastive(tmp_path / "none.npz")
    (tmp_path / "bad.npz").write_bytes(b"PK no")
    with pytest.raises(ProblemError, match="is no classifier of texts"):
        Contrastive(tmp_path / "bad.npz")
