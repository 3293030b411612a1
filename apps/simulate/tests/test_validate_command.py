"""`penstock simulate validate` prints every row and says which bars hold."""

from __future__ import annotations

import json

from penstock.cli.main import run


def test_every_row_is_printed_with_measurement_prediction_error_and_floor(capsys):
    result = run(["simulate", "validate", "--json"])
    assert json.loads(capsys.readouterr().out) == result
    rows = [row for validation in result["validations"] for row in validation["rows"]]
    assert len(rows) == 20 + 40 + 24 + 75
    assert all(abs(row["predicted_seconds"] / row["measured_seconds"] - 1 - row["error"]) < 1e-12 for row in rows)
    assert all(bar["met"] for bar in result["bars"])
    assert len(result["bars"]) == 7


def test_the_table_for_people_ends_with_the_bars(capsys):
    run(["simulate", "validate"])
    text = capsys.readouterr().out
    assert "dispatch, 256 GPUs, 128 tokens" in text
    assert text.rstrip().splitlines()[-1].startswith("NCCL all-to-all, one node, NVLink")
    assert text.rstrip().endswith("met")
