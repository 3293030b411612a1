"""A run directory is whole or not there, and says what the run was."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from penstock.hooks import Component, Registry
from penstock.hooks.architecture import ArchitectureSettings
from penstock.hooks.atomic import read_json, write_json
from penstock.hooks.config import Schema, dump_config
from penstock.hooks.discovery import Loaded, Origin
from penstock.hooks.known import FIRST_PARTY
from penstock.hooks.problems import ProblemError
from penstock.run import directory as run_directory
from penstock.run.config import RunConfig, digest, load_run_config
from penstock.run.directory import RunDirectory


class Sizes(ArchitectureSettings):
    """A model of the tests' own."""

    layers: int = 2

    @property
    def expert_layers(self) -> range:
        return range(self.layers)


class RouterSettings(Schema):
    k: int = 2


# Those that a config has by default.
OURS = [
    ("corpus", "text"),
    ("filter", "exact-dedup"),
    ("optimizer", "muon"),
    ("schedule", "cosine"),
    ("objective", "next-token"),
    ("engine", "local"),
    ("tracker", "jsonl"),
    ("tracker", "tensorboard"),
    ("observer", "load-trace"),
    ("task", "heldout"),
    ("topology", "two-level"),
    ("placement", "contiguous"),
]


@pytest.fixture(scope="module")
def registry() -> Registry:
    ours = [
        Loaded(Origin(FIRST_PARTY[kind, name], "1", name), (Component(kind, name, "json:dumps", ""),))
        for kind, name in OURS
    ]
    theirs = (
        Component("architecture", "toy", "json:dumps", "", config=f"{__name__}:Sizes"),
        Component("router", "top", "json:dumps", "", config=f"{__name__}:RouterSettings"),
    )
    return Registry([*ours, Loaded(Origin("acme", "1", "acme"), theirs)])


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text("name: toy\ndata: {corpus: text}\nmodel:\n  use: toy\n  router: top\ntrain: {tokens: 100}\n")
    return path


@pytest.fixture
def make(config_file: Path, registry: Registry, tmp_path: Path):
    def create(*overrides: str) -> tuple[RunDirectory, RunConfig]:
        config, document = load_run_config(config_file, overrides, registry)
        return RunDirectory.create(tmp_path / "runs", config, document, overrides, registry), config

    return create


def test_everything_about_the_run_is_written_first(make, config_file, registry):
    run, config = make("train.tokens=200")
    assert (run.path / "config.input.yaml").read_text() == config_file.read_text()
    assert (run.path / "overrides.txt").read_text() == "train.tokens=200\n"
    assert run.config(registry) == config
    assert run.path.name.endswith(digest(config.resolved()))
    environment = read_json(run.path / "environment.json")
    assert environment["seed"] == 0
    assert environment["command"].endswith("run.yaml train.tokens=200")
    assert environment["packages"]["penstock-hooks"]
    locked = {
        (c["kind"], c["name"], c["distribution"]) for c in read_json(run.path / "plugins.lock.json")["components"]
    }
    assert {("architecture", "toy", "acme"), ("router", "top", "acme")} <= locked
    assert ("corpus", "text", "penstock-data-prep") in locked
    assert not [path for path in run.path.parent.iterdir() if path.name.startswith(".")]


def test_two_runs_of_one_second_have_folders_of_their_own(make):
    assert make()[0].path != make()[0].path


def test_names_sort_in_the_order_in_which_runs_began_whatever_the_clock_does(make, monkeypatch):
    now = time.time()
    paths = []
    for shift in (0, 0, -86_400, 3600, -3600):
        monkeypatch.setattr(time, "time", lambda shift=shift: now + shift)
        paths.append(make(f"seed={len(paths)}")[0].path)
    assert paths == sorted(paths)
    assert len(set(paths)) == 5


def test_runs_that_begin_together_have_folders_of_their_own(make, tmp_path):
    run, _ = make()
    code = (
        "import sys; from pathlib import Path; from penstock.run.directory import _appear\n"
        "parent = Path(sys.argv[1]); own = parent / f'.{sys.argv[2]}'; own.mkdir(); (own / 'file').touch()\n"
        "print(_appear(own, parent, 'same').name)"
    )
    arguments = [sys.executable, "-c", code, str(run.path.parent)]
    processes = [subprocess.Popen([*arguments, str(i)], stdout=subprocess.PIPE, text=True) for i in range(3)]
    names = {process.communicate()[0].strip() for process in processes}
    assert len(names) == 3
    assert all((run.path.parent / name / "file").exists() for name in names)


def test_git_is_asked_where_the_source_is_and_not_where_the_user_stands(make, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    source = Path(run_directory.__file__).parent
    inside = subprocess.run(["git", "-C", source, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    if inside.returncode:
        pytest.skip("the source is not in a clone")
    git = read_json(make()[0].path / "environment.json")["git"]
    assert git["commit"] == inside.stdout.strip()
    assert source.is_relative_to(git["folder"])


def test_a_second_process_is_kept_out_and_a_dead_one_holds_nothing(make):
    run, _ = make()
    code = (
        "import sys, os; from pathlib import Path; from penstock.run.directory import RunDirectory\n"
        "lock = RunDirectory(Path(sys.argv[1])).lock(); lock.__enter__(); print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(run.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(ProblemError, match="another process"), run.lock():
        pass
    holder.kill()
    holder.wait()
    with run.lock():
        pass


def test_a_folder_that_cannot_be_written_is_named(config_file, registry, tmp_path):
    (tmp_path / "file").write_text("")
    config, document = load_run_config(config_file, (), registry)
    with pytest.raises(ProblemError, match="cannot write the run directory"):
        RunDirectory.create(tmp_path / "file", config, document, (), registry)


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(ProblemError, match="nor a folder of runs"):
        RunDirectory.open(tmp_path)


def test_a_folder_of_runs_stands_for_its_newest_run_with_a_checkpoint(config_file, registry, tmp_path):
    config, document = load_run_config(config_file, (), registry)
    made = [RunDirectory.create(tmp_path, config, document, (), registry) for _ in range(3)]
    folder = made[0].path.parent
    assert RunDirectory.open(folder).path == made[2].path
    (made[1].checkpoints / "step-00000004").mkdir(parents=True)
    assert RunDirectory.open(folder).path == made[1].path


def test_json_is_replaced_whole(tmp_path):
    path = tmp_path / "status.json"
    write_json(path, {"step": 1})
    with pytest.raises(TypeError):
        write_json(path, {1j: "not a JSON key"})
    assert json.loads(path.read_text()) == {"step": 1}


def test_the_resolved_config_reads_back_as_itself(make, registry, tmp_path):
    _, config = make("model.router.k=3", "train.batch_size=8")
    path = tmp_path / "resolved.yaml"
    path.write_text(dump_config(config.resolved()))
    assert load_run_config(path, (), registry)[0].resolved() == config.resolved()
    assert config.resolved()["model"]["router"] == {"use": "acme:top", "k": 3}


def test_layer_conflicts_name_both_owners_and_their_line(config_file, registry):
    override = "model.overrides=[{match: 'layers.*', router: top}, {match: 'layers.1.*', router: top}]"
    with pytest.raises(ProblemError) as error:
        load_run_config(config_file, [override], registry)
    (problem,) = error.value.problems
    assert "model.overrides.0" in problem.what
    assert "model.overrides.1" in problem.what
    assert problem.where.startswith("command line, override 1")
