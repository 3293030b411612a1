"""Laws of the workspace itself: what every member has, who may import whom, and what is kept out of the repository."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from members import module_of
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from penstock.hooks import Registry
from penstock.hooks.discovery import Loaded
from penstock.hooks.known import FIRST_PARTY

ROOT = Path(__file__).parents[1]


def read(pyproject: Path) -> dict[str, Any]:
    return tomllib.loads(pyproject.read_text())


WORKSPACE = read(ROOT / "pyproject.toml")
MEMBERS = {
    path.parent.relative_to(ROOT).as_posix(): read(path)
    for pattern in WORKSPACE["tool"]["uv"]["workspace"]["members"]
    for path in sorted(ROOT.glob(f"{pattern}/pyproject.toml"))
}
VERSIONS = {member["project"]["name"]: member["project"]["version"] for member in MEMBERS.values()}
NAMESPACE = {member["project"]["name"] for folder, member in MEMBERS.items() if not folder.startswith("plugins/")}
# What the columns stand on, and what the apps share above them.
GROUND = {"penstock.hooks", "penstock.sandbox", "penstock.traces", "penstock.conformance"}
HALL = {"penstock.pages", "penstock.run"}
WITHOUT_COMPONENTS = GROUND | {"penstock.pages"}
every_member = pytest.mark.parametrize("folder", MEMBERS)


def modules_under(floor: str) -> set[str]:
    return {module_of(member) for folder, member in MEMBERS.items() if folder.startswith(f"{floor}/")}


@pytest.fixture(scope="module")
def registry() -> Registry:
    return Registry.discover()


def in_the_namespace(folder: str) -> bool:
    """Members under `plugins/` are built as third parties build theirs, and are installed by their own name alone."""
    return not folder.startswith("plugins/")


def test_the_namespace_has_no_init_file() -> None:
    assert not list(ROOT.glob("*/*/src/penstock/__init__.py"))


@every_member
def test_a_member_declares_types_licence_and_readme(folder: str) -> None:
    member = MEMBERS[folder]
    module = ROOT / folder / "src" / module_of(member).replace(".", "/")
    assert (module / "__init__.py").is_file()
    assert (module / "py.typed").is_file()
    assert member["project"]["license"] == "Apache-2.0"
    assert (ROOT / folder / member["project"]["readme"]).is_file()


@every_member
def test_a_member_is_a_plugin_unless_others_only_stand_on_it(folder: str) -> None:
    member = MEMBERS[folder]
    plugins = list(member["project"].get("entry-points", {}).get("penstock", {}).values())
    assert plugins == ([] if module_of(member) in WITHOUT_COMPONENTS else [f"{module_of(member)}.plugin"])


@every_member
def test_members_require_one_another_at_the_version_of_the_workspace(folder: str) -> None:
    project = MEMBERS[folder]["project"]
    for requirement in chain(project["dependencies"], *project.get("optional-dependencies", {}).values()):
        name = re.split(r"[^\w-]", requirement, maxsplit=1)[0]
        without_extras = re.sub(r"\[.*\]", "", requirement)
        assert name not in VERSIONS or without_extras == f"{name}=={VERSIONS[name]}"


def test_penstock_all_installs_every_member_of_the_namespace() -> None:
    installed = {distribution.metadata["Name"] for distribution in importlib.metadata.distributions()}
    assert not NAMESPACE - installed


@every_member
def test_a_plugin_has_an_import_name_of_its_own_and_imports_the_ground_and_members_that_it_declares(
    folder: str,
) -> None:
    module = module_of(MEMBERS[folder])
    assert in_the_namespace(folder) == module.startswith("penstock.")
    if in_the_namespace(folder):
        return
    sources = list((ROOT / folder / "src").rglob("*.py"))
    assert sources
    declared = {Requirement(line).name for line in MEMBERS[folder]["project"]["dependencies"]}
    members = modules_under("packages") - HALL - {"penstock.conformance"} | modules_under("apps")
    allowed = {name for name in members if name.replace(".", "-").replace("_", "-") in declared}
    for source in sources:
        ours = {name for name in imported_by(source) if name.split(".")[0] == "penstock"}
        assert {".".join(name.split(".")[:2]) for name in ours} <= allowed, source


def imported_by(source: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(source.read_text(encoding="utf-8"))))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return plain | {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}


def resolved(distribution: str) -> set[str]:
    """Every distribution that installing this one brings here, itself included, from what each declares."""
    found: set[tuple[str, str]] = set()
    pending = {(distribution, "")}
    while pending:
        name, extra = pending.pop()
        found.add((name, extra))
        for line in importlib.metadata.requires(name) or ():
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                needed = canonicalize_name(requirement.name)
                pending |= {(needed, wanted) for wanted in ("", *requirement.extras)} - found
    return {name for name, _ in found}


@pytest.mark.parametrize(
    "light",
    ["penstock", "penstock-hooks", "penstock-sandbox", "penstock-traces", "penstock-netsim", "penstock-data-prep"],
)
def test_a_light_member_brings_no_torch(light: str) -> None:
    assert "torch" not in resolved(light)


def test_the_resolved_set_reaches_torch_where_it_is_declared() -> None:
    assert "torch" in resolved("penstock-moe-core") & resolved("penstock-train")


def test_every_member_stands_on_one_floor_of_the_import_contracts() -> None:
    linter = WORKSPACE["tool"]["importlinter"]
    contracts = {contract["name"]: contract for contract in linter["contracts"]}
    columns = modules_under("packages") - GROUND - HALL
    layers = [
        set(re.split(r"[:|\s]+", layer.strip()))
        for layer in contracts["The roof stands on the columns, the columns on the ground"]["layers"]
    ]
    assert set(linter["root_packages"]) == modules_under("packages") | modules_under("apps")
    floors = layers.index(columns)
    assert set().union(*layers[floors + 1 :]) == GROUND
    assert set().union(*layers[:floors]) == modules_under("apps") | HALL
    assert set(contracts["Columns never import one another"]["modules"]) == columns


def test_every_plugin_of_the_workspace_loads(registry: Registry) -> None:
    ours = [plugin for plugin in registry.plugins if plugin.origin.distribution in NAMESPACE]
    assert [f"{plugin.origin}: {plugin.cause}" for plugin in ours if not isinstance(plugin, Loaded)] == []
    assert {plugin.origin.distribution for plugin in ours} == NAMESPACE - {
        module.replace(".", "-") for module in WITHOUT_COMPONENTS
    }


def test_known_components_are_those_that_the_plugins_offer(registry: Registry) -> None:
    offered = {
        (entry.component.kind, entry.component.name): entry.origin.distribution
        for entry in registry.entries()
        if entry.origin.distribution in NAMESPACE
    }
    assert offered == {key: owner for key, owner in FIRST_PARTY.items() if owner in NAMESPACE}
    assert set(FIRST_PARTY.values()) <= VERSIONS.keys()


DESCRIBE_WITHOUT_TORCH = """
import sys
from penstock.hooks import Registry

for entry in Registry.discover().entries():
    entry.component.load_config()
    assert "torch" not in sys.modules, f"{entry.id}: its plugin or its schema imports torch"
"""


def test_plugins_and_schemas_leave_torch_unimported() -> None:
    result = subprocess.run([sys.executable, "-c", DESCRIBE_WITHOUT_TORCH], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_requirements_lock_names_versions_and_hashes_but_no_index_and_no_path() -> None:
    requirement = r"[a-z0-9-]+==[\w.+!]+( ; [^\\]+)?( \\\n    --hash=sha256:[0-9a-f]{64})+\n"
    text = (ROOT / "requirements.lock").read_text()
    assert re.fullmatch(f"({requirement})+", text)
    assert "://" not in text


def test_uv_lock_is_not_tracked() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(["git", "ls-files", "uv.lock"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert listed.stdout == ""
