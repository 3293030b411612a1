import pkgutil
import re
import sys
from pathlib import Path
from typing import Any

import pytest

import penstock.hooks
from penstock.hooks.discovery import GROUP

README = (Path(__file__).parents[1] / "README.md").read_text()
BEHIND_CONFIG = {"document", "overrides", "schema", "validation", "explanation", "json_schema"}


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.delitem(sys.modules, "acme_router", raising=False)
    namespace: dict[str, Any] = {"__name__": "readme"}
    for fence in re.findall(r"^```python\n(.*?)^```", README, re.M | re.S):
        exec(compile(fence, "README.md", "exec"), namespace)
    assert namespace["run"].router.settings.k == 3
    del sys.modules["acme_router"]


def test_the_table_names_every_module_that_a_user_imports() -> None:
    modules = {module.name for module in pkgutil.iter_modules(penstock.hooks.__path__)}
    named = set(re.findall(r"^\| `(\w+)` \|", README, re.M))
    assert named == modules - BEHIND_CONFIG - {"first_contract", "installed", "known", "testing", "trace"}


def test_the_entry_point_group_is_the_one_that_is_searched() -> None:
    assert f"[project.entry-points.{GROUP}]" in README
