"""What sweeps of earlier versions kept is read, or counted again."""

import json

from penstock.run.records.sweep import Balance, CellShape
from penstock.sweep.files import SweepFiles, TrialFiles

RUN = {"bits_per_byte": 1.5, "tokens": 8, "seconds": 0.5, "active_parameters": 7, "flops": 9, "max_violation": 0.25}


def test_a_shape_without_flops_is_counted_again(tmp_path):
    """Its active parameters counted a shared one for each use."""
    files, path = SweepFiles(tmp_path), tmp_path / "cells" / "key" / "shape.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"parameters": 9, "active_parameters": 12, "embedding_share": 0.5, "bytes": {}}))
    assert files.shape("key") is None
    files.write_shape("key", CellShape(9, 9, 0.5, {}, flops_per_token=54))
    assert files.shape("key") == CellShape(9, 9, 0.5, {}, flops_per_token=54)


def test_the_load_of_experts_is_read_from_the_run_where_an_earlier_version_kept_it(tmp_path):
    trial, run = TrialFiles(tmp_path / "cells" / "key" / "all-seed0-x"), tmp_path / "run"
    run.mkdir()
    trial.write_run(run)
    assert trial.balance(tmp_path) is None
    (run / "sweep.json").write_text(json.dumps(RUN))
    assert trial.balance(tmp_path) == Balance(max_violation=0.25)
    trial.write_balance(Balance(0.5, 0.75, 1.0))
    assert trial.balance(tmp_path) == Balance(0.5, 0.75, 1.0)
