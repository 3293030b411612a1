"""The root lists and helps without importing a command, and a broken command breaks itself alone."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest

from penstock.cli.main import main, run
from penstock.hooks import Component, Registry
from penstock.hooks.discovery import Broken, Loaded, Origin
from penstock.hooks.problems import ExitCode, Problem, ProblemError

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
