"""The sweep file: a setting that nothing reads, or that does not mean what it seems to, is refused with its line."""

import pytest

from penstock.hooks.config import parse_config, validate
from penstock.hooks.problems import ProblemError
from penstock.hooks.registry import Registry
from penstock.sweep.config import SweepConfig

SWEEP = """\
name: small
config: quickstart.yaml
axes:
  rate:
    low: {train.optimizer: {use: adamw, lr: 0.001}}
    high: {train.optimizer: {use: adamw, lr: 0.01}}
"""


def read(text: str) -> SweepConfig:
    return validate(SweepConfig, parse_config(text, "sweep.yaml"), Registry.discover())


def test_a_sweep_with_phases_has_workers_and_the_paired_rule_even_if_all_of_them_are_defaults():
    for phases in ("{}", "{finalists: 1}"):
        settings = read(f"{SWEEP}phases: {phases}\n")
        assert settings.launcher is not None
        assert settings.launcher.entry.component.name == "local"
        assert settings.stop is not None
        assert settings.stop.entry.component.name == "paired"
    assert read(SWEEP).launcher is None
    assert read(f"{SWEEP}phases: {{}}\nrungs: []\n").stop is None  # a rule decides at rungs


@pytest.mark.parametrize(
    ("added", "where", "what"),
    [
        ("phases: {short: {tokens: 1.0}}", "7:18: phases.short.tokens", "neither a share"),
        ("phases: {short: {tokens: 1}}", "7:18: phases.short.tokens", "neither a share"),
        ("rungs: [0.5, 1.5]", "7:14: rungs.1", "neither a share"),
        ("phases: {finalists: 3}", "phases.finalists", "has 2 cells"),
        ("phases: {short: {seeds: 4}}", "phases.short.seeds", "the sweep has 3"),
        ("rate: {seeds: 2}", "rate.seeds", "nothing reads it"),
        ("rate: {use: width, steps: 50}", "rate.steps", "nothing reads it"),
        ("stop: paired", "7:1: stop", "the sweep has none"),
        ("phases: {}\nrungs: []\nstop: halving", "9:1: stop", "the sweep has none"),
        ("phases: {}\nflops_tolerance: 0.5", "flops_tolerance", "nothing reads it"),
        ("set: {seed: 5}", "7:7: set.seed", "replaces it"),
        ("set: {name: other}", "set.name", "replaces it"),
        ("heldout_bytes: 1", "heldout_bytes", "greater than or equal to 1024"),
        ("objectives: {}", "objectives", "must not be empty"),
        ("objectives: {tasks.heldout.loss: minimize}", "objectives.tasks.heldout.loss", "no `tasks`"),
        ("objectives: {bits_per_byte: maximize}", "objectives.bits_per_byte", "better if it is less"),
        ("objectives: {tokens_per_second: minimize}", "objectives.tokens_per_second", "better if it is more"),
        ("confirm: 5", "7:1: confirm", "2 cells with 2 further seeds make 4 further runs"),
        ("confirm: 3\nphases: {finalists: 1}", "7:1: confirm", "make 2 further runs"),
        ("seeds: [0, 0]", "7:1: seeds", "only once"),
        ("seeds: [0, -1]", "7:12: seeds.1", "greater than or equal to 0"),
        ("baseline: middle", "7:1: baseline", "the cells are low; high"),
    ],
)
def test_a_setting_that_does_nothing_is_refused_with_its_place(added, where, what):
    with pytest.raises(ProblemError) as caught:
        read(f"{SWEEP}{added}\n")
    (problem,) = caught.value.problems
    assert problem.where.startswith("sweep.yaml:")
    assert where in problem.where
    assert what in problem.what


@pytest.mark.parametrize("name", ['""', '" "', '"low\\nhigh"', '"a\\tb"'])
def test_a_name_that_no_table_can_show_is_refused(name):
    with pytest.raises(ProblemError, match="one line of a table"):
        read(SWEEP.replace("low:", f"{name}:"))
    with pytest.raises(ProblemError, match="one line of a table"):
        read(SWEEP.replace("rate:", f"{name}:"))


def test_cells_of_one_name_are_refused_where_the_axes_are():
    text = 'name: small\nconfig: q.yaml\naxes:\n  one: {"a, b": {}, a: {}}\n  two: {c: {}, "b, c": {}}\n'
    with pytest.raises(ProblemError, match=r"sweep\.yaml:3:1: axes: two cells are named 'a, b, c'"):
        read(text)


def test_a_sweep_does_not_train_among_prepared_data():
    with pytest.raises(ProblemError, match="folder of prepared data"):
        read(SWEEP.replace("name: small", "name: data"))
