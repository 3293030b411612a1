"""Discovery of plugins against pluggy's own loader, over the same 20 installed plugins.

Each plugin is a distribution of its own, a `.dist-info` folder and a module that offers one router, all in one folder
on `sys.path` beside what is installed here. The peer, `PluginManager.load_setuptools_entrypoints`, imports and
registers the same modules in the same process; it validates no component, says nothing of versions, and drops the
second plugin of a name. Before every round the modules are forgotten, so both import them; bytecode is cached.

What `penstock plugins list` imports is read from a process of its own.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pluggy
from measure import Bar, finish, interleaved, json_option, rounds

from penstock.hooks import spec
from penstock.hooks.discovery import GROUP, Loaded, discover

PLUGINS = 20
PLUGIN = """
from penstock.hooks import Component, hookimpl


@hookimpl
def routers():
    return [Component(kind="router", name="router-{number}", target="acme_{number}:Router", summary="One of many.")]
"""
IMPORTED = (
    "import sys; from penstock.cli.main import run; run(['plugins', 'list']); print(*sys.modules, file=sys.stderr)"
)


def install(folder: Path, number: int) -> None:
    """One light plugin, as a wheel lays it out."""
    (folder / f"acme_{number}.py").write_text(PLUGIN.format(number=number))
    info = folder / f"acme_{number}-1.{number}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.4\nName: acme-{number}\nVersion: 1.{number}\n\nA router.\n")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\nacme-{number} = acme_{number}\n")


def forget() -> None:
    """What is installed here stays imported in both cases; the 20 are imported anew."""
    for number in range(PLUGINS):
        sys.modules.pop(f"acme_{number}", None)


def anew(load: Callable[[], Any]) -> Callable[[], Any]:
    def forgotten_and_loaded() -> Any:
        forget()
        return load()

    return forgotten_and_loaded


def load_with_pluggy() -> int:
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(spec)
    return manager.load_setuptools_entrypoints(GROUP)


@click.command(help=__doc__)
@rounds(25)
@json_option
def main(rounds: int, as_json: bool) -> None:
    cases = {
        "pluggy, load_setuptools_entrypoints": anew(load_with_pluggy),
        "penstock, discover": anew(discover),
    }
    with tempfile.TemporaryDirectory() as name:
        for number in range(PLUGINS):
            install(Path(name), number)
        sys.path.insert(0, name)
        importlib.invalidate_caches()
        found = sum(isinstance(plugin, Loaded) for plugin in discover())
        theirs = load_with_pluggy()
        seconds = interleaved(cases, rounds=rounds)
        sys.path.remove(name)
    peer, ours = seconds.values()
    listed = subprocess.run([sys.executable, "-c", IMPORTED], capture_output=True, text=True, check=True)
    heavy = [module for module in listed.stderr.split() if module.partition(".")[0] == "torch"]
    rows = [{"loader": loader, "ms": each * 1e3, "of pluggy": each / peer} for loader, each in seconds.items()]
    bars = [
        Bar("discover / load_setuptools_entrypoints", ours / peer, 1.5, at_least=False),
        Bar("plugins found / pluggy's", found / theirs, 1),
        Bar("modules of torch that `plugins list` imports", len(heavy), 0, at_least=False),
    ]
    finish("plugins", rows, bars, as_json, plugins=found)


if __name__ == "__main__":
    main()
