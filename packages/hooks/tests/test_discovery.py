"""Distributions are real: a dist-info folder and a module on `sys.path`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from penstock.hooks import CONTRACTS, ProblemError, Registry, Window
from penstock.hooks.discovery import (
    Blocked,
    Broken,
    Discovered,
    Incompatible,
    Loaded,
    Origin,
    Selection,
    discover,
)
from penstock.hooks.installed import canonical

HEAD = "from penstock.hooks import Component, hookimpl\n"
COMPONENT = "Component(kind='router', name='mine', target='json:dumps', summary='')"
WORKING = f"{HEAD}\n@hookimpl\ndef routers():\n    return [{COMPONENT}]\n"


def install(folder: Path, distribution: str, code: str, version: str = "1.0", entry_point: str = "main") -> None:
    """A distribution with one plugin module."""
    module = canonical(distribution).replace("-", "_") + "_plugin"
    (folder / f"{module}.py").write_text(code)
    info = folder / f"{canonical(distribution).replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(f"[penstock]\n{entry_point} = {module}\n")


def found(distribution: str, **selection: Any) -> Discovered:
    plugins = discover(Selection(**selection))
    [plugin] = [plugin for plugin in plugins if plugin.origin.distribution == distribution]
    return plugin


def test_a_working_plugin_is_loaded_with_its_origin(plugin_path: Path) -> None:
    install(plugin_path, "Acme_Router", WORKING, "2.1", "acme")
    plugin = found("acme-router")
    assert isinstance(plugin, Loaded)
    assert plugin.origin == Origin("acme-router", "2.1", "acme")
    assert str(plugin.origin) == "acme-router 2.1"
    assert [component.name for component in plugin.components] == ["mine"]


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("def f(:", "SyntaxError"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        (WORKING.replace("routers", "ruoters"), "unknown hook 'ruoters', did you mean 'routers'?"),
        (WORKING.replace("routers()", "routers(config)"), "hook argument 'config'|Argument"),
        (WORKING.replace("@hookimpl\n", ""), "function routers has the name of a hook but no @hookimpl"),
        (WORKING.replace("return", "1 +"), "TypeError"),
        (WORKING.replace(f"return [{COMPONENT}]", "pass"), "must return a list of Component, not NoneType"),
        (WORKING.replace(f"[{COMPONENT}]", COMPONENT), "must return a list of Component, not Component"),
        (WORKING.replace("return", "yield"), "must return a list of Component, not generator"),
        (WORKING.replace(COMPONENT, "'mine'"), "must return a list of Component, but it contains 'mine'"),
        (WORKING.replace(COMPONENT, f"{COMPONENT}, {COMPONENT}"), "has two components 'mine'"),
        (WORKING.replace("def routers", "def balancers"), "yields kind 'balancer', but 'mine' is of kind 'router'"),
        (WORKING.replace("kind='router'", "kind='ruoter'"), "unknown kind 'ruoter'"),
    ],
)
def test_what_is_wrong_with_a_plugin_is_a_value_and_stops_no_other(plugin_path: Path, code: str, cause: str) -> None:
    install(plugin_path, "acme-bad", code)
    install(plugin_path, "acme-good", WORKING)
    bad = found("acme-bad")
    assert isinstance(bad, Broken)
    assert any(part in bad.cause for part in cause.split("|"))
    assert isinstance(found("acme-good"), Loaded)


def test_ctrl_c_is_not_a_property_of_a_plugin(plugin_path: Path) -> None:
    install(plugin_path, "acme", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        discover()


def test_a_plugin_for_another_contract_is_incompatible(plugin_path: Path) -> None:
    install(plugin_path, "acme", WORKING.replace("summary=''", "summary='', contract=99"))
    plugin = found("acme")
    assert isinstance(plugin, Incompatible)
    assert plugin.cause == "router 'mine' needs contract 99, but this release supports 1"


def test_an_engine_that_serves_is_never_taken_for_one_that_trains(plugin_path: Path) -> None:
    install(
        plugin_path, "acme", WORKING.replace("def routers", "def engines").replace("kind='router'", "kind='engine'")
    )
    plugin = found("acme")
    assert isinstance(plugin, Incompatible)
    cause = "engine 'mine' needs contract 1, but this release supports 2: what serves a model is a 'server' now"
    assert plugin.cause == cause
    with pytest.raises(ProblemError, match="mine"):
        Registry([plugin]).get("engine", "mine")


def test_a_contract_inside_the_window_is_supported(plugin_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CONTRACTS, "router", Window(2, 3))
    install(plugin_path, "acme-old", WORKING)
    install(plugin_path, "acme-new", WORKING.replace("summary=''", "summary='', contract=2"))
    old = found("acme-old")
    assert isinstance(old, Incompatible)
    assert old.cause == "router 'mine' needs contract 1, but this release supports 2 to 3"
    assert isinstance(found("acme-new"), Loaded)


def test_a_cause_is_one_line_whatever_the_error_says(plugin_path: Path) -> None:
    mute = "class Mute(Exception):\n    def __str__(self): return 1 / 0\nraise Mute"
    install(plugin_path, "acme-long", "raise ImportError('one\\ntwo\\n\\nthree')")
    install(plugin_path, "acme-mute", mute)
    causes = [plugin.cause for plugin in map(found, ("acme-long", "acme-mute")) if isinstance(plugin, Broken)]
    assert causes == ["ImportError: one two three", "Mute: its message cannot be read (ZeroDivisionError)"]


@pytest.mark.parametrize("spelling", ["acme-bad", "Acme_Bad", "acme.bad"])
def test_a_blocked_plugin_is_not_imported(plugin_path: Path, spelling: str) -> None:
    install(plugin_path, "acme-bad", "raise SystemExit")
    plugin = found("acme-bad", blocked=(spelling,))
    assert isinstance(plugin, Blocked)
    assert plugin == Blocked(Origin("acme-bad", "1.0", "main"))
    assert "blocked" in plugin.cause
    assert "acme_bad_plugin" not in sys.modules


@pytest.mark.parametrize(
    ("selection", "causes"),
    [
        ({}, [None, None, None]),
        ({"no_plugins": True}, ["switched off by --no-plugins", "switched off by --no-plugins", None]),
        ({"only": ("Acme",)}, [None, "not among --only Acme", None]),
        ({"only": ("acme", "zenith")}, [None, None, None]),
        ({"only": ("acme",), "blocked": ("penstock-routers",)}, [None, "not among --only acme", "blocked by the user"]),
    ],
)
def test_a_selection_leaves_our_own_and_says_why_others_are_off(
    plugin_path: Path, selection: dict[str, Any], causes: list[str | None]
) -> None:
    for distribution in ("acme", "zenith", "penstock-routers"):
        install(plugin_path, distribution, WORKING)
    plugins = [found(name, **selection) for name in ("acme", "zenith", "penstock-routers")]
    assert [plugin.cause if isinstance(plugin, Blocked) else None for plugin in plugins] == causes
    off = {plugin.origin.distribution for plugin in plugins if isinstance(plugin, Blocked)}
    assert not {f"{name.replace('-', '_')}_plugin" for name in off} & set(sys.modules)


def test_only_what_is_installed_can_be_selected(plugin_path: Path) -> None:
    install(plugin_path, "acme-router", WORKING)
    with pytest.raises(ProblemError, match=r"no plugin of 'acme-ruoter' is installed, did you mean 'acme-router'\?"):
        discover(Selection(only=("acme-ruoter",)))


def test_a_selection_written_as_options_is_that_selection() -> None:
    selection = Selection(no_plugins=True, only=("a", "b"), files=("./c.py",))
    assert selection.arguments() == ["--no-plugins", "--only", "a", "--only", "b", "--plugin", "./c.py"]
    assert Selection().arguments() == []


def test_name_and_version_are_read_from_the_head_of_the_metadata(plugin_path: Path) -> None:
    install(plugin_path, "acme", WORKING)
    text = "Metadata-Version: 2.4\nVERSION: 1.0+local\nname:  Acme_Parts \n\nName: other\nVersion: 9\n"
    (plugin_path / "acme-1.0.dist-info" / "METADATA").write_text(text)
    assert found("acme-parts").origin == Origin("acme-parts", "1.0+local", "main")


def test_a_half_removed_distribution_stops_nothing(plugin_path: Path) -> None:
    install(plugin_path, "acme", WORKING)
    (plugin_path / "acme-1.0.dist-info" / "METADATA").unlink()
    (plugin_path / "acme_plugin.py").unlink()
    assert isinstance(found("unknown"), Broken)


def test_a_plugin_without_components_is_loaded(plugin_path: Path) -> None:
    install(plugin_path, "acme", "")
    assert found("acme") == Loaded(Origin("acme", "1.0", "main"), ())


def test_two_distributions_may_offer_the_same_name(plugin_path: Path) -> None:
    install(plugin_path, "acme", WORKING)
    install(plugin_path, "zenith", WORKING)
    ids = [entry.id for entry in Registry.discover().entries("router") if entry.component.name == "mine"]
    assert ids == ["acme:mine", "zenith:mine"]


def test_names_mean_the_same_under_every_hash_seed(plugin_path: Path) -> None:
    ours = WORKING.replace("'mine'", "'sigmoid-topk'")
    for distribution, code in [("zenith", ours), ("acme", ours), ("penstock-routers", ours), ("mid", WORKING)]:
        install(plugin_path, distribution, code)
    code = (
        "import json\nfrom penstock.hooks import Registry\nregistry = Registry.discover(warn=print)\n"
        "print(json.dumps([[str(plugin.origin) for plugin in registry.plugins],"
        "[entry.id for entry in registry.entries()], registry.get('router', 'sigmoid-topk').id,"
        "[registry.name_of(entry) for entry in registry.entries('router')]]))"
    )
    path = os.pathsep.join([str(plugin_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    answers = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": str(seed), "PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in range(20)
    ]
    assert len(set(answers)) == 1
    warning, answer = answers[0].splitlines()
    assert warning.endswith(
        "comes from acme 1.0, written `acme:sigmoid-topk` and zenith 1.0, written `zenith:sigmoid-topk`"
    )
    origins, _, chosen, names = json.loads(answer)
    assert origins == sorted(origins)
    assert {"acme 1.0", "mid 1.0", "zenith 1.0"} <= set(origins)
    assert chosen == "penstock-routers:sigmoid-topk"
    assert {"sigmoid-topk", "acme:sigmoid-topk", "zenith:sigmoid-topk", "mine"} <= set(names)


@pytest.mark.parametrize("name", ["Acme.Router", "acme__router", "ACME-_.ROUTER"])
def test_distribution_names_compare_as_indexes_compare_them(name: str) -> None:
    assert canonical(name) == "acme-router"
