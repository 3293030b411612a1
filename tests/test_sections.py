"""A new app edits no other: one file brings a command and the section of the config that it reads."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

APP = '''\
"""An app of a third party."""

import json
from pathlib import Path
from typing import Annotated

import click

from penstock.hooks import Component, hookimpl
from penstock.hooks.config import OnResume, Schema
from penstock.run.config import load_run_config


class Distillation(Schema):
    """Learning from a larger model."""

    teacher: Annotated[str | None, OnResume.FIXED] = None
    """Folder of the larger model."""
    weight: float = 0.5
    """Share of the teacher in the loss."""


@click.command()
@click.argument("config_file", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1)
@click.pass_obj
def distill(registry, config_file, overrides):
    """Says what would be learnt from whom."""
    config, _ = load_run_config(config_file, overrides, registry, owns=["distillation"])
    asked = config.distillation
    click.echo(json.dumps({"teacher": asked.teacher, "weight": asked.weight, "resolved": config.resolved()}))


@hookimpl
def commands():
    return [Component("command", "distill", "acme_distill:distill", "Learn from a larger model")]


@hookimpl
def sections():
    path = "acme_distill:Distillation"
    return [Component("section", "distillation", path, "A larger model to learn from", config=path)]
'''


@pytest.fixture
def app(tmp_path: Path) -> str:
    (tmp_path / "acme_distill.py").write_text(APP)
    return str(tmp_path / "acme_distill.py")


def penstock(*arguments: object, cwd: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "penstock.cli", *map(str, arguments)]
    result = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=600)
    assert result.returncode == code, result.stderr
    return result


def test_its_command_reads_its_section(app: str, config_file: Path, tmp_path: Path):
    said = penstock("--plugin", app, "distill", config_file, "distillation.weight=0.25", cwd=tmp_path)
    result = json.loads(said.stdout)
    assert (result["teacher"], result["weight"]) == (None, 0.25)
    assert result["resolved"]["distillation"] == {"teacher": None, "weight": 0.25}
    assert json.loads(penstock("--plugin", app, "distill", config_file, cwd=tmp_path).stdout)["weight"] == 0.5


def test_config_validates_explains_and_describes_it(app: str, config_file: Path, tmp_path: Path):
    own = tmp_path / "own.yaml"
    own.write_text(config_file.read_text() + "distillation:\n  weight: 0.25\n")
    line = own.read_text().splitlines().index("  weight: 0.25") + 1
    with_app = ("--plugin", app, "config")
    assert penstock(*with_app, "validate", own, cwd=tmp_path).stdout.endswith("valid\n")
    explained = json.loads(penstock(*with_app, "explain", own, "distillation", "--json", cwd=tmp_path).stdout)
    assert explained == [
        {"path": "distillation.teacher", "value": None, "source": "default"},
        {"path": "distillation.weight", "value": 0.25, "source": f"{own}:{line}:3"},
    ]
    schema = json.loads(penstock(*with_app, "schema", cwd=tmp_path).stdout)
    assert "distillation" in schema["properties"]
    wrong = penstock(*with_app, "validate", own, "distillation.wait=1", cwd=tmp_path, code=2)
    assert "distillation.wait: unknown field, did you mean 'weight'?" in wrong.stderr


def test_its_section_and_command_keep_the_laws_of_their_kinds(app: str, tmp_path: Path):
    for kind, name in (("section", "distillation"), ("command", "distill")):
        penstock("--plugin", app, "plugins", "check", name, "--kind", kind, cwd=tmp_path)
