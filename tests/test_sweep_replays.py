"""`tests/benchmarks/sweep.py` on curves of a known law: what searches pay, and that they find what is there."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock.sweep.rules.none import NoRule
from penstock.sweep.rules.paired import Paired

BENCHMARKS = Path(__file__).parent / "benchmarks"


@pytest.fixture(scope="module")
def modules() -> Iterator[Any]:
    sys.path.insert(0, str(BENCHMARKS))
    yield importlib.import_module("sweep_curves"), importlib.import_module("sweep_replay")
    sys.path.remove(str(BENCHMARKS))


def points_of(curves: Any, noise: float) -> tuple[list[Any], list[int]]:
    """Larger cells are better and learn more slowly; runs of one cell differ by `noise`."""
    random = np.random.default_rng(0)
    byte_P, document_P = random.integers(400, 1600, 40), random.normal(0.0, 0.2, 40)
    points: list[Any] = []
    for model in curves.models():
        width, layers = curves.SHAPES[model.shape]
        parameters = width * (model.vocabulary + 8 * layers * width)
        end, slow = 1.75 - 0.1 * np.log(parameters / 150_000) + random.normal(0.0, 0.05), random.normal(0.0, 0.1)
        for seed in curves.SEEDS:
            for share in (*curves.SHORT, 1.0):
                for rung in (rung for rung in curves.RUNGS if rung <= share):
                    left = (rung**-0.35 - 1) / (0.02**-0.35 - 1)
                    rate_P = end + (1.4 + slow) * left + document_P + noise * random.normal(size=40)
                    bits_P = np.round((rate_P + noise * random.normal()) * byte_P).astype(int)
                    rate = float(bits_P.sum() / byte_P.sum())
                    tokens = [curves.steps_of(each) * curves.BATCH * curves.LENGTH for each in (share, rung)]
                    size = (parameters, parameters, *tokens)
                    points.append(curves.Point(model.name, seed, *size, 1.0, rate, 2**rate, bits_P.tolist()))
    return points, byte_P.tolist()


def test_curves_come_back_from_their_file(modules, tmp_path):
    curves, _ = modules
    points, byte_P = points_of(curves, 0.01)
    curves.write_curves(tmp_path / "curves.csv.gz", points[:40], byte_P)
    assert curves.read_curves(tmp_path / "curves.csv.gz") == (points[:40], byte_P)


def test_a_search_pays_each_step_once_and_a_long_run_begins_with_the_trunk_of_its_short_one(modules):
    curves, replay = modules
    table = replay.Table(*points_of(curves, 0.01))

    def runs(search: Any) -> float:
        return search(replay.Replay(table, np.random.default_rng(0))).runs

    assert runs(replay.race(NoRule(), (), 0)) == pytest.approx(48)
    assert runs(replay.race(NoRule(), (0.02, 0.04), 2)) == pytest.approx(50)
    assert runs(replay.two_phases(0.02, 3, 3)) == pytest.approx(48 * 0.02 + 9 - 3 * 0.6 * 0.02)
    assert runs(replay.random_search(3, 3)) == pytest.approx(9)
    halved = [48, 24, 12, 6, 3, 2, 1]
    steps = np.diff([0, *curves.RUNGS])
    assert runs(replay.halving(2, 0.02, 1)) == pytest.approx(np.dot(halved, steps))


def test_the_whole_grid_has_no_regret_and_keeps_the_front(modules):
    curves, replay = modules
    table = replay.Table(*points_of(curves, 0.0))
    found = replay.race(NoRule(), (), 0)(replay.Replay(table, np.random.default_rng(0)))
    assert table.regret(found.best) == 0.0
    assert table.kept(found.kept) == pytest.approx(1.0)
    assert table.kept([found.best]) < 1.0


def test_the_paired_rule_finds_more_than_two_phases_for_no_more_steps(modules):
    curves, replay = modules
    table = replay.Table(*points_of(curves, 0.01))

    def replayed(search: Any, costs: bool) -> list[Any]:
        return [search(replay.Replay(table, np.random.default_rng(number), costs=costs)) for number in range(8)]

    for costs in (False, True):
        ours, plain = (
            replayed(replay.race(Paired(), (0.02, 0.04), 1), costs),
            replayed(replay.two_phases(0.02, 3, 3), costs),
        )
        assert max(found.runs for found in ours) <= 0.07 * 144
        regrets = [np.mean([table.regret(found.best) for found in each]) for each in (ours, plain)]
        assert regrets[0] <= regrets[1] / 2
    assert np.median([table.kept(found.kept) for found in ours]) >= 0.9
