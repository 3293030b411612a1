"""A file is a plugin like any other, and takes no name that is taken."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

import pytest

from penstock.hooks import ExitCode, ProblemError, Registry, Selection
from penstock.hooks.discovery import Broken, Loaded, Origin, discover
from penstock.hooks.single_file import find_spec

SOURCE = """
from __future__ import annotations

from penstock.hooks import Component, hookimpl


class MyRouter:
    def __init__(self, experts: int) -> None:
        self.experts = experts


@hookimpl
def routers() -> list[Component]:
    return [Component(kind="router", name="mine", target="acme_lone:MyRouter", summary="")]
"""


@pytest.fixture
def file(plugin_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A plugin file in the current folder, which is not on `sys.path`."""
    folder = plugin_path / "research"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(folder))])
    (folder / "acme_lone.py").write_text(SOURCE)
    return folder / "acme_lone.py"


def found(name: str) -> Loaded | Broken:
    [plugin] = [plugin for plugin in discover(Selection(files=(name,))) if plugin.origin.entry_point == name]
    assert isinstance(plugin, (Loaded, Broken))
    return plugin


def refused(*names: str) -> str:
    with pytest.raises(ProblemError) as caught:
        discover(Selection(files=names))
    assert caught.value.exit_code is ExitCode.USAGE
    return str(caught.value)


def test_a_file_is_attributed_to_its_stem_the_digest_of_its_bytes_and_its_path_as_given(file: Path) -> None:
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert found("./acme_lone.py").origin == Origin("acme-lone", digest[:12], "./acme_lone.py")
    assert found(str(file)).origin == Origin("acme-lone", digest[:12], str(file))


def test_the_components_of_a_file_are_built_through_a_registry(file: Path) -> None:
    registry = Registry.discover(Selection(no_plugins=True, files=("acme_lone.py",)))
    assert registry.get("router", "mine").id == "acme-lone:mine"
    assert registry.build("router", "acme-lone:mine", experts=8).experts == 8


def test_what_runs_is_what_was_hashed_however_fast_the_file_changes(file: Path) -> None:
    before, stat = found("acme_lone.py"), file.stat()
    file.write_text(SOURCE.replace("mine", "ours"))
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # bytecode is cached by size and time of the source
    after = found("acme_lone.py")
    assert isinstance(before, Loaded)
    assert isinstance(after, Loaded)
    assert [plugin.components[0].name for plugin in (before, after)] == ["mine", "ours"]
    assert before.origin.version != after.origin.version


def test_the_folder_of_a_file_does_not_become_importable(file: Path) -> None:
    (file.parent / "beside.py").write_text("")
    before = sys.path.copy()
    found("acme_lone.py")
    assert sys.path == before
    assert find_spec("beside") is None


def test_a_file_that_raises_is_a_broken_plugin_and_leaves_no_module(file: Path) -> None:
    file.write_text("raise RuntimeError('not yet')")
    plugin = found("acme_lone.py")
    assert isinstance(plugin, Broken)
    assert plugin.cause == "RuntimeError: not yet"
    assert "acme_lone" not in sys.modules


@pytest.mark.parametrize("name", ["json.py", "penstock.py", "pluggy.py", "sys.py"])
def test_a_file_cannot_have_the_name_of_an_installed_module(file: Path, name: str) -> None:
    file.with_name(name).write_text(SOURCE)
    stem = name.removesuffix(".py")
    assert refused(name).startswith(f"{name}: the name '{stem}' is taken by an installed module (")
    assert Path(getattr(sys.modules.get("json"), "__file__", None) or "").name == "__init__.py"


def test_a_file_cannot_have_the_name_of_an_installed_distribution(file: Path) -> None:
    file.with_name("penstock_hooks.py").write_text(SOURCE)
    assert "is taken by an installed distribution (penstock-hooks " in refused("penstock_hooks.py")


def test_a_file_that_is_found_on_the_path_does_not_clash_with_itself(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(file.parent))
    assert isinstance(found("acme_lone.py"), Loaded)


def test_two_files_cannot_be_one_module(file: Path) -> None:
    (file.parent / "sub").mkdir()
    (file.parent / "sub" / "acme_lone.py").write_text(SOURCE)
    message = refused("acme_lone.py", "sub/acme_lone.py")
    assert message == "acme_lone.py, sub/acme_lone.py: 2 plugin files are named 'acme_lone'"


def test_a_folder_is_told_how_a_package_is_loaded(file: Path) -> None:
    (file.parent / "package").mkdir()
    assert "a folder is no plugin file, install its package with `uv pip install --editable package`" in refused(
        "package"
    )


def test_the_plugin_file_of_a_package_that_is_not_installed_is_named_by_its_path_with_what_to_do(file: Path) -> None:
    component = 'Component("router", "lone", "acme_package.router:Lone", "Routes.")'
    file.with_name("acme_plugin.py").write_text(
        f"from penstock.hooks import Component, hookimpl\n@hookimpl\ndef routers(): return [{component}]\n"
    )
    registry = Registry([found("acme_plugin.py")])
    with pytest.raises(ProblemError) as caught:
        registry.get("router", "lone").imported("acme_package.router:Lone")
    said = str(caught.value)
    assert said.startswith("router 'lone' is not usable, acme_plugin.py: ModuleNotFoundError: ")
    assert "part of a package: install that with `uv pip install --editable FOLDER`" in said


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("missing.py", r"missing.py: the plugin file cannot be read (No such file or directory)"),
        ("my-router.py", "rename it, for example to my_router.py"),
        ("notes.txt", "rename it, for example to my_router.py"),
    ],
)
def test_a_file_that_cannot_be_a_plugin_is_named(file: Path, name: str, said: str) -> None:
    assert said in refused(name)
