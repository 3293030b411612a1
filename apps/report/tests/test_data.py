"""Reading a run directory, and binning a trace."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.report.data import ROWS, Metrics, binned, read_run
from penstock.traces.trace import RoutingTrace


def metrics_of(path: Path, lines: list[str]) -> Metrics:
    (path / "metrics.jsonl").write_text("".join(lines), encoding="utf-8")
    metrics = read_run(path).metrics
    assert metrics is not None
    return metrics


def line(**row: Any) -> str:
    return json.dumps(row) + "\n"


def test_a_truncated_last_line_is_ignored(tmp_path: Path) -> None:
    metrics = metrics_of(tmp_path, [line(step=1, loss=8.0), line(step=2, loss=7.0), '{"step": 3, "lo'])
    assert metrics.train["step"].tolist() == [1, 2]
    assert read_run(tmp_path).problems == ()


def test_a_damaged_line_in_the_middle_is_told(tmp_path: Path) -> None:
    metrics = metrics_of(tmp_path, [line(step=1, loss=8.0), '{"step": 2, "lo\n', line(step=3, loss=7.0)])
    assert metrics.train["loss"].tolist() == [8.0, 7.0]
    assert "1 unreadable rows" in read_run(tmp_path).problems[0].what


def test_after_a_resume_the_later_row_of_a_step_counts(tmp_path: Path) -> None:
    metrics = metrics_of(
        tmp_path, [line(step=step, loss=loss) for step, loss in ((1, 8.0), (2, 7.0), (3, 6.0), (2, 7.5), (3, 6.5))]
    )
    assert metrics.train["step"].tolist() == [1, 2, 3]
    assert metrics.train["loss"].tolist() == [8.0, 7.5, 6.5]


def test_heldout_rows_are_kept_apart_and_missing_values_are_nan(tmp_path: Path) -> None:
    metrics = metrics_of(
        tmp_path,
        [
            line(step=1, loss=8.0, extra="text"),
            line(step=1, **{"heldout/loss": 8.5}),
            line(step=2, loss=None, gradient_norm=1.0),
        ],
    )
    assert metrics.heldout["heldout/loss"].tolist() == [8.5]
    np.testing.assert_array_equal(metrics.train["loss"], [8.0, np.nan])
    np.testing.assert_array_equal(metrics.train["gradient_norm"], [np.nan, 1.0])
    assert "extra" not in metrics.train


def test_a_huge_run_is_read_in_strides_without_losing_heldout_rows_or_the_end(tmp_path: Path) -> None:
    rows = 3 * ROWS
    lines = [line(step=step, loss=1.0) for step in range(1, rows + 1)]
    lines[1000] = line(step=1001, **{"heldout/loss": 2.0})
    metrics = metrics_of(tmp_path, lines)
    assert metrics.stride > 1
    assert len(metrics.train["step"]) <= 1.1 * ROWS
    assert metrics.train["step"][-1] == rows
    assert metrics.heldout["step"].tolist() == [1001]


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 30),
    layers=st.integers(1, 5),
    columns=st.integers(1, 12),
    shown=st.integers(1, 6),
    seed=st.integers(0, 99),
)
def test_bins_hold_every_row_once(rows: int, layers: int, columns: int, shown: int, seed: int) -> None:
    counts_SLE = np.random.default_rng(seed).integers(0, 4, (rows, layers, 3))
    history = binned(RoutingTrace(counts_SLE), columns, shown)
    assert history.ratio_LEC.shape == (min(shown, layers), 3, min(columns, rows))
    assert history.shown[0] == 0
    assert len(set(history.shown)) == len(history.shown)
    edges = [int(rows * index / min(columns, rows)) for index in range(min(columns, rows) + 1)]
    for row, layer in enumerate(history.shown):
        for column in range(min(columns, rows)):
            counts_E = counts_SLE[edges[column] : edges[column + 1], layer].sum(axis=0)
            expected = counts_E / counts_E.mean() if counts_E.sum() else np.full(3, np.nan)
            np.testing.assert_allclose(history.ratio_LEC[row, :, column], expected)


def test_layers_and_steps_carry_the_names_of_the_header() -> None:
    trace = RoutingTrace(np.ones((3, 2, 4), np.int64), {"layers": [1, 7], "steps": [10, 20, 30]})
    history = binned(trace)
    assert (history.layers, history.first_step, history.last_step) == ((1, 7), 10, 30)


def test_the_profile_takes_missing_counts_from_the_heldout_trace(tmp_path: Path) -> None:
    (tmp_path / "config.resolved.yaml").write_text("name: x\n")
    (tmp_path / "profile.json").write_text(
        json.dumps({"layers": [{"layer": 7, "gini": float("nan")}, {"layer": 1, "counts": [4, 4]}]})
    )
    RoutingTrace(np.array([[[1, 2], [3, 4]]]), {"layers": [1, 7]}).save(tmp_path / "trace" / "heldout.npz")
    profile = read_run(tmp_path).profile
    assert profile is not None
    assert [layer.counts for layer in profile.layers] == [[3, 4], [4, 4]]


@pytest.mark.parametrize(("router", "dense"), [(0, True), (5, False)])
def test_a_run_is_dense_when_no_parameter_belongs_to_an_expert(tmp_path: Path, router: int, dense: bool) -> None:
    roles = {"embedding": 9, "expert": router}
    (tmp_path / "status.json").write_text(json.dumps({"parameters": {"total": 9 + router, "by_role": roles}}))
    assert read_run(tmp_path).dense is dense


def test_an_integer_that_no_page_can_compute_with_is_told(tmp_path: Path) -> None:
    (tmp_path / "status.json").write_text(f'{{"state": "finished", "step": 3, "tokens_seen": {10**400}}}')
    (tmp_path / "metrics.jsonl").write_text(f'{{"step": 1, "loss": {10**400}}}\n{{"step": 2, "loss": 2.0}}\n')
    run = read_run(tmp_path)
    assert run.status is None
    assert "more than 64 bits" in run.problems[0].what
    assert run.metrics is not None
    assert np.isnan(run.metrics.train["loss"][0])
