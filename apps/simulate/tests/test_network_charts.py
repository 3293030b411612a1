"""What the drawing of a predicted exchange says."""

from __future__ import annotations

from penstock.run.records.simulation import NetworkRow
from penstock.simulate.network_charts import network_chart


def test_each_number_of_gpus_is_annotated_with_its_slowdown() -> None:
    rows = [NetworkRow(gpus, 1e-3, balanced_seconds=8e-4, slowdown=1 + gpus / 100) for gpus in (8, 16)]
    svg = network_chart(rows).wide
    assert "1.08\u00d7" in svg
    assert "1.16\u00d7" in svg
    assert [key.label for key in network_chart(rows).legend] == ["recorded routing, mean", "perfectly balanced"]
