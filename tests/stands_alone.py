"""Run by `nox -s wheels` where one wheel is installed beside what it declares and nothing else.

The wheel must hold its own part of the namespace only, describe its components without importing torch, and load the
target of each. The exit message says what does not hold.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
import zipfile
from pathlib import Path

from penstock.hooks.component import Component
from penstock.hooks.discovery import Loaded, discover


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("distribution")
    parser.add_argument("module")
    parser.add_argument("--light", action="store_true", help="the wheel promises to install without torch")
    arguments = parser.parse_args()

    check_contents(arguments.wheel, arguments.module.replace(".", "/"))
    if arguments.light and importlib.util.find_spec("torch"):
        sys.exit(f"{arguments.distribution} installs torch")
    importlib.import_module(arguments.module)
    components = offered(arguments.distribution)
    for component in components:
        component.load_config()
    if "torch" in sys.modules:
        sys.exit(f"{arguments.distribution} imports torch to describe its components")
    for component in components:
        component.load_target()


def check_contents(wheel: Path, folder: str) -> None:
    """No file lies outside the wheel's module, so none can be `penstock/__init__.py`; types are declared."""
    files = [name for name in zipfile.ZipFile(wheel).namelist() if not name.endswith("/")]
    strays = [name for name in files if not name.startswith(f"{folder}/") and ".dist-info/" not in name]
    if strays:
        sys.exit(f"{wheel.name} holds files outside {folder}: {', '.join(strays)}")
    if f"{folder}/py.typed" not in files:
        sys.exit(f"{wheel.name} has no py.typed")


def offered(distribution: str) -> list[Component]:
    """The components of the distribution's plugins, all of which must load."""
    components: list[Component] = []
    for plugin in discover():
        if plugin.origin.distribution == distribution:
            if not isinstance(plugin, Loaded):
                sys.exit(f"{plugin.origin}: {plugin.cause}")
            components.extend(plugin.components)
    return components


if __name__ == "__main__":
    main()
