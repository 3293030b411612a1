"""A plan on top of a run: merged settings, lines of the plan in problems, rows that are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock.compress.plan import Plan, load_plan
from penstock.hooks.problems import ProblemError
from penstock.hooks.registry import Registry
from penstock.run.config import load_run_config
from penstock.run.directory import RunDirectory

CONFIG = """\
name: small
data:
  corpus: {use: text, paths: [corpus.txt]}
  sequence_length: 32
model:
  use: glm-moe
  preset: quickstart
  router: {use: sigmoid-topk, k: 2}
  sharing: [{use: tied-embeddings}]
  quantizer: ternary
train: {tokens: 1000}
"""
STEPS = """\
name: two
steps:
  - name: bf16
    train: false
    model: {quantizer: {weights: bf16, embedding: bf16, head: bf16}}
  - name: ternary
    model:
      sharing: [{use: tied-embeddings}]
      quantizer: {weights: {use: ternary, group: 128}}
  - name: head
    train: false
    model: {quantizer: {embedding: int8, head: int8}}
"""


@pytest.fixture(scope="module")
def registry() -> Registry:
    return Registry.discover()


@pytest.fixture
def run(tmp_path: Path, registry: Registry) -> RunDirectory:
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG)
    config, document = load_run_config(path, (), registry)
    return RunDirectory.create(tmp_path / "runs", config, document, (), registry)


def load(run: RunDirectory, registry: Registry, text: str, *overrides: str) -> Plan:
    path = run.path.parent / "plan.yaml"
    path.write_text(text)
    return load_plan(path, overrides, run, registry)


def formats(plan: Plan, row: str) -> dict[str, str]:
    quantizer = plan.row(row).config.model.settings.quantizer
    return {role: choice.entry.component.name for role, choice in quantizer.by_role().items()}


def test_the_first_row_is_in_full_precision_and_shares_nothing_whatever_the_run_did(run, registry):
    settings = load(run, registry, STEPS).row("fp32").config.model.settings
    assert (settings.quantizer, settings.sharing) == (None, [])
    assert settings.num_hidden_layers == 3


def test_steps_are_cumulative(run, registry):
    plan = load(run, registry, STEPS)
    assert formats(plan, "bf16") == dict.fromkeys(("matrix", "expert", "embedding", "head"), "bf16")
    assert formats(plan, "ternary") == {"matrix": "ternary", "expert": "ternary", "embedding": "bf16", "head": "bf16"}
    assert formats(plan, "head") == {"matrix": "ternary", "expert": "ternary", "embedding": "int8", "head": "int8"}
    assert [len(row.config.model.settings.sharing) for row in plan.rows] == [0, 0, 1, 1]


def test_components_of_a_list_are_added_or_take_the_place_of_the_one_of_their_name(run, registry):
    step = "  - name: {}\n    model: {{sharing: [{{use: tied-gains, interval: {}}}]}}\n"
    plan = load(run, registry, STEPS + step.format("gains", 2) + step.format("other gains", 3))
    names = [choice.entry.component.name for choice in plan.row("gains").config.model.settings.sharing]
    assert names == ["tied-embeddings", "tied-gains"]
    intervals = [plan.row(name).config.model.settings.sharing[1].settings.interval for name in ("gains", "other gains")]
    assert intervals == [2, 3]
    with pytest.raises(ProblemError, match=r"plan\.yaml:14:"):
        load(run, registry, STEPS + step.format("gains", 1))


def test_a_row_that_is_not_trained_has_the_weights_of_the_last_one_that_is(run, registry):
    assert [row.weights for row in load(run, registry, STEPS).rows] == ["fp32", "fp32", "ternary", "ternary"]


def test_all_plans_of_a_run_train_under_one_name_that_is_not_the_runs(run, registry):
    names = {row.config.name for row in load(run, registry, STEPS).rows}
    assert names == {"small-compress"}
    config, _ = load(run, registry, STEPS).row("ternary").seeded(3, registry)
    assert config.seed == 3
    assert config.data.seed == 0  # of all seeds, so that they share their text


def test_overrides_change_the_plan_and_its_hash(run, registry):
    plan = load(run, registry, STEPS)
    changed = load(run, registry, STEPS, "steps.1.model.quantizer.weights.group=64")
    assert changed.row("head").config.model.settings.quantizer.weights.settings.group == 64
    assert plan.hash != changed.hash
    assert plan.hash == load(run, registry, STEPS, "name=other").hash


@pytest.mark.parametrize(
    ("change", "line", "said"),
    [
        (("group: 128", "group: 100"), "9:", "group"),
        (("group: 128", "grop: 128"), "9:", "did you mean 'group'"),
        (("embedding: int8, head: int8", "embedding: int9"), "12:", "int9"),
        (("sharing: [{use: tied-embeddings}]", "sharing: [{use: tied}]"), "8:", "tied-embeddings"),
        (("name: head", "name: bf16"), "10:", "exists already"),
        (("name: head", "name: fp32"), "10:", "exists already"),
        (("name: ternary\n", "name: ternary\n    train: false\n"), "9:", "only `quantizer` may change"),
        (("{quantizer: {embedding: int8, head: int8}}", "{use: hf}"), "12:", "not the architecture"),
        (("{embedding: int8, head: int8}", "{embedding: bf16}"), "10:", "changes nothing"),
        (("model: {quantizer: {embedding: int8, head: int8}}", "export: {compres: lzma}"), "12:", "compres"),
        (("train: false\n    model: {quantizer: {e", "train: true\n    export: {quantizer: {e"), "11:", "no training"),
        (("{use: ternary, group: 128}", "{use: ternary, warmup: {tokens: 2000}}"), "9:", "reach their format after"),
        (("steps:", "step:"), "2:", "did you mean 'steps'"),
    ],
)
def test_what_is_wrong_has_its_line_in_the_plan(run, registry, change, line, said):
    before, after = change
    assert before in STEPS
    with pytest.raises(ProblemError) as caught:
        load(run, registry, STEPS.replace(before, after, 1))
    assert caught.value.exit_code == 2
    told = [str(problem) for problem in caught.value.problems]
    assert any(f"plan.yaml:{line}" in each and said in each for each in told), told


def test_a_problem_of_a_step_is_told_once_though_later_rows_have_it_too(run, registry):
    with pytest.raises(ProblemError) as caught:
        load(run, registry, STEPS.replace("group: 128", "group: 100"))
    assert len(caught.value.problems) == 1
