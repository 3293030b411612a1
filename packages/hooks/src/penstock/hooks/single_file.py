"""Plugins that are one file: the same hooks and descriptions as in a package, without the package.

The file is loaded as a module named after its stem, so its components' targets are "stem:attribute", and stay the same
if the file becomes a package. Its distribution is the stem, and its version is the first digits of the SHA-256 of its
bytes, so it can be listed and locked like an installed plugin.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

from penstock.hooks import installed
from penstock.hooks.problems import Problem, ProblemError


@dataclass(frozen=True, slots=True)
class PluginFile:
    """A plugin file as it was read. The bytes that were hashed are the bytes that run, even if the file changes."""

    path: Path
    source: bytes

    @classmethod
    def read(cls, name: str) -> PluginFile:
        """Reads the file; raises `ProblemError` if it is missing, or its stem cannot be a module name."""
        path = Path(name)
        if path.is_dir():
            what, fix = "a folder is no plugin file", f"install its package with `uv pip install --editable {name}`"
            raise ProblemError(Problem("bad-plugin-file", what, name, fix))
        if path.suffix != ".py" or not path.stem.isidentifier():
            what = "the name of a plugin file must be a Python module name and end in .py"
            raise ProblemError(Problem("bad-plugin-file", what, name, "rename it, for example to my_router.py"))
        try:
            found = cls(path.resolve(), path.read_bytes())
        except OSError as error:
            what = f"the plugin file cannot be read ({error.strerror})"
            raise ProblemError(Problem("bad-plugin-file", what, name)) from error
        owner = _other_owner(path.stem, found.path)
        if owner:
            fix = "give the file another name"
            raise ProblemError(Problem("plugin-file-clash", f"the name '{path.stem}' is taken by {owner}", name, fix))
        return found

    @property
    def module(self) -> str:
        return self.path.stem

    @property
    def version(self) -> str:
        """The first 12 hex digits of the SHA-256 of its bytes."""
        return hashlib.sha256(self.source).hexdigest()[:12]

    def load(self) -> ModuleType:
        """Runs the file as a module named after its stem. If it raises, the error propagates and no module is left."""
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
    """What is already installed under the name; None if nothing is, or if it is this file itself on `sys.path`."""
    spec = find_spec(stem)
    if spec is not None and (spec.origin is None or Path(spec.origin).resolve() != path):
        return f"an installed module ({spec.origin or ', '.join(spec.submodule_search_locations or ())})"
    distribution = installed.named(stem)
    return f"an installed distribution ({distribution})" if distribution else None


def find_spec(name: str, path: list[str] | None = None) -> ModuleSpec | None:
    """Where the import system would find a module, ignoring modules already loaded; imports nothing, not even parents.
    `path` is the search path of the parent package."""
    for finder in sys.meta_path:
        search = getattr(finder, "find_spec", None)
        spec: ModuleSpec | None = search(name, path) if search else None
        if spec is not None:
            return spec
    return None
