"""A package of every kind that `plugins new` writes: it keeps every law, and its own test passes."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

from penstock.cli.commands.plugin_new import STARTERS, render, write
from penstock.cli.main import run
from penstock.hooks import KINDS, Component, ProblemError, Registry
from penstock.hooks.discovery import Loaded, Origin, components_of

EMPTY = Registry([Loaded(Origin("penstock", "1", "cli"), (
    Component("command", "plugins", "penstock.cli.commands.plugins:plugins", "Plugins and what they offer"),
))])  # fmt: skip


def new(*arguments: str) -> dict:
    return run(["plugins", "new", *arguments], EMPTY)


def module_of(file: Path) -> ModuleType:
    """The module of a file, which no later test finds imported."""
    spec = importlib.util.spec_from_file_location("plugin_of_a_new_package", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_kind_has_a_starter():
    assert STARTERS.keys() == KINDS.keys()


@pytest.mark.parametrize("kind", KINDS)
def test_a_package_describes_one_component_of_its_kind(kind, tmp_path):
    new(kind, f"first-{kind}", "--into", str(tmp_path), "--distribution", f"Acme_{kind}")
    folder = tmp_path / f"acme-{kind}"
    project = tomllib.loads((folder / "pyproject.toml").read_text())
    import_name = f"acme_{kind}".replace("-", "_")
    assert project["project"]["entry-points"]["penstock"] == {import_name: f"{import_name}.plugin"}
    (component,) = components_of(module_of(folder / "src" / import_name / "plugin.py"))
    name = "first_section" if kind == "section" else f"first-{kind}"  # a section is an attribute of the config
    assert (component.kind, component.name) == (kind, name)
    assert (folder / "src" / import_name / "py.typed").read_text() == ""
    assert ("torch" in str(project["project"]["dependencies"])) == any(
        "torch" in d for d in STARTERS[kind].dependencies
    )


def test_an_existing_folder_is_left_alone(tmp_path):
    new("schedule", "triangle", "--into", str(tmp_path))
    file = tmp_path / "triangle" / "README.md"
    file.write_text("mine")
    with pytest.raises(ProblemError, match="the folder already exists"):
        new("schedule", "triangle", "--into", str(tmp_path))
    assert file.read_text() == "mine"


def test_the_printed_check_names_the_component_that_was_written(tmp_path):
    section, schedule = (new(kind, "tri-angle", "--into", str(tmp_path / kind)) for kind in ("section", "schedule"))
    assert section["next"][-1] == "penstock plugins check tri_angle --kind section"
    assert schedule["next"][-1] == "penstock plugins check tri-angle --kind schedule"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("schedule", "Tri Angle"), "lower-case words"),
        (("schedule", "class"), "cannot be the name of the component's module"),
        (("schedule", "plugin"), "cannot be the name of the component's module"),
        (("schedule", "random"), "a module of that name is installed"),
        (("schedule", "numpy"), "a module of that name is installed"),
        (("schedule", "triangle", "--distribution", "penstock"), "a module of that name is installed"),
        (("schedule", "triangle", "--distribution", "a b"), "cannot be the name of a package"),
    ],
)
def test_a_name_that_will_not_do_is_refused_before_anything_is_written(arguments, said, tmp_path):
    with pytest.raises(ProblemError, match=said):
        new(*arguments, "--into", str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_name_that_another_package_has_is_said(tmp_path, capsys):
    taken = Component("schedule", "triangle", "there:it", "Another triangle there")
    registry = Registry([*EMPTY.plugins, Loaded(Origin("acme", "1", "acme"), (taken,))])
    run(["plugins", "new", "schedule", "triangle", "--into", str(tmp_path)], registry)
    assert "`triangle:triangle`" in capsys.readouterr().err


def test_light_kinds_pass_their_own_tests_and_every_law(tmp_path):
    """Those that need torch do so in tests/test_templates.py: this package installs none."""
    light = [kind for kind, starter in STARTERS.items() if not any("torch" in d for d in starter.dependencies)]
    for kind in light:
        folder, contents = render(kind, f"my-{kind}", f"my-{kind}")
        write(tmp_path / folder, contents)
    path = os.pathsep.join(str(source) for source in sorted(tmp_path.glob("*/src")))
    checked = [sys.executable, "-m", "pytest", "-q", "--import-mode=importlib", "-p", "no:cacheprovider"]
    result = subprocess.run(
        checked, cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout[-3000:]
    assert len(light) >= 8


def test_templates_are_in_the_package():
    import penstock.cli

    templates = Path(penstock.cli.__path__[0], "templates", "kinds")
    assert {path.name for path in templates.iterdir()} == KINDS.keys()
