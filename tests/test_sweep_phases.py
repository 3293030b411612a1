"""`penstock sweep` from rung to rung: what is stopped, what goes on, and what does not depend on who was first."""

from __future__ import annotations

import json
import random
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from penstock.cli.main import run
from penstock.hooks.contracts.launching import Job, Outcome
from penstock.hooks.contracts.stopping import Standing
from penstock.hooks.problems import ProblemError
from penstock.hooks.registry import Registry
from penstock.run.records.record import as_json
from penstock.run.records.sweep import CellShape, MeasuredRun, SweepFigures
from penstock.sweep.controller import Controller
from penstock.sweep.figures import best_of, figures_of, one_model
from penstock.sweep.files import SweepFiles
from penstock.sweep.grid import load_sweep
from penstock.sweep.inline import Inline
from penstock.sweep.phases import phases_of, require_time_for
from penstock.sweep.rules.none import NoRule
from penstock.sweep.rules.paired import Paired
from penstock.sweep.shape import costs_of, shapes_of
from penstock.sweep.tables import reproduce_lines

SWEEPS = Path(__file__).parents[1] / "configs" / "sweeps"
SWEEP = """\
name: phased
config: CONFIG
set: {train.tokens: 2048, train.evaluate_every: null, train.observers: [], train.trackers: []}
axes:
  rate:
    low: {train.optimizer: {use: adamw, lr: 0.0001}}
    middle: {train.optimizer: {use: adamw, lr: 0.002}}
    high: {train.optimizer: {use: adamw, lr: 0.02}}
seeds: [0, 1]
phases: {short: {tokens: 1024}, finalists: 1}
"""


class WorstStops:
    """Stops the worst cell at every rung."""

    def stopped(self, rung: int, standings: Sequence[Standing]) -> Mapping[str, str]:
        worst = max(standings, key=lambda standing: (standing.bits_per_byte, standing.cell))
        return {worst.cell: "the worst"} if len(standings) > 1 else {}


class Shuffled(Inline):
    """Runs jobs in another order each time."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def run(self, function: str, jobs: Iterable[Job]) -> Iterator[Outcome]:
        mixed = list(jobs)
        self._random.shuffle(mixed)
        yield from super().run(function, mixed)


@pytest.fixture
def sweep_file(workplace: Path, tmp_path: Path) -> Path:
    path = tmp_path / "phased.yaml"
    path.write_text(SWEEP.replace("CONFIG", str(workplace / "configs" / "quickstart.yaml")))
    return path


def walk(path: Path, launcher: Inline | None = None, folder: str = "runs", **options: Any) -> SweepFigures:
    """A whole walk with a rule of this file."""
    registry = Registry.discover()
    sweep = load_sweep(path, registry)
    runs = path.parent / folder
    controller = Controller(sweep, runs, registry, launcher or Inline(), **{"rule": WorstStops(), **options})
    shapes: dict[str, CellShape] = shapes_of(sweep, SweepFiles(runs / sweep.settings.name))
    controller.run()
    return figures_of(controller, shapes)


def states(figures: SweepFigures) -> dict[str, str]:
    return {cell.cell: cell.state for cell in figures.cells}


def what_was_found(figures: SweepFigures) -> Any:
    """Everything but measured times and the places of runs."""
    found = as_json(figures)
    for each in [*found["cells"], *found["runs"], *found["rungs"]]:
        for name in ("seconds", "nanoseconds_per_token", "picoseconds_per_flop", "run"):
            each.pop(name, None)
    found["spent"].pop("hours")
    return found


def test_bad_cells_stop_at_rungs_and_the_best_goes_to_the_end_with_every_seed(sweep_file):
    figures = walk(sweep_file)
    assert sorted(states(figures).values()) == ["finished", "stopped", "stopped"]
    assert [(each.phase, each.tokens, each.rule) for each in figures.decisions] == [
        ("short", 256, "paired"),
        ("short", 512, "paired"),
        ("short", 1024, "finalists"),
    ]
    first, second, _ = figures.decisions
    assert list(first.stopped) == ["low"]  # the learning rate that hardly learns
    assert len(second.went_on) == 1
    (best,) = [cell for cell in figures.cells if cell.state == "finished"]
    assert (best.seeds, best.phase, best.tokens) == (2, "final", 2048)
    assert [(run.cell, run.seed, run.tokens) for run in figures.runs] == [(best.cell, seed, 2048) for seed in (0, 1)]
    stopped = next(cell for cell in figures.cells if cell.cell == "low")
    assert (stopped.phase, stopped.tokens, stopped.seeds) == ("short", 256, 1)
    assert stopped.reason == "after 256 tokens: the worst"
    (line,) = reproduce_lines(figures, stopped)
    again = run([*shlex.split(line)[1:], "--runs", str(sweep_file.parent / "again"), "--json"])
    (place,) = (sweep_file.parent / "runs" / "phased").glob(f"cells/{stopped.key}/short-*/run.json")
    trained = sweep_file.parent / "runs" / "phased" / json.loads(place.read_text())["run"]
    weights = "checkpoints/step-00000002/model.safetensors"
    assert (Path(again["run_dir"]) / weights).read_bytes() == (trained / weights).read_bytes()
    assert figures.spent is not None
    assert (figures.spent.runs, figures.spent.tokens) == (3 + 2, 256 + 512 + 1024 + 2 * 2048)


def test_a_sweep_with_phases_has_the_paired_rule_which_reads_the_costs_of_its_objectives(sweep_file):
    objectives = "{bits_per_byte: minimize, parameters: minimize, embedding_share: maximize, latency_128: minimize}"
    sweep_file.write_text(sweep_file.read_text() + f"objectives: {objectives}\n")
    sweep = load_sweep(sweep_file, Registry.discover())
    assert sweep.settings.stop is not None
    assert isinstance(sweep.settings.stop.build(), Paired)
    shapes = {cell.name: CellShape(100 + number, 80, 0.25, {}) for number, cell in enumerate(sweep.cells)}
    assert costs_of(sweep, shapes) == {"low": (100, -0.25), "middle": (101, -0.25), "high": (102, -0.25)}
    sweep_file.write_text(sweep_file.read_text() + "stop: none\n")
    assert load_sweep(sweep_file, Registry.discover()).code != sweep.code  # another rule may decide otherwise


def test_what_is_decided_does_not_depend_on_the_order_of_runs(sweep_file):
    first, second = (walk(sweep_file, Shuffled(seed), f"runs-{seed}") for seed in (1, 2))
    assert what_was_found(first) == what_was_found(second)


def test_a_second_walk_trains_nothing_and_decides_the_same(sweep_file):
    first = walk(sweep_file)
    files = {path: path.stat().st_mtime_ns for path in (sweep_file.parent / "runs").rglob("*.json")}

    class Nobody(Inline):
        def run(self, function: str, jobs: Iterable[Job]) -> Iterator[Outcome]:
            assert not list(jobs)
            yield from ()

    assert what_was_found(walk(sweep_file, Nobody())) == what_was_found(first)
    assert {path: path.stat().st_mtime_ns for path in files} == files


def test_only_an_added_cell_is_trained_and_a_cell_that_it_saves_goes_on(sweep_file, capsys):
    before = walk(sweep_file)
    stopped_first = next(iter(before.decisions[0].stopped))
    sweep_file.write_text(
        sweep_file.read_text().replace("seeds: ", "    none: {train.optimizer: {use: adamw, lr: 1.0e-7}}\nseeds: ", 1)
    )
    begun = {each.name for each in (sweep_file.parent / "runs" / "phased").iterdir()}
    after = walk(sweep_file)
    assert list(after.decisions[0].stopped) == ["none"]
    assert stopped_first in after.decisions[0].went_on
    assert f"{stopped_first} was stopped after 256 tokens, and goes on now" in capsys.readouterr().err
    new = {each.name for each in (sweep_file.parent / "runs" / "phased").iterdir()} - begun
    assert len([name for name in new if name.startswith("2")]) == 1  # the added cell's; the other goes on in its place


def test_a_run_that_pauses_at_rungs_has_the_bits_of_one_that_does_not(sweep_file):
    paused = walk(sweep_file, rule=None)
    sweep_file.write_text(sweep_file.read_text().replace("finalists: 1}", "finalists: 1}\nrungs: []"))
    whole = walk(sweep_file, folder="whole", rule=None)

    def ends(figures: SweepFigures) -> list[Any]:
        return [
            (each.cell, each.bits_per_byte, each.perplexity)
            for each in figures.rungs
            if (each.phase, each.tokens) == ("short", 1024)
        ]

    assert len([each for each in paused.rungs if each.phase == "short"]) == 9
    assert ends(paused) == ends(whole)


def test_the_final_phase_continues_the_trunk_of_the_short_one_to_equal_bits(sweep_file):
    text = sweep_file.read_text()
    wsd = "train.schedule: {use: wsd, warmup_tokens: 128, decay_tokens: 256}"
    text = text.replace("train.tokens: 2048", f"train.tokens: 2048, {wsd}").replace("finalists: 1}", "finalists: 3}")
    sweep_file.write_text(text)
    own = walk(sweep_file, folder="own", rule=None)
    sweep_file.write_text(text.replace("tokens: 1024}", "tokens: 1024, schedule: trunk}"))
    trunk = walk(sweep_file, folder="trunk", rule=None)
    assert [run.bits_per_byte for run in trunk.runs] == [run.bits_per_byte for run in own.runs]
    forked = [json.loads(path.read_text())["step"] for path in (sweep_file.parent / "trunk").rglob("fork.json")]
    assert forked == [6, 6, 6]  # of seed 0: 1,024 tokens less 256 of decay, in steps of 128


def test_cells_with_one_model_share_the_best_of_their_measured_times(sweep_file):
    """Two measurements of one model differ by the other work of the machine alone."""
    slow, fast = (MeasuredRun(ms / 1e3, ms / 250, 1e3 / ms, 10**8 + ms, "m") for ms in (8, 3))
    assert best_of([slow, fast]) == {
        "latency_128": 0.003,
        "latency_512": 0.012,
        "tokens_per_second": 1e3 / 3,
        "peak_memory": 10**8 + 3,
    }
    deeper = "    deep: {train.optimizer: {use: adamw, lr: 0.02}, model.num_hidden_layers: 1}\nseeds: "
    sweep_file.write_text(sweep_file.read_text().replace("seeds: ", deeper, 1))
    low, middle, high, deep = load_sweep(sweep_file, Registry.discover()).cells
    assert one_model(low, middle)
    assert one_model(middle, high)
    assert not one_model(high, deep)


@pytest.mark.parametrize(
    ("caps", "expected", "reason"),
    [
        ("{runs: 4}", {"finished": 0, "capped": 1}, "4 runs"),
        ("{tokens: 2000}", {"finished": 0, "capped": 1}, "budget of 2,000"),
        ("{tokens: 100}", {"finished": 0, "capped": 3}, "budget of 100"),
        ("{hours: 1.0e-9}", {"finished": 0, "capped": 3}, "hours"),
    ],
)
def test_what_a_budget_leaves_out_is_capped_with_the_reason(sweep_file, caps, expected, reason):
    sweep_file.write_text(sweep_file.read_text() + f"budget: {caps}\n")
    figures = walk(sweep_file)
    found = list(states(figures).values())
    assert {name: found.count(name) for name in expected} == expected
    assert all(reason in cell.reason for cell in figures.cells if cell.state == "capped")


def test_the_best_cell_is_confirmed_with_its_next_seed(sweep_file):
    text = sweep_file.read_text().replace("finalists: 1", "finalists: 2") + "confirm: 2\n"
    sweep_file.write_text(text)
    figures = walk(sweep_file, rule=NoRule())
    first = {run.cell: run.bits_per_byte for run in figures.runs if run.seed == 0}
    confirms = [each.went_on for each in figures.decisions if each.rule == "confirm"]
    assert len(first) == 2
    assert confirms == [[cell] for cell in sorted(first, key=lambda cell: first[cell])]  # each has two seeds, no third
    assert {each.seed for each in figures.decisions if each.rule == "confirm"} == {1}
    assert [run.seed for run in figures.runs].count(1) == 2
    assert what_was_found(walk(sweep_file, Shuffled(0), rule=NoRule())) == what_was_found(figures)

    sweep_file.write_text(text.replace("confirm: 2", "confirm: 1\nbudget: {runs: 5}"))
    (best,) = confirms[0]
    capped = walk(sweep_file, folder="capped", rule=NoRule())
    assert {cell.cell: cell.seeds for cell in capped.cells if cell.state == "finished"} == dict.fromkeys(first, 1)
    assert [(each.cell, each.seed) for each in capped.missing] == [(best, 1)]


def test_a_sweep_without_phases_is_confirmed_too_and_its_curves_have_both_seeds(sweep_file):
    text = sweep_file.read_text().replace("phases: {short: {tokens: 1024}, finalists: 1}", "rungs: [512]\nconfirm: 1")
    sweep_file.write_text(text)
    figures = walk(sweep_file)
    (best,) = [each.went_on[0] for each in figures.decisions if each.rule == "confirm"]
    cell = next(cell for cell in figures.cells if cell.cell == best)
    assert (cell.seeds, cell.tokens, cell.state) == (2, 2048, "finished")
    assert [(each.seed, each.tokens) for each in figures.rungs if each.cell == best] == [
        (seed, tokens) for seed in (0, 1) for tokens in (512, 2048)
    ]
    assert [cell.state for cell in figures.cells].count("finished") == 2


@pytest.mark.parametrize(
    ("change", "code", "named"),
    [
        (("seeds: [0, 1]", "seeds: [0]\nconfirm: 1"), "bad-value", "the sweep has one"),
        (("lr: 0.02}}", "lr: 0.002}}"), "equal-cells", "cells 'middle' and 'high' are equal"),
        (("seeds: [0, 1]", "seeds: [0, 1]\nobjectives: [bits_per_byte]"), "bad-value", "has no direction"),
        (("seeds: [0, 1]", "seeds: [0, 1]\nobjectives: {bits: minimize}"), "bad-value", "no figure of a cell"),
        (("finalists: 1}", "finalists: 1}\nrungs: [0.5, 2000]"), "bad-value", "before the end of the phase"),
        (("{tokens: 1024}", "{tokens: 1024, seeds: 3}"), "bad-value", "3 seeds"),
        (("{tokens: 1024}", "{tokens: 1024, schedule: trunk}"), "no-trunk", "warmup_tokens"),
        (("0.02}}", "0.02}, data.tokenizer.vocab_size: 300}\nstop: perplexity"), "unlike-tokenizers", "'low' and"),
        (("seeds: [0, 1]", "seeds: [0, 1]\nstop: perplexity"), "bad-value", "the rule judges over 1,000,000 tokens"),
        (("seeds: [0, 1]", "seeds: [0, 1]\nstop: worst"), "unknown-component", "stop-rule 'worst'"),
        (("seeds: [0, 1]", "seeds: [0, 1]\nobjectives: {bytes.fp3: minimize}"), "bad-value", "no figure of this name"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_phases_is_said_before_any_work(sweep_file, change, code, named):
    sweep_file.write_text(sweep_file.read_text().replace(*change))
    with pytest.raises(ProblemError) as caught:
        run(["sweep", str(sweep_file), "--runs", str(sweep_file.parent / "runs")])
    assert code in {problem.code for problem in caught.value.problems}
    assert named in str(caught.value)
    assert not (sweep_file.parent / "runs").exists()


def test_a_rule_that_has_the_tokens_it_judges_over_is_taken(sweep_file):
    change = "seeds: [0, 1]", "seeds: [0, 1]\nstop: {use: perplexity, tokens: 256}"
    sweep_file.write_text(sweep_file.read_text().replace(*change))
    for path in (sweep_file, SWEEPS / "allocation-10m.yaml"):
        loaded = load_sweep(path, Registry.discover())
        assert loaded.settings.stop is not None
        require_time_for(loaded.settings.stop.build(), phases_of(loaded), loaded)


class Deadly(Inline):
    """Loses the job of a cell, so many times."""

    def __init__(self, times: int) -> None:
        self.times = times

    def run(self, function: str, jobs: Iterable[Job]) -> Iterator[Outcome]:
        for job in jobs:
            if job.argument["cell"] == "middle" and self.times:
                self.times -= 1
                yield Outcome(job.name, "lost", None, "the worker was killed by SIGKILL")
            else:
                yield from super().run(function, [job])


def test_a_run_whose_worker_dies_is_tried_once_more_and_then_its_cell_has_failed(sweep_file, capsys):
    once = walk(sweep_file, Deadly(1))
    assert "middle; short, seed 0: the worker was killed by SIGKILL; it is tried again" in capsys.readouterr().err
    assert "failed" not in states(once).values()
    twice = walk(sweep_file, Deadly(2), folder="twice")
    (failed,) = [cell for cell in twice.cells if cell.state == "failed"]
    assert (failed.cell, failed.reason) == ("middle", "the worker was killed by SIGKILL")
    assert sorted(states(twice).values()) == ["failed", "finished", "stopped"]
    assert walk(sweep_file, folder="twice").cells == twice.cells  # until --retry-failed


def test_a_cell_that_diverges_fails_and_the_others_go_on(sweep_file):
    sweep_file.write_text(sweep_file.read_text().replace("lr: 0.02}", "lr: 1.0e+30}"))
    figures = walk(sweep_file)
    failed = next(cell for cell in figures.cells if cell.cell == "high")
    assert failed.state == "failed"
    assert "became nan" in failed.reason or "became inf" in failed.reason
    assert sorted(states(figures).values()) == ["failed", "finished", "stopped"]
    assert walk(sweep_file, Shuffled(0)).cells == figures.cells  # and fails again without being trained
