"""A third-party plugin on disk, imported as any plugin is, and the registry that holds it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from penstock.hooks import Component, Registry
from penstock.hooks.discovery import Loaded, Origin

SOURCE = '''
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import model_validator

from penstock.hooks.config import OfKind, Schema, choice_of
from penstock.hooks.registry import Choice


class TopKSettings(Schema):
    k: int = 2
    """Experts a token."""
    scale: float = 1.0
    """What the weights are multiplied by."""


class NeedySettings(Schema):
    k: int


class RateSettings(Schema):
    rate: float = 1e-3


class CheckedSettings(Schema):
    low: int = 0
    high: int = 1

    @model_validator(mode="after")
    def _ordered(self):
        if self.low > self.high:
            raise ValueError("low is above high")
        return self


class Inner(Schema):
    depth: int = 1


class NestedSettings(Schema):
    inner: Inner = Inner()
    routers: list[choice_of("router")] = []


class ModelSettings(Schema):
    preset: str | None = None
    width: int
    router: choice_of("router") = "top-k"

    @classmethod
    def presets(cls):
        return {"small": {"width": 16, "router": {"use": "top-k", "scale": 3.0}}, "large": {"width": 4096}}


class Opaque:
    pass


class OpaqueSettings(Schema):
    value: Opaque = Opaque()


not_a_schema = dict


def record(**arguments):
    return arguments


command = object()
'''


@pytest.fixture(scope="session")
def parts(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """The plugin's module."""
    folder = tmp_path_factory.mktemp("plugin")
    (folder / "acme_parts.py").write_text(SOURCE)
    sys.path.insert(0, str(folder))
    return importlib.import_module("acme_parts")


@pytest.fixture
def registry(parts: ModuleType) -> Registry:
    """Everything that the plugin offers."""
    table = [
        ("router", "top-k", "TopKSettings"),
        ("router", "needy", "NeedySettings"),
        ("router", "bare", None),
        ("router", "checked", "CheckedSettings"),
        ("router", "nested", "NestedSettings"),
        ("balance-loss", "penalty", "RateSettings"),
        ("balancer", "nudge", "RateSettings"),
        ("architecture", "model", "ModelSettings"),
    ]
    components = [
        Component(kind, name, "acme_parts:record", f"A {kind}.", schema and f"acme_parts:{schema}")
        for kind, name, schema in table
    ]
    return Registry([Loaded(Origin("acme", "1.0", "acme"), tuple(components))])


@pytest.fixture
def plugin_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on `sys.path` for distributions; modules imported from it are forgotten afterwards."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in (getattr(sys.modules[name], "__file__", None) or ""):
            del sys.modules[name]
