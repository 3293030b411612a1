"""A lock names the code that runs, without importing it, and comparing two says what differs."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import pytest

from penstock.hooks import Component, ExitCode, ProblemError
from penstock.hooks.discovery import Origin
from penstock.hooks.registry import Choice, Entry
from penstock.run.plugin_lock import content_hash, lock_changes, require_importable


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of a namespace, and a module beside it."""
    folder = tmp_path / "acme_space" / "parts"
    (folder / "deep").mkdir(parents=True)
    for name in ("__init__.py", "router.py", "deep/__init__.py", "deep/helper.py"):
        (folder / name).write_text(f"raise ImportError({name!r})")
    (tmp_path / "acme_space" / "lone.py").write_text("raise ImportError")
    monkeypatch.syspath_prepend(str(tmp_path))
    return folder


def test_the_hash_is_that_of_every_file_of_the_package_and_nothing_is_imported(package):
    before = content_hash("acme_space.parts.router:Router")
    assert content_hash("acme_space.parts.deep.helper:help") == before
    assert not [name for name in sys.modules if name.startswith("acme_space")]
    (package / "deep" / "helper.py").write_text("")
    changed = content_hash("acme_space.parts.router:Router")
    (package / "deep" / "helper.py").rename(package / "deep" / "other.py")
    renamed = content_hash("acme_space.parts.router:Router")
    (package / "data.txt").write_text("no code")
    assert len({before, changed, renamed}) == 3
    assert content_hash("acme_space.parts.router:Router") == renamed


def test_what_lies_where_in_a_package_is_part_of_the_hash(package):
    for name, text in [("a.py", "one"), ("b.py", "two")]:
        (package / name).write_text(text)
    before = content_hash("acme_space.parts:x")
    for name, text in [("a.py", "onet"), ("b.py", "wo")]:
        (package / name).write_text(text)
    assert content_hash("acme_space.parts:x") != before


def test_a_module_in_no_package_is_its_file(package):
    file = package.parent / "lone.py"
    assert content_hash("acme_space.lone:x") == hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.mark.parametrize("target", ["no_such_module:x", "sys:path", "acme_space.missing:x"])
def test_what_has_no_files_has_no_hash(package, target):
    assert content_hash(target) == ""


def locked(name: str = "mine", **changes: object) -> dict[str, object]:
    base = {"kind": "router", "name": name, "distribution": "acme", "version": "1.0", "contract": 1, "hash": "a" * 64}
    return {**base, **changes}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": "1.1"}, "version was 1.0, is now 1.1"),
        ({"contract": 2}, "contract was 1, is now 2"),
        ({"hash": "b" * 64}, "files changed: hash was aaaaaaaaaaaa, is now bbbbbbbbbbbb"),
    ],
)
def test_every_difference_of_a_component_is_said_in_one_line(change, said):
    [line] = lock_changes([locked()], [locked(**change)])
    assert line.startswith("router acme:mine ")
    assert line.endswith(f"is not the code of the run ({said})")


def test_what_is_the_same_or_in_one_lock_alone_is_no_difference():
    assert lock_changes([locked(), locked("gone")], [locked(), locked("new")]) == []


def test_all_components_that_cannot_be_imported_are_named_at_once():
    def choice(kind: str, target: str) -> Choice:
        return Choice(Entry(Component(kind, "mine", target, ""), Origin("acme", "1.0", "own")))

    broken = [choice("router", "no_such_router:R"), choice("balancer", "no_such_balancer:B")]
    with pytest.raises(ProblemError) as caught:
        require_importable([*broken, choice("task", "json:dumps")], choice("quantizer", "json:loads"))
    assert caught.value.exit_code is ExitCode.PLUGIN
    assert [problem.what for problem in caught.value.problems] == [
        "router 'mine' is not usable",
        "balancer 'mine' is not usable",
    ]
