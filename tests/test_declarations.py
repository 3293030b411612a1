"""Each member declares what it imports, although its tests share an environment with those of all others."""

from __future__ import annotations

import ast
import importlib.metadata
import sys
import tomllib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from members import module_of
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
WORKSPACE = tomllib.loads((ROOT / "pyproject.toml").read_text())
MEMBERS: dict[str, dict[str, Any]] = {
    path.parent.relative_to(ROOT).as_posix(): tomllib.loads(path.read_text())
    for pattern in WORKSPACE["tool"]["uv"]["workspace"]["members"]
    for path in sorted(ROOT.glob(f"{pattern}/pyproject.toml"))
}
OURS = {module_of(member): member["project"]["name"] for member in MEMBERS.values()}
# Laws of the kit import what the component that they check stands on, which its own environment then has.
KIT = "packages/conformance"
# pydantic requires the very pydantic-core that it is released with, and refers to it for some names.
PART_OF = {"pydantic-core": "pydantic"}
INSTALLED = importlib.metadata.packages_distributions()


def imported(source: str) -> Iterator[str]:
    """Every module that the source imports, at any depth, `a.b` for `from a import b` too: it may be one. What only a
    type checker imports is left out."""
    pending: list[ast.AST] = [ast.parse(source)]
    while pending:
        match pending.pop():
            case ast.If(test=ast.Name(id="TYPE_CHECKING")) as checked:
                pending += checked.orelse
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=str() as module, names=names, level=0):
                yield from (f"{module}.{alias.name}" for alias in names)
            case node:
                pending += reversed(list(ast.iter_child_nodes(node)))


def distributions_of(module: str) -> set[str]:
    """The distributions that bring a module; empty for the standard library and for a test's own helpers."""
    parts = module.split(".")
    ours = {OURS[name] for name in (".".join(parts[:2]), parts[0]) if name in OURS}
    if ours or parts[0] in sys.stdlib_module_names:
        return ours
    names = {canonicalize_name(name) for name in INSTALLED.get(parts[0], ())}
    return {PART_OF.get(name, name) for name in names}


def declared(member: dict[str, Any], *, for_tests: bool) -> set[str]:
    """What a member may import: itself, what it requires, its extras, and in tests its `dev` group."""
    project = member["project"]
    lines = chain(project["dependencies"], *project.get("optional-dependencies", {}).values())
    lines = chain(lines, member["dependency-groups"]["dev"]) if for_tests else lines
    return {project["name"]} | {canonicalize_name(Requirement(line).name) for line in lines}


def undeclared(member: dict[str, Any], folder: Path, *, for_tests: bool) -> set[tuple[str, str]]:
    may = declared(member, for_tests=for_tests)
    return {
        (path.relative_to(ROOT).as_posix(), module)
        for path in folder.rglob("*.py")
        for module in imported(path.read_text(encoding="utf-8"))
        if (brought_by := distributions_of(module)) and not brought_by & may
    }


@pytest.mark.parametrize("folder", MEMBERS)
def test_the_source_of_a_member_imports_only_what_it_declares(folder: str) -> None:
    assert undeclared(MEMBERS[folder], ROOT / folder / "src", for_tests=folder == KIT) == set()


@pytest.mark.parametrize("folder", MEMBERS)
def test_the_tests_of_a_member_import_only_what_it_declares(folder: str) -> None:
    assert undeclared(MEMBERS[folder], ROOT / folder / "tests", for_tests=True) == set()


def test_an_import_is_found_wherever_it_is() -> None:
    source = (
        "import os\nif TYPE_CHECKING:\n    import numpy\ndef f():\n    from penstock.routers import topk\nimport yaml"
    )
    assert list(imported(source)) == ["os", "penstock.routers.topk", "yaml"]


def test_a_module_is_traced_to_what_brings_it() -> None:
    assert distributions_of("penstock.routers.topk") == {"penstock-routers"}
    assert distributions_of("penstock_trackers.plugin") == {"penstock-trackers"}
    assert distributions_of("yaml") == {"pyyaml"}
    assert distributions_of("json.decoder") == distributions_of("conftest") == set()
