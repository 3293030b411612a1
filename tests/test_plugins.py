"""A third party's component runs as ours do, and code that changed under a run or a checkpoint is never silent."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from penstock.cli.main import run as run_command
from penstock.hooks import ExitCode, ProblemError

ROUTER = """
from penstock.hooks import Component, hookimpl
from penstock.hooks.config import Schema
from penstock.routers.topk import SigmoidTopK


class MySettings(Schema):
    k: int = 2


class MyRouter(SigmoidTopK):
    "Chooses as ours does."


@hookimpl
def routers():
    return [Component(kind="router", name="mine", target="my_router:MyRouter", config="my_router:MySettings",
                      summary="Mine")]
"""


@pytest.fixture
def place(tmp_path: Path, workplace: Path) -> Path:
    """A folder with a plugin file and a config that names its router."""
    (tmp_path / "my_router.py").write_text(ROUTER)
    text = (workplace / "configs" / "quickstart.yaml").read_text()
    text = text.replace("sigmoid-topk", "mine").replace("tokens: 1536", "tokens: 256")
    (tmp_path / "run.yaml").write_text(text)
    return tmp_path


def penstock(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "penstock.cli", *arguments],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )


FILE = ("--plugin", "./my_router.py")


def test_checking_a_component_that_breaks_a_law_ends_with_1(place):
    broken = ROUTER.replace('summary="Mine"', 'summary="Mine", capabilities=frozenset({"causal", "telepathic"})')
    (place / "my_router.py").write_text(broken)
    result = penstock(*FILE, "plugins", "check", "my-router:mine", "--json", cwd=place)
    assert result.returncode == ExitCode.FAILED
    [report] = json.loads(result.stdout)
    assert "any/capabilities-are-known" in {each["law"] for each in report["results"] if each["status"] == "failed"}


def test_a_plugin_file_works_for_every_command(place):
    assert penstock(*FILE, "config", "validate", "run.yaml", cwd=place).stdout == "run.yaml: valid\n"
    result = penstock(*FILE, "quickstart", "--config", "run.yaml", "--json", cwd=place)
    assert result.returncode == 0, result.stderr
    run = place / json.loads(result.stdout)["run_dir"]
    assert "use: my-router:mine" in (run / "config.resolved.yaml").read_text()
    [locked] = [each for each in lock_of(run) if each["kind"] == "router"]
    assert (locked["distribution"], locked["name"]) == ("my-router", "mine")
    assert locked["hash"].startswith(locked["version"])
    without = penstock("evaluate", str(run), cwd=place)
    assert without.returncode == ExitCode.USAGE
    assert "started with `--plugin ./my_router.py`: pass it again" in without.stderr


def test_an_interrupted_run_says_how_to_continue_it_with_its_plugins(place, server):
    signals = [("_forward", 1, signal.SIGTERM)]
    stopped = server.run(*FILE, "train", "run.yaml", cwd=place, signals=signals)
    assert stopped.status == ExitCode.INTERRUPTED
    assert "continue with: penstock --plugin ./my_router.py train runs/" in stopped.said


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        ("raise ImportError('no tears')", "ImportError: no tears"),
        (ROUTER.replace("penstock.routers.topk", "no_such_package"), "No module named 'no_such_package'"),
        (ROUTER.replace('summary="Mine"', 'summary="Mine", contract=7'), "needs contract 7"),
        (ROUTER.replace("my_router:MyRouter", "no_such_router:MyRouter"), "No module named 'no_such_router'"),
    ],
    ids=["broken", "needs what is not there", "incompatible", "target cannot be imported"],
)
@pytest.mark.parametrize("command", ["prepare", "train", "quickstart"])
def test_a_run_that_names_a_component_of_a_broken_plugin_stops_before_any_work(
    place, monkeypatch, command, code, cause
):
    if command == "prepare" and "no_such_router" in code:
        pytest.skip("what prepares data builds no router")
    (place / "my_router.py").write_text(code)
    monkeypatch.chdir(place)
    arguments = ["quickstart", "--config", "run.yaml"] if command == "quickstart" else [command, "run.yaml"]
    with pytest.raises(ProblemError) as caught:
        run_command([*FILE, *arguments])
    assert caught.value.exit_code == ExitCode.PLUGIN
    [problem] = map(str, caught.value.problems)
    assert cause in problem
    assert "my_router.py" in problem
    assert not (place / "runs").exists()


def test_the_process_of_such_a_run_ends_with_3_and_the_cause_in_one_line(place):
    (place / "my_router.py").write_text("raise ImportError('no tears')")
    result = penstock(*FILE, "train", "run.yaml", cwd=place)
    assert result.returncode == ExitCode.PLUGIN
    [error] = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert error.endswith("did not load (ImportError: no tears)")
    assert not (place / "runs").exists()


def test_a_run_that_names_no_component_of_a_broken_plugin_trains(place, monkeypatch, config_file, capsys):
    (place / "my_router.py").write_text("raise ImportError('no tears')")
    monkeypatch.chdir(place)
    assert run_command([*FILE, "train", str(config_file), "train.tokens=128"])["steps"] == 1
    assert len([line for line in capsys.readouterr().err.splitlines() if "no tears" in line]) == 1


# ---------------------------------------------------------------------------------------------- shadowing


def test_a_third_party_cannot_take_the_place_of_a_component_of_ours(place, config_file, capsys):
    (place / "my_router.py").write_text(ROUTER.replace('"mine"', '"sigmoid-topk"'))
    file = ["--plugin", str(place / "my_router.py")]
    plan = run_command([*file, "train", str(config_file), "--dry-run"])
    [router] = [each for each in plan["components"] if each["kind"] == "router"]
    assert router["distribution"] == "penstock-routers"
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 1
    assert "penstock-routers" in warnings[0]
    assert "`my-router:sigmoid-topk`" in warnings[0]
    override = "model.router={use: 'my-router:sigmoid-topk', k: 2}"
    plan = run_command([*file, "train", str(config_file), override, "--dry-run"])
    [router] = [each for each in plan["components"] if each["kind"] == "router"]
    assert router["distribution"] == "my-router"
    assert "warning" not in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------- drift


def lock_of(folder: Path) -> list[dict]:
    return json.loads((folder / "plugins.lock.json").read_text())["components"]


@pytest.fixture
def drifted(place, monkeypatch) -> Path:
    """A run whose router is not what it was when its checkpoint was written; its own lock says that this was known."""
    monkeypatch.chdir(place)
    run = Path(run_command([*FILE, "train", "run.yaml"])["run_dir"])
    for checkpoint in (run / "checkpoints").glob("step-*"):
        assert lock_of(checkpoint) == lock_of(run)
        assert "plugins.lock.json" in json.loads((checkpoint / "manifest.json").read_text())["sha256"]
    (place / "my_router.py").write_text(f"{ROUTER}\n# changed\n")
    later = Path(run_command([*FILE, "train", "run.yaml", "--runs", "later"])["run_dir"])
    shutil.copy(later / "plugins.lock.json", run)
    return run


DRIFT = r"router my-router:mine \w{12} is not the code of the run \(version was \w{12}, is now \w{12}, files changed"


def test_a_checkpoint_of_other_code_is_continued_only_where_that_is_allowed(drifted, capsys):
    resume = [*FILE, "train", "run.yaml", "--resume", str(drifted)]
    with pytest.raises(ProblemError, match=rf"step-\d+: {DRIFT}.*--allow-plugin-drift"):
        run_command(resume)
    assert not (drifted / "resumes.jsonl").exists()
    status = json.loads((drifted / "status.json").read_text())
    (drifted / "status.json").write_text(json.dumps({**status, "state": "interrupted"}))
    run_command([*resume, "--allow-plugin-drift"])
    line = json.loads((drifted / "resumes.jsonl").read_text())
    assert len(line["plugins"]) == 1
    assert f"continuing despite a change: {line['plugins'][0]}" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["evaluate", "profile", "export"])
def test_what_reads_a_checkpoint_of_other_code_says_so_in_one_line_a_component(drifted, capsys, command):
    arguments = {"export": ["--format", "{use: hf}"]}.get(command, [])
    capsys.readouterr()
    run_command([*FILE, command, str(drifted), *arguments])
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert [line.split()[1:3] for line in warnings] == [["router", "my-router:mine"]]
