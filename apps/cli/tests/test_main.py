"""The root lists and helps without importing a command, and a broken command breaks itself alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

from penstock.cli.main import main, run
from penstock.hooks import Component, Registry
from penstock.hooks.discovery import Broken, Loaded, Origin
from penstock.hooks.problems import ExitCode, Problem, ProblemError

CHATTER = """
import click
from penstock.hooks import Component, hookimpl
@click.command()
def chatter(): print("a result")
@hookimpl
def commands(): return [Component(kind="command", name="chatter", target="chatter:chatter", summary="Talks.")]
"""
ORIGIN = Origin("acme", "1.2", "acme")


@click.command()
@click.argument("number", type=int)
def double(number: int) -> int:
    """Doubles a number."""
    return 2 * number


@click.command()
def refuse() -> None:
    raise ProblemError([Problem("a", "one thing"), Problem("b", "another")], ExitCode.FAILED)


@click.command()
def hang_up() -> None:
    raise KeyboardInterrupt


@click.command()
def run_out() -> None:
    raise EOFError("ran out of input")


def registry_of(**targets: str) -> Registry:
    components = tuple(Component("command", name, target, f"Summary of {name}") for name, target in targets.items())
    return Registry([Loaded(ORIGIN, components)])


def exit_code(monkeypatch: pytest.MonkeyPatch, registry: Registry, *arguments: str) -> int:
    monkeypatch.setattr(Registry, "discover", classmethod(lambda cls, *_: registry))
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    return int(stop.value.code or 0)


def test_a_discovered_command_runs_and_returns_its_result():
    assert run(["double", "21"], registry_of(double=f"{__name__}:double")) == 42


def test_help_shows_summaries_without_importing_commands(monkeypatch, capsys):
    registry = registry_of(heavy="a_module_that_is_not_there:command")
    assert exit_code(monkeypatch, registry, "--help") == ExitCode.DONE
    assert "Summary of heavy" in capsys.readouterr().out


def test_a_broken_command_fails_alone_and_names_its_distribution(monkeypatch, capsys):
    registry = registry_of(heavy="a_module_that_is_not_there:command", double=f"{__name__}:double")
    assert exit_code(monkeypatch, registry, "heavy") == ExitCode.PLUGIN
    message = capsys.readouterr().err
    assert "acme 1.2" in message
    assert "a_module_that_is_not_there" in message
    assert exit_code(monkeypatch, registry, "double", "1") == ExitCode.DONE


def test_a_broken_plugin_is_one_warning_and_never_stops_help(monkeypatch, capsys):
    registry = Registry([Broken(Origin("sad", "0.1", "sad"), ImportError("no module named tears"))])
    assert exit_code(monkeypatch, registry, "--help") == ExitCode.DONE
    assert capsys.readouterr().err.splitlines() == [
        "warning: plugin sad 0.1 is not usable: ImportError: no module named tears"
    ]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("double", "x"), ExitCode.USAGE, "'x' is not a valid integer"),
        (("refuse",), ExitCode.FAILED, "one thing"),
        (("hang-up",), ExitCode.INTERRUPTED, "interrupted"),
        (("duoble", "1"), ExitCode.USAGE, "did you mean 'double'?"),
        (("--nonsense",), ExitCode.USAGE, "No such option"),
    ],
)
def test_exit_codes(monkeypatch, capsys, arguments, code, said):
    registry = registry_of(
        **{"double": f"{__name__}:double", "refuse": f"{__name__}:refuse", "hang-up": f"{__name__}:hang_up"}
    )
    assert exit_code(monkeypatch, registry, *arguments) == code
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.out == ""


def test_a_command_of_a_package_that_is_not_installed_names_the_package(monkeypatch, capsys):
    assert exit_code(monkeypatch, registry_of(), "train") == ExitCode.USAGE
    assert "uv add penstock-train" in capsys.readouterr().err


def test_the_module_is_runnable():
    result = subprocess.run(
        [sys.executable, "-m", "penstock.cli", "--version"], capture_output=True, text=True, timeout=60
    )
    assert result.stdout.startswith("penstock, version ")


def test_a_command_that_runs_out_of_input_has_failed_and_was_not_interrupted(monkeypatch):
    registry = registry_of(**{"run-out": f"{__name__}:run_out"})
    monkeypatch.setattr(Registry, "discover", classmethod(lambda cls, *_: registry))
    with pytest.raises(EOFError, match="ran out of input"):
        main(["run-out"])
    with pytest.raises(EOFError, match="ran out of input"):
        run(["run-out"], registry)


def penstock(
    *arguments: str, path: Path | None = None, unbuffered: str = "", **more: Any
) -> subprocess.CompletedProcess[str]:
    """A process of its own, which finds the distributions in `path`."""
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered, **({"PYTHONPATH": str(path)} if path else {})}
    command = [sys.executable, "-m", "penstock.cli", *arguments]
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more}
    return subprocess.run(command, env=environment, text=True, timeout=60, **output)


def distribution(folder: Path, name: str, points: str) -> None:
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(points)


@pytest.mark.parametrize("arguments", [("plugins", "list", "--json"), ("--help",), ("config", "schema")])
def test_a_result_that_cannot_be_written_is_a_problem(arguments):
    with open("/dev/full", "w") as full:
        result = penstock(*arguments, stdout=full)
    assert result.returncode == ExitCode.FAILED
    assert result.stderr.splitlines() == [
        "error: stdout: the result cannot be written (No space left on device), free some space, or write it elsewhere"
    ]


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_result_in_the_buffer_is_written_before_the_exit_code_is_known(tmp_path, unbuffered):
    file = tmp_path / "chatter.py"
    file.write_text(CHATTER)
    with open("/dev/full", "w") as full:
        result = penstock("--plugin", str(file), "chatter", stdout=full, unbuffered=unbuffered)
    assert result.returncode == ExitCode.FAILED
    assert "the result cannot be written" in result.stderr


def test_a_closed_pipe_ends_quietly():
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as closed:
        result = penstock("plugins", "list", stdout=closed)
    assert result.stderr == ""


def test_a_distribution_that_cannot_be_read_stops_no_command(tmp_path):
    distribution(tmp_path, "stranger", "[console_scripts]\na line\n")
    result = penstock("config", "schema", path=tmp_path)
    assert result.returncode == ExitCode.DONE
    assert json.loads(result.stdout)["title"] == "RunConfig"
    assert result.stderr.splitlines() == [
        "warning: plugin stranger 1.0 is not usable: ValueError: its entry_points.txt cannot be read "
        "(the line 'a line' is not NAME = VALUE)"
    ]


def test_a_plugin_that_prints_leaves_stdout_to_results_and_completion(tmp_path):
    distribution(tmp_path, "noisy", "[penstock]\nnoisy = noisy_plugin\n")
    (tmp_path / "noisy_plugin.py").write_text("print('noise')\n")
    assert json.loads(penstock("plugins", "list", "--json", path=tmp_path).stdout)["plugins"]
