"""A history gives back its rows, and names a damaged one with its line."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from penstock_trackers.history import History

from penstock.hooks.problems import ProblemError


def test_the_rows_that_stay_are_given_back_with_nan_and_infinity(tmp_path: Path) -> None:
    history = History(tmp_path / "rows.jsonl")
    for row in ((1, {"loss": 1.5}), (2, {"loss": math.inf}), (3, {"loss": 2.0})):
        history.append(row)
    history.close()
    assert history.rewind(2) == [(1, {"loss": 1.5}), (2, {"loss": math.inf})]


@pytest.mark.parametrize(
    "line", ["[", "7", '"open"', "[1.5, {}]", '[1, {"loss": null}]', '[1, {"a": 1, "a": 2}]', "[" * 90_000, "[NaN, {}]"]
)
def test_a_damaged_row_is_named_with_its_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(f"[1, {{}}]\n{line}\n")
    with pytest.raises(ProblemError, match=r"rows\.jsonl:2: damaged"):
        History(path).rewind(2)
