"""`tests/benchmarks/contrastive.py` on a few documents: what it chooses, trains and compares."""

from __future__ import annotations

import importlib
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parent / "benchmarks"
PROSE = ["the", "mill", "stands", "by", "a", "river", "and", "its", "wheel", "turns", "while", "water", "runs"]
CODE = ["def", "return", "self", "if", "not", "in", "for", "import", "x", "=", "(", ")", ":", "None", "True"]


@pytest.fixture(scope="module")
def benchmark() -> Iterator[Any]:
    sys.path.insert(0, str(BENCHMARKS))
    yield importlib.import_module("contrastive")
    sys.path.remove(str(BENCHMARKS))


def documents(words: list[str], count: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(words, k=150)) for _ in range(count)]


def test_pieces_are_the_text_and_no_document_is_in_two_parts(benchmark):
    text = "".join(f"line {number}\n" for number in range(100))
    assert "".join(benchmark.pieces(text, 50)) == text
    files = ["".join(f"{number} word {line}\n" for line in range(300)) for number in range(100)]
    texts = benchmark.divided(files, [file.replace("word", "x") for file in files], megabytes=0.03)
    for parts in ((texts.sample, texts.ordinary, texts.pool), (texts.examples, texts.good)):
        assert all(parts)
        assert sum(map(len, parts)) == len({text for part in parts for text in part})
    numbers = [{text.split()[0] for text in part} for part in (texts.examples, texts.good)]
    assert not numbers[0] & numbers[1]


def test_docstrings_are_those_that_are_long(benchmark):
    long = "A sentence of words." * 10
    source = f'"""{long}"""\ndef f():\n    """Short."""\nclass C:\n    """{long}more"""\n'
    assert benchmark.docstrings(source) == f"{long}\n\n{long}more"
    assert benchmark.docstrings("def (") == ""


def test_models_are_trained_on_what_is_kept_and_on_random_text(benchmark, tmp_path, monkeypatch):
    monkeypatch.setattr("penstock.data_prep.cleaning.separation.DRAWS", 50)
    mixed = [documents(PROSE, 150, seed) + documents(CODE, 100, seed) for seed in range(3)]
    good = [documents(PROSE, count, 10 + count) for count in (160, 40)]
    texts = benchmark.Texts(examples=good[0], good=good[1], sample=mixed[0], ordinary=mixed[1], pool=mixed[2])
    rows = benchmark.rows_of("toy", texts, tmp_path, tokens=4096, seeds=1, keep=0.3)

    told = {row["by"]: row for row in rows if "AUC" in row}
    assert list(told) == ["contrastive", "resampling", "perplexity"]
    # Three of five ordinary documents are like good ones, so no score can do better.
    assert told["contrastive"]["AUC"] == pytest.approx(0.7, abs=0.1)
    trained = {row["by"]: row for row in rows if row.get("seed") == 0}
    assert list(trained) == ["random", "contrastive", "resampling"]
    assert trained["random"]["kept %"] == 100
    assert trained["contrastive"]["kept %"] == pytest.approx(30, abs=15)
    assert all(row["MB"] == pytest.approx(trained["random"]["MB"], rel=0.05) for row in trained.values())
    chosen = benchmark.chosen(texts, tmp_path / "classifier-0.npz", keep=0.3, seed=0)
    assert not set(chosen["contrastive"][0]) & set(mixed[2][150:])
    assert set(chosen["random"][0]) & set(mixed[2][150:])
    (all_seeds,) = [row for row in rows if row.get("seed") == "all" and row["by"] == "contrastive"]
    assert all_seeds["fewer"] == pytest.approx(trained["random"]["bits/byte"] - trained["contrastive"]["bits/byte"])
