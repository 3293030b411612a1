"""What the drawing of a predicted exchange says."""

from __future__ import annotations

from penstock.run.records.simulation import NetworkRow, Simulation, StepSeconds
from penstock.simulate.network_charts import network_chart, placement_chart, steps_caption, with_tail
from penstock.simulate.network_page import _best


def test_each_number_of_gpus_is_annotated_with_its_slowdown() -> None:
    rows = [NetworkRow(gpus, 1e-3, balanced_seconds=8e-4, slowdown=1 + gpus / 100) for gpus in (8, 16)]
    svg = network_chart(rows).wide
    assert "1.08\u00d7" in svg
    assert "1.16\u00d7" in svg
    assert [key.label for key in network_chart(rows).legend] == ["recorded routing, mean", "perfectly balanced"]


def test_a_percentile_of_an_unknown_number_of_exchanges_is_not_shown() -> None:
    earlier = NetworkRow(8, 1e-3, p99_seconds=2e-3, max_seconds=3e-3, step_quantiles=[1e-3] * 101)
    assert earlier.p99 is None
    assert with_tail([earlier]) == []
    assert "up to the longest" in [key.label for key in network_chart([earlier]).legend]


def test_a_few_steps_have_a_longest_but_no_hundredth() -> None:
    def said(step: StepSeconds) -> str:
        return steps_caption(NetworkRow(8, 1e-3, step_seconds=step)).replace("\u00a0", " ")

    few = said(StepSeconds(0.002, 0.002, None, 0.004, 6))
    assert few == "With 8 GPUs the exchanges of the median step take 2.00 ms and the longest of 6 takes 4.00 ms."
    assert "one step in a hundred takes 3.00 ms or more" in said(StepSeconds(0.002, 0.002, 0.003, 0.004, 400))


def test_placements_that_are_equally_slow_share_a_line_and_the_verdict() -> None:
    def placed(name: str, *slowdowns: float) -> Simulation:
        rows = [NetworkRow(8 * 2**index, 1e-3, slowdown=each) for index, each in enumerate(slowdowns)]
        return Simulation(placement=name, rows=rows)

    placements = [placed("a", 2.0, 1.5), placed("b", 3.0, 2.5), placed("c", 2.0, 1.5)]
    assert [key.label for key in placement_chart(placements).legend] == ["a and c", "b"]
    assert _best(placements).startswith("With 16 GPUs a and c are closest to even load, 1.50")
