"""What `plugins new` writes, for every kind: its tests pass, its wheel installs where nothing else is, and there it is
found, keeps the laws of its kind and works in a run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from penstock.cli.commands.plugin_new import STARTERS, render, write
from penstock.hooks import KINDS


def written(folder: Path) -> list[Path]:
    """A package of every kind."""
    packages = [render(kind, f"my-{kind}", f"acme-{kind}") for kind in KINDS]
    for name, contents in packages:
        write(folder / name, contents)
    return [folder / name for name, _ in packages]


def succeed(*arguments: str | Path, at: Path, **environment: str) -> str:
    result = subprocess.run(
        list(map(str, arguments)), cwd=at, capture_output=True, text=True, env={**os.environ, **environment}
    )
    assert result.returncode == 0, f"{' '.join(map(str, arguments))}\n{result.stdout[-3000:]}{result.stderr[-3000:]}"
    return result.stdout


def test_a_package_of_every_kind_passes_its_tests(tmp_path):
    packages = written(tmp_path)
    path = os.pathsep.join(str(package / "src") for package in packages)
    succeed(
        sys.executable, "-m", "pytest", "-q", "--import-mode=importlib", "-p", "no:cacheprovider", ".",
        at=tmp_path, PYTHONPATH=path, OMP_NUM_THREADS="1",
    )  # fmt: skip


@pytest.mark.wheels
def test_wheels_of_every_kind_install_in_a_bare_environment_and_are_found(tmp_path, wheelhouse):
    """`nox -s wheels` runs it: it builds and installs 30 wheels, torch among them."""
    packages, wheels = written(tmp_path / "packages"), tmp_path / "wheels"
    for package in packages:
        succeed("uv", "build", "--quiet", "--wheel", "--out-dir", wheels, package, at=tmp_path)
    # a folder of links to ours and to local builds of what they need, such as torch for CPUs
    links = ",".join(filter(None, [str(wheelhouse), os.environ.get("UV_FIND_LINKS")]))
    python = tmp_path / "environment" / "bin" / "python"
    succeed("uv", "venv", "--quiet", "--no-project", "--python", sys.executable, tmp_path / "environment", at=tmp_path)
    needed = [*sorted(wheels.glob("*.whl")), *sorted(wheelhouse.glob("penstock-[0-9]*.whl")), "pytest", *local_torch()]
    succeed("uv", "pip", "install", "--quiet", "--python", python, *needed, at=tmp_path, UV_FIND_LINKS=links)

    succeed(python, "-m", "pytest", "-q", "--import-mode=importlib", *packages, at=tmp_path, OMP_NUM_THREADS="1")
    penstock = python.parent / "penstock"
    listed = json.loads(succeed(penstock, "plugins", "list", "--json", at=tmp_path))
    assert {each["id"] for each in listed["components"]} >= {
        f"acme-{kind}:my_section" if kind == "section" else f"acme-{kind}:my-{kind}" for kind in STARTERS
    }
    assert json.loads(succeed(penstock, "my-command", "--json", at=tmp_path))["router"] == 1


def local_torch() -> list[str]:
    """The very torch that runs this test: uv takes a build of a local folder only where the version is exact."""
    import torch

    return [f"torch=={torch.__version__.partition('+')[0]}"]
