"""Docstrings of the interpreter's built-in modules: documentation that is in no source file."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from penstock.hooks.contracts import Document

# Importing these affects the terminal, or they contain only test helpers.
_LEFT_OUT = ("_test", "xx", "readline", "_curses", "_tkinter")


def builtin_documents() -> Iterator[Document]:
    """One document per module of `sys.builtin_module_names`, sorted: signatures and docstrings of its public names."""
    for name in sorted(sys.builtin_module_names):
        if not name.startswith(_LEFT_OUT):
            text = _module_text(importlib.import_module(name))
            if text:
                yield Document(text, f"builtin/{name}")


def _module_text(module: ModuleType) -> str:
    parts = [_entry(module.__name__, module), *_members(module)]
    return "\n\n".join(part for part in parts if part)


def _members(owner: Any) -> Iterator[str]:
    for name, member in sorted(vars(owner).items()):
        if _documented(name, member):
            yield _entry(f"{owner.__name__}.{name}", member)
            if inspect.isclass(member) and inspect.ismodule(owner):
                yield from _members(member)


def _documented(name: str, member: Any) -> bool:
    """Whether the member is public and written in C. A Python function was patched in (by `site` or IPython), and names
    that start with an underscore repeat the docstrings of `object`."""
    native = inspect.isclass(member) or (inspect.isroutine(member) and not inspect.isfunction(member))
    return native and not name.startswith("_")


def _entry(name: str, documented: Any) -> str:
    text = documented.__doc__
    if not isinstance(text, str) or not text.strip():
        return ""
    return f"{name}{_signature(documented)}\n{inspect.cleandoc(text)}"


def _signature(documented: Any) -> str:
    try:
        return str(inspect.signature(documented))
    except (TypeError, ValueError):  # a module, or C code that does not declare one
        return ""
