"""The analysis of a sweep of known truth: it finds the law that made the results, and is the same every time."""

import math
from dataclasses import replace

import numpy as np
import pytest

from penstock.run.records.sweep import SweepFigures, SweptRun
from penstock.sweep.analysis import analyse
from penstock.sweep.documents import Documents
from penstock.sweep.equal_flops import at_equal_flops, slope_of


@pytest.fixture(scope="module")
def found(made):
    return analyse(made.figures, made.documents)


def test_cells_of_a_phase_stand_after_its_whole_tokens(made, found):
    short = {standing.cell: standing for standing in found.standings["short"]}
    assert len(short) == 9  # two of twelve cells were stopped before, and one failed
    assert len(found.standings["final"]) == 3
    for each in found.standings["final"]:
        own = [r.bits_per_byte for r in made.results if (r.cell, r.phase, r.tokens) == (each.cell, "final", 4_000_000)]
        assert each.seeds == 3
        assert each.bits_per_byte == pytest.approx(np.mean(own))
        assert each.low < each.bits_per_byte < each.high


def test_effects_of_an_axis_are_read_where_every_cell_was_measured(found):
    assert found.effects.tokens == 200_000
    share = {level.value: level for level in found.effects.levels if level.axis == "share"}
    assert share["35 %"].bits_per_byte == min(level.bits_per_byte for level in share.values())
    expansion = [level for level in found.effects.levels if level.axis == "glu"]
    assert [level.cells for level in expansion] == [2, 3, 3, 3]
    assert all(level.low < level.bits_per_byte < level.high for level in expansion)


def test_effects_compare_cells_with_the_seeds_that_all_have(made):
    """A cell with a lucky further seed is not better for it."""
    own = [each for each in made.figures.rungs if (each.cell, each.phase) == ("35 %, 2.66", "short")]
    lucky = [replace(each, seed=1, bits_per_byte=0.5) for each in own[:2]]
    figures = replace(made.figures, rungs=[*made.figures.rungs, *lucky])
    effects = analyse(figures, made.documents).effects
    assert effects.levels == analyse(made.figures, made.documents).effects.levels
    assert effects.seeds == (0,)
    assert effects.left_out == ("45 %, 2.0",)


def test_the_same_documents_leave_a_narrow_interval_of_an_effect(found):
    # Documents differ by 0.15 bits per byte, the cells of this law by the same in each document.
    alone = found.standings["short"][0]
    assert max(level.high - level.low for level in found.effects.levels) < 0.1 * (alone.high - alone.low)


def test_fronts_of_a_phase_have_the_cells_that_finished_it(found):
    front = next(each for each in found.cost_fronts if each.phase == "short" and each.objectives[1] == "parameters")
    on = [member for member in front.members if member.on_front]
    for member in front.members:
        beaten = any(
            all(a <= b for a, b in zip(other.values, member.values, strict=True)) and other.values != member.values
            for other in front.members
        )
        assert member.on_front is not beaten
    assert all(member.membership > 0.9 for member in on)
    assert 0 < front.hypervolume < 1
    worst = [max(values) for values in zip(*(member.values for member in front.members), strict=True)]
    assert all(value < limit for value, limit in zip(worst, front.reference, strict=True))


def test_a_time_is_shown_beside_the_phase_after_which_it_was_measured(found):
    assert {front.phase for front in found.cost_fronts if front.objectives[1] == "latency_128"} == {"final"}


def test_a_cost_in_which_no_cells_differ_has_no_front(found):
    assert not [front for front in found.cost_fronts if front.objectives[1] == "active_parameters"]


def test_an_objective_to_maximize_keeps_its_sign(made):
    objectives = {"bits_per_byte": "minimize", "tasks.small.accuracy": "maximize"}
    found = analyse(replace(made.figures, objectives=objectives), made.documents)
    (front,) = found.objective_fronts
    assert all(0 < member.values[1] < 1 for member in front.members)
    assert front.reference[1] < min(member.values[1] for member in front.members)


def test_both_rankings_are_side_by_side_with_the_pairs_that_flip(made, found):
    ranking = next(each for each in found.rankings if each.phase == "short")
    assert ranking.method == "scaled"
    assert [row.tokens_rank for row in ranking.rows] == sorted(row.tokens_rank for row in ranking.rows)
    at_tokens, at_flops = ({row.cell: value(row) for row in ranking.rows} for value in (tokens_of, flops_of))
    assert {
        (a, b) for a in at_tokens for b in at_tokens if at_tokens[a] < at_tokens[b] and at_flops[a] > at_flops[b]
    } == {*ranking.flips}
    cheapest = min(made.figures.cells, key=lambda cell: cell.flops_per_token if cell.cell in at_flops else math.inf)
    assert at_flops[cheapest.cell] == pytest.approx(at_tokens[cheapest.cell])


def tokens_of(row):
    return row.at_tokens


def flops_of(row):
    return row.at_flops


def test_a_scaled_quality_is_the_laws_at_those_tokens():
    def law(offset, tokens):
        return 3 + offset - 0.2 * math.log(tokens)

    slope = slope_of([((100, law(0, 100)), (1000, law(0, 1000)))])
    found = at_equal_flops({"a": [(100, law(0, 100))], "b": [(100, law(0.1, 100))]}, {"a": 2, "b": 3}, slope)
    assert found["b"].tokens == pytest.approx(200 / 3)
    assert found["b"].bits_per_byte == pytest.approx(law(0.1, 200 / 3))


def test_an_interpolated_quality_needs_a_rung_before_it():
    curves = {"a": [(100, 2.0)], "b": [(50, 2.5), (100, 2.2)], "c": [(80, 2.5), (100, 2.3)]}
    found = at_equal_flops(curves, {"a": 10, "b": 15, "c": 15}, None)
    assert found["b"].bits_per_byte == pytest.approx(2.5 - 0.3 * math.log((200 / 3) / 50) / math.log(2))
    assert found["c"].bits_per_byte is None


def test_the_short_phase_is_compared_with_the_final_one(found):
    (compared,) = found.compared
    assert (compared.first, compared.second, compared.agreement.cells) == ("short", "final", 3)
    assert compared.agreement.tau == 1.0


def test_the_same_results_in_another_order_give_the_same_analysis(made, found):
    shuffled = replace(made.figures, rungs=made.figures.rungs[::-1])
    again = analyse(shuffled, made.documents)
    assert again.standings == found.standings
    assert again.cost_fronts == found.cost_fronts
    assert again.rankings == found.rankings


def test_without_documents_there_are_figures_and_no_intervals(made):
    found = analyse(made.figures, Documents())
    assert all(each.low is None for each in found.standings["final"])
    assert all(member.membership is None for front in found.cost_fronts for member in front.members)


def test_a_sweep_of_an_earlier_version_has_its_runs(made):
    runs = [
        SweptRun(bits, tokens=1000 + seed, seconds=1, active_parameters=7, flops=9, cell=cell.cell, seed=seed)
        for cell, bits in zip(made.figures.cells[:2], (1.5, 1.4), strict=True)
        for seed in range(2)
    ]
    found = analyse(SweepFigures("a", made.figures.cells[:2], runs), Documents())
    assert [each.bits_per_byte for each in found.standings["all"]] == [1.5, 1.4]


def test_an_empty_sweep_has_an_empty_analysis():
    found = analyse(SweepFigures("a", [], []), Documents())
    assert (found.curves, found.effects.levels, found.cost_fronts) == ((), (), ())
