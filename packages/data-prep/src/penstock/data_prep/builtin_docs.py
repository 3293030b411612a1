"""Docstrings of what is built into the interpreter: documentation that stands in no source file."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from penstock.hooks.contracts import Document

# Importing these acts on the terminal, or they hold test helpers alone.
_LEFT_OUT = ("_test", "xx", "readline", "_curses", "_tkinter")


def builtin_documents() -> Iterator[Document]:
    """One document a module of `sys.builtin_module_names`, sorted: signatures and docstrings of its public names."""
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
    """Public and written in C: a Python function was patched in (by `site` or IPython), and the names that start with
    an underscore repeat what `object` says of them."""
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
