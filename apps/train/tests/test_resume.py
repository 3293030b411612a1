"""Which run is continued, and what a config may change on the way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import pytest

from penstock.hooks import Component, Registry
from penstock.hooks.config import OnResume, Schema, dump_config, parse_config
from penstock.hooks.discovery import Loaded, Origin
from penstock.hooks.problems import ProblemError
from penstock.run.config import RunConfig, load_run_config
from penstock.run.directory import RunDirectory
from penstock.run.records.training import Status
from penstock.train.resume import check_resume, find_run

TEXT = """\
name: toy
data: {corpus: {use: text, paths: [nowhere]}}
model: {use: glm-moe, preset: quickstart, router: {use: sigmoid-topk, k: 2}}
train: {tokens: 100}
"""


class Wheel(Schema):
    """A section of an app that training knows nothing of."""

    speed: float = 1.0
    """Turns a second."""
    blades: Annotated[int, OnResume.FIXED] = 3
    """What the run is of."""


FREE = [
    "train.micro_batch_size=4",
    "train.checkpoint_every=7",
    "train.keep_checkpoints=7",
    "train.evaluate_every=7",
    "train.evaluate_tokens=7",
    "train.device=cpu",
    "train.trackers=[]",
    "train.observers=[]",
    "wheel.speed=2",
]
FIXED = [
    "name=other",
    "seed=1",
    "train.batch_size=8",
    "data.heldout_share=0.2",
    "train.optimizer={use: adamw}",
    "wheel.blades=4",
]
DRIFT = ["train.tokens=200", "train.gradient_clip=2", "train.optimizer={use: muon, lr: 0.1}", "model.router.k=3"]


@pytest.fixture(scope="module")
def registry() -> Registry:
    wheel = Component("section", "wheel", f"{__name__}:Wheel", "A wheel", config=f"{__name__}:Wheel")
    return Registry([*Registry.discover().plugins, Loaded(Origin("acme", "1", "acme"), (wheel,))])


@pytest.fixture
def load(registry, tmp_path):
    (tmp_path / "run.yaml").write_text(TEXT)
    return lambda *overrides: load_run_config(tmp_path / "run.yaml", overrides, registry)


@pytest.fixture
def make(load, registry, tmp_path):
    def create(*overrides: str) -> RunDirectory:
        config, document = load(*overrides)
        return RunDirectory.create(tmp_path / "runs", config, document, overrides, registry)

    return create


@pytest.fixture
def find(load, tmp_path):
    def found(*overrides: str, drift: bool = False) -> Path | None:
        run = find_run(tmp_path / "runs", load(*overrides)[0], "auto", allow_config_drift=drift)
        return None if run is None else run.path

    return found


def check(run: RunDirectory, config: RunConfig, *, drift: bool = False, plugins: bool = False):
    return check_resume(run, config, allow_config_drift=drift, allow_plugin_drift=plugins)


def test_auto_is_the_newest_unfinished_run_that_the_config_may_continue(make, find):
    first, second = make(), make(*FREE)
    make("seed=1")
    drifted = make(*DRIFT)
    assert find() == find(*FREE) == second.path
    assert find(drift=True) == drifted.path
    second.write_status(Status("finished"))
    assert find() == first.path
    assert find("seed=2") is None


def test_what_a_killed_process_began_to_create_is_no_run(make, find):
    run = make()
    (run.path.parent / ".0123abcd.1").mkdir()
    (run.path.parent / ".0123abcd.1" / "config.resolved.yaml").write_text("")
    assert find() == run.path


def test_a_run_whose_config_cannot_be_read_is_passed_over_and_said(make, find, caplog):
    first, second = make(), make()
    (second.path / "config.resolved.yaml").write_text("train: [")
    assert find() == first.path
    assert f"skipping {second.path}" in caplog.text


@pytest.mark.parametrize("override", FREE)
def test_a_free_setting_changes_as_it_likes(make, load, override):
    changed = check(make(), load(override)[0]).changes
    assert changed
    assert all(change.path.startswith(override.split("=")[0]) for change in changed)


def without(run, *path):
    """Takes a setting out of the run's config, as if it had been written before there was one."""
    file = run.path / "config.resolved.yaml"
    document = parse_config(file.read_text()).value
    holder: Any = document
    for name in path[:-1]:
        holder = holder[name]
    del holder[path[-1]]
    file.write_text(dump_config(document))


@pytest.mark.parametrize("field", ["weight_decay", "role_lr"])
def test_a_setting_that_is_newer_than_the_run_stands_at_its_default(make, load, field):
    run = make()
    without(run, "train", "optimizer", field)
    assert check(run, load()[0]).changes == []


def test_a_run_whose_fused_tensors_were_one_matrix_goes_on_so_or_the_change_is_named(make, load):
    run = make()
    without(run, "train", "optimizer", "split_fused")
    assert check(run, load("train.optimizer={use: muon, split_fused: false}")[0]).changes == []
    with pytest.raises(ProblemError, match="split_fused: was False, is True"):
        check(run, load()[0])
    other = make("train.optimizer={use: adamw}")
    assert check(other, load("train.optimizer={use: adamw}")[0]).changes == []


def test_a_setting_that_is_newer_than_the_run_and_is_used_is_a_change(make, load):
    run = make()
    without(run, "train", "optimizer", "weight_decay")
    with pytest.raises(ProblemError, match=r"weight_decay: was None, is 0\.5.*--allow-config-drift"):
        check(run, load("train.optimizer={use: muon, weight_decay: 0.5}")[0])


def test_a_section_that_the_config_leaves_out_is_kept_and_counts_where_it_marks_a_setting(make, load, registry):
    run, config = make("wheel.speed=2"), load()[0]
    assert check(run, config).changes == []
    check(run, load("train.device=cpu")[0]).record(0, {}, [])
    assert run.config(registry).wheel.speed == 2
    with pytest.raises(ProblemError, match=r"wheel\.blades: was 4, is 3"):
        check(make("wheel.blades=4"), config)


def test_a_section_of_an_app_that_is_gone_does_not_keep_a_run_from_being_continued(make, load, registry):
    run = make("wheel.blades=4")
    without = Registry.discover()
    config = load_run_config(run.path / "config.resolved.yaml", ["train.device=cpu"], without)[0]
    check(run, config).record(0, {}, [])
    assert run.config(registry).wheel.blades == 4


@pytest.mark.parametrize("override", DRIFT)
def test_any_other_setting_changes_where_the_user_says_so(make, load, override):
    run, config = make(), load(override)[0]
    with pytest.raises(ProblemError, match="--allow-config-drift"):
        check(run, config)
    assert check(run, config, drift=True).changes


@pytest.mark.parametrize("override", FIXED)
def test_a_setting_that_makes_it_another_run_never_changes(make, load, override):
    with pytest.raises(ProblemError, match="a checkpoint cannot be continued"):
        check(make(), load(override)[0], drift=True, plugins=True)


def test_all_differences_are_said_at_once(make, load):
    with pytest.raises(ProblemError) as error:
        check(make(), load("seed=1", "train.tokens=200")[0])
    assert [problem.code for problem in error.value.problems] == ["cannot-continue", "config-differs"]


def test_a_record_says_what_changed_and_the_run_has_the_new_config(make, load, registry):
    run, config = make(), load("train.tokens=200", "train.trackers=[jsonl]")[0]
    check(run, config, drift=True).record(7, {}, [])
    check(run, config).record(9, {"threads": (1, 2)}, [])
    first, second = map(json.loads, (run.path / "resumes.jsonl").read_text().splitlines())
    assert (first["step"], first["config"]["train.tokens"]) == (7, [100, 200])
    assert (second["step"], second["config"], second["machine"]) == (9, {}, {"threads": [1, 2]})
    assert run.config(registry) == config
