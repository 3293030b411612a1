"""Distributions are real: a dist-info folder on `sys.path`, sound or not."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from penstock.hooks import installed
from penstock.hooks.discovery import Broken, Discovered, Loaded, discover
from penstock.hooks.registry import Registry

PLUGIN = """
from penstock.hooks import Component, hookimpl
@hookimpl
def routers():
    return [Component(kind="router", name="mine", target="json:dumps", summary="")]
"""
MODULE = "a_plugin_that_works"


def install(folder: Path, name: str, points: bytes, metadata: bytes | None = None) -> None:
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    head = f"Metadata-Version: 2.1\nName: {name}\n".encode()
    (info / "METADATA").write_bytes(head + (b"Version: 1.0\n" if metadata is None else metadata))
    (info / "entry_points.txt").write_bytes(points)
    (folder / f"{MODULE}.py").write_text(PLUGIN)


def plugins_of(name: str) -> list[Discovered]:
    return [plugin for plugin in discover() if plugin.origin.distribution == name]


@pytest.mark.parametrize(
    ("points", "why"),
    [
        (b"[console_scripts]\na line\n", "the line 'a line' is not NAME = VALUE"),
        (b"[console_scripts]\nx = caf\xe9:main\n", "it is not UTF-8"),
    ],
)
def test_a_distribution_that_cannot_be_read_is_named_and_stops_no_other(
    plugin_path: Path, points: bytes, why: str
) -> None:
    install(plugin_path, "stranger", points)
    install(plugin_path, "acme", f"[penstock]\nmain = {MODULE}\n".encode())
    [stranger], [acme] = plugins_of("stranger"), plugins_of("acme")
    assert isinstance(stranger, Broken)
    assert f"its entry_points.txt cannot be read ({why})" in stranger.cause
    assert isinstance(acme, Loaded)


def test_a_bad_line_of_another_section_leaves_a_plugin_of_the_same_file_usable(plugin_path: Path) -> None:
    install(plugin_path, "acme", f"[console_scripts]\nbad\n[penstock]\n# ours\nmain={MODULE}\n".encode())
    broken, loaded = plugins_of("acme")
    assert (broken.origin.entry_point, loaded.origin.entry_point) == ("entry_points.txt", "main")
    assert isinstance(loaded, Loaded)


def test_metadata_of_another_encoding_still_gives_name_and_version(plugin_path: Path) -> None:
    points = f"[penstock]\nmain = {MODULE}\n".encode()
    install(plugin_path, "acme", points, b"Author: Andr\xe9\nVersion: 1.0\n")
    [acme] = plugins_of("acme")
    assert isinstance(acme, Loaded)
    assert str(acme.origin) == "acme 1.0"
    assert installed.versions()["acme"] == "1.0"


def test_a_leftover_folder_hides_no_distribution(plugin_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    before = tmp_path_factory.mktemp("before")
    (before / "acme-0.1.dist-info").mkdir()
    (plugin_path / "acme-0.1.dist-info").mkdir()
    install(plugin_path, "acme", f"[penstock]\nmain = {MODULE}\n".encode())
    sys.path.insert(0, str(before))
    try:
        [acme] = plugins_of("acme")
        assert installed.named("acme") == "acme 1.0"
    finally:
        sys.path.remove(str(before))
    assert isinstance(acme, Loaded)


def test_the_first_of_two_installations_is_the_one_that_counts(
    plugin_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    first = tmp_path_factory.mktemp("first")
    install(plugin_path, "acme", f"[penstock]\nmain = {MODULE}\n".encode())
    install(first, "acme", b"[console_scripts]\nx = y:z\n")
    sys.path.insert(0, str(first))
    try:
        assert plugins_of("acme") == []
    finally:
        sys.path.remove(str(first))


def test_an_entry_point_that_is_no_path_says_so(plugin_path: Path) -> None:
    install(plugin_path, "acme", b"[penstock]\nmain = not a module!\n")
    [acme] = plugins_of("acme")
    assert isinstance(acme, Broken)
    assert acme.cause == "ValueError: its entry point 'not a module!' is not the path of a module"


NOISY = """
from penstock.hooks import Component, hookimpl
print("at import")
class Router:
    def __init__(self): print("when built")
@hookimpl
def routers():
    print("in the hook")
    return [Component(kind="router", name="noisy", target="noisy:Router", summary="")]
"""


def test_what_a_plugin_prints_goes_to_stderr(plugin_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    install(plugin_path, "noisy", b"[penstock]\nmain = noisy\n")
    (plugin_path / "noisy.py").write_text(NOISY)
    registry = Registry.discover()
    registry.build("router", "noisy")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == ["at import", "in the hook", "when built"]
