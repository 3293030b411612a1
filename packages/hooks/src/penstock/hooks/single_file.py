"""Plugins that are one file: the same hooks and descriptions as in a package, without the package.

The file is loaded as the module that its stem names, so that its components' targets are "stem:attribute", as they are
once the file has become a package. Its distribution is the stem, its version begins the SHA-256 of its bytes: whatever
is said of an installed plugin can be said of it.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import sys
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

from penstock.hooks.problems import Problem, ProblemError


@dataclass(frozen=True, slots=True)
class PluginFile:
    """A plugin file as it was read. What is run is what was hashed, whatever becomes of the file."""

    path: Path
    source: bytes

    @classmethod
    def read(cls, name: str) -> PluginFile:
        """Reads the file; raises `ProblemError` where there is none, or its stem cannot be the name of its module."""
        path = Path(name)
        if path.suffix != ".py" or not path.stem.isidentifier():
            what = "a plugin file is named like the module that it is loaded as"
            raise ProblemError(Problem("bad-plugin-file", what, name, "name it such as my_router.py"))
        try:
            found = cls(path.resolve(), path.read_bytes())
        except OSError as error:
            what = f"the plugin file cannot be read ({error.strerror})"
            raise ProblemError(Problem("bad-plugin-file", what, name)) from error
        owner = _other_owner(path.stem, found.path)
        if owner:
            fix = "give the file another name"
            raise ProblemError(Problem("plugin-file-clash", f"'{path.stem}' is the name of {owner}", name, fix))
        return found

    @property
    def module(self) -> str:
        return self.path.stem

    @property
    def version(self) -> str:
        """The first 12 hex digits of the SHA-256 of its bytes."""
        return hashlib.sha256(self.source).hexdigest()[:12]

    def load(self) -> ModuleType:
        """Runs the file as a module of its stem's name; raises whatever it raises, and has then left no module."""
        spec = importlib.util.spec_from_file_location(self.module, self.path)
        assert spec is not None  # it ends in .py
        module = importlib.util.module_from_spec(spec)
        sys.modules[self.module] = module
        try:
            # not `spec.loader`, which would take a cached bytecode file of the same second for the same source
            exec(compile(self.source, self.path, "exec", dont_inherit=True), module.__dict__)
        except BaseException:
            del sys.modules[self.module]
            raise
        return module


def _other_owner(stem: str, path: Path) -> str | None:
    """What is installed under the name already; None where nothing is, or the file itself is found on `sys.path`."""
    spec = find_spec(stem)
    if spec is not None and (spec.origin is None or Path(spec.origin).resolve() != path):
        return f"an installed module ({spec.origin or ', '.join(spec.submodule_search_locations or ())})"
    try:
        distribution = importlib.metadata.distribution(stem)
    except importlib.metadata.PackageNotFoundError:
        return None
    return f"an installed distribution ({distribution.metadata['Name']} {distribution.version})"


def find_spec(name: str, path: list[str] | None = None) -> ModuleSpec | None:
    """Where the import system would find a module, whatever it has loaded before; imports nothing, no parents either.
    `path` is where the parent's modules lie."""
    for finder in sys.meta_path:
        search = getattr(finder, "find_spec", None)
        spec: ModuleSpec | None = search(name, path) if search else None
        if spec is not None:
            return spec
    return None
