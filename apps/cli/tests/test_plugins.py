"""The real command line with real distributions beside it: one that works and one in every other state."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from penstock.cli.main import run
from penstock.hooks import ExitCode, ProblemError, Registry

PLUGIN = """
import click

from penstock.hooks import Component, hookimpl


@click.command()
def hello():
    click.echo("hello")
    return "hello"


@hookimpl
def commands():
    return [Component(kind="command", name="{name}", target="{module}:hello", summary="Says it.", contract={contract})]
"""


def install(folder: Path, distribution: str, code: str) -> None:
    module = distribution.replace("-", "_")
    (folder / f"{module}.py").write_text(code)
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.4\nName: {distribution}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[penstock]\nown = {module}\n")


def plugin(module: str, name: str, contract: int = 1) -> str:
    return PLUGIN.format(module=module, name=name, contract=contract)


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    install(tmp_path, "acme-good", plugin("acme_good", "hello"))
    install(tmp_path, "acme-bad", "raise ImportError('no tears\\nin this world')")
    install(tmp_path, "acme-next", plugin("acme_next", "tomorrow", contract=9))
    install(tmp_path, "acme-rival", plugin("acme_rival", "plugins"))
    install(tmp_path, "acme-twin", plugin("acme_twin", "same"))
    install(tmp_path, "zenith-twin", plugin("zenith_twin", "same"))
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "my_commands.py").write_text(plugin("my_commands", "mine"))
    return tmp_path


@pytest.fixture
def penstock(installed: Path):
    path = os.pathsep.join([str(installed), *filter(None, [os.environ.get("PYTHONPATH")])])

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-P", "-m", "penstock.cli", *arguments],
            cwd=installed / "work",
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            timeout=60,
        )

    return call


BAD = "warning: plugin acme-bad 1.0 is not usable: ImportError: no tears in this world"
NEXT = "warning: plugin acme-next 1.0 is not usable: command 'tomorrow' needs contract 9, but this release supports 1"


def commands_of(help_text: str) -> set[str]:
    return {line.split()[0] for line in help_text.partition("Commands:\n")[2].splitlines()}


def test_help_lives_with_every_kind_of_plugin_and_says_one_line_of_each_that_does_not_work(penstock):
    result = penstock("--help")
    assert result.returncode == ExitCode.DONE
    assert result.stderr.splitlines() == [BAD, NEXT]
    assert {"hello", "plugins", "acme-rival:plugins", "acme-twin:same", "zenith-twin:same"} <= commands_of(
        result.stdout
    )
    assert not {"same", "tomorrow"} & commands_of(result.stdout)


def test_a_command_that_does_not_ask_for_a_broken_plugin_runs(penstock):
    result = penstock("hello")
    assert (result.returncode, result.stdout) == (ExitCode.DONE, "hello\n")
    assert result.stderr.splitlines() == [BAD, NEXT]


def test_the_list_shows_every_state_with_its_owner_and_cause(penstock):
    states = {
        plugin["distribution"]: plugin for plugin in json.loads(penstock("plugins", "list", "--json").stdout)["plugins"]
    }
    bad = {"distribution": "acme-bad", "version": "1.0", "entry_point": "own", "state": "broken", "components": 0}
    assert states["acme-bad"] == {**bad, "cause": "ImportError: no tears in this world"}
    assert states["acme-good"]["state"] == "loaded"
    assert (states["acme-next"]["state"], states["acme-next"]["cause"]) == ("incompatible", NEXT.partition("able: ")[2])
    text = penstock("--only", "acme-bad", "plugins", "list").stdout
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "acme-bad 1.0 own broken ImportError: no tears in this world" in lines
    assert "acme-good 1.0 own blocked not among --only acme-bad" in lines
    assert [line for line in lines if line.startswith("penstock ") and " cli loaded " in line]


def test_a_third_party_s_component_of_the_name_of_ours_is_marked_and_reached_by_its_id(penstock):
    result = penstock("plugins", "list")
    assert "`plugins` is penstock:plugins, and `acme-rival:plugins` another one" in result.stdout
    shadow = "command 'plugins' comes from penstock"
    [warning] = [line for line in result.stderr.splitlines() if shadow in line]
    assert warning.endswith("another one comes from acme-rival 1.0, written `acme-rival:plugins`")
    by_id = penstock("acme-rival:plugins")
    assert by_id.stdout == "hello\n"
    assert shadow not in by_id.stderr
    assert penstock("penstock:plugins", "list").stdout == result.stdout


def test_a_command_of_two_third_parties_names_both_and_what_to_write(penstock):
    result = penstock("same")
    assert result.returncode == ExitCode.USAGE
    assert "acme-twin 1.0 and zenith-twin 1.0, write `use: acme-twin:same` or `use: zenith-twin:same`" in result.stderr
    assert penstock("zenith-twin:same").stdout == "hello\n"


@pytest.mark.parametrize("name", ["acme-bad:anything", "tomorrow", "acme-next:tomorrow"])
def test_to_ask_for_what_a_broken_plugin_has_ends_with_3_and_the_cause(penstock, name):
    result = penstock(name)
    assert result.returncode == ExitCode.PLUGIN
    error = result.stderr.splitlines()[-1]
    assert error.startswith("error: command ")
    assert ("no tears in this world" if "bad" in name else "needs contract 9") in error


def test_without_plugins_only_our_own_are_loaded_and_said(penstock):
    result = penstock("--no-plugins", "--help")
    assert result.stderr == ""
    assert {"plugins", "config"} <= commands_of(result.stdout)
    assert not {"hello", "acme-rival:plugins"} & commands_of(result.stdout)
    listed = json.loads(penstock("--no-plugins", "plugins", "list", "--json").stdout)["plugins"]
    assert {p["cause"] for p in listed if p["state"] == "blocked"} == {"switched off by --no-plugins"}
    refused = penstock("--no-plugins", "acme-good:hello")
    assert refused.returncode == ExitCode.PLUGIN
    assert "acme-good 1.0: switched off by --no-plugins" in refused.stderr


def test_only_the_named_third_parties_are_loaded(penstock):
    result = penstock("--only", "acme-good", "--only", "Acme_Twin", "--help")
    assert result.stderr == ""
    commands = commands_of(result.stdout)
    assert {"hello", "same", "plugins"} <= commands
    assert not [name for name in commands if ":" in name]


def test_a_plugin_file_is_loaded_for_every_command(penstock):
    assert penstock("--no-plugins", "--plugin", "./my_commands.py", "mine").stdout == "hello\n"
    listed = json.loads(penstock("--plugin", "./my_commands.py", "plugins", "list", "--json").stdout)
    [state] = [each for each in listed["plugins"] if each["distribution"] == "my-commands"]
    assert (state["state"], state["entry_point"], len(state["version"])) == ("loaded", "./my_commands.py", 12)
    assert [each["id"] for each in listed["components"] if each["name"] == "mine"] == ["my-commands:mine"]
    assert penstock("mine").returncode == ExitCode.PLUGIN  # some plugin that did not load may have it


def test_a_plugin_file_that_is_not_there_is_a_mistake_of_usage(penstock):
    result = penstock("--plugin", "nowhere.py", "plugins", "list")
    assert result.returncode == ExitCode.USAGE
    assert "nowhere.py: the plugin file cannot be read" in result.stderr
    assert "Traceback" not in result.stderr


def test_code_that_calls_run_chooses_plugins_alike(installed):
    file = str(installed / "work" / "my_commands.py")
    assert run(["--no-plugins", "--plugin", file, "mine"]) == "hello"
    with pytest.raises(ProblemError, match=f"--plugin {file}: plugins cannot be selected for an existing registry"):
        run(["--plugin", file, "mine"], Registry([]))
