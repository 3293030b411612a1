import ast
import inspect
import subprocess
import sys

import penstock.hooks
from penstock.hooks import contracts

IMPORT_ALL = """
import importlib, pkgutil, sys
import penstock.hooks
for module in pkgutil.iter_modules(penstock.hooks.__path__, "penstock.hooks."):
    if module.name not in sys.argv[1:]:
        importlib.import_module(module.name)
print(*(name for name in ("torch", "numpy", "pydantic", "yaml") if name in sys.modules))
"""


def imported(code: str, *arguments: str) -> set[str]:
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_only_the_trace_needs_numpy_and_nothing_needs_torch() -> None:
    assert imported(IMPORT_ALL, "penstock.hooks.trace") == {"pydantic", "yaml"}
    assert imported(IMPORT_ALL) == {"pydantic", "yaml", "numpy"}


def test_describing_a_plugin_needs_no_pydantic() -> None:
    code = "import sys, penstock.hooks; print(*(name for name in ('pydantic', 'yaml', 'numpy') if name in sys.modules))"
    assert imported(code) == set()


def test_every_public_type_says_what_it_is() -> None:
    declared = [node.name for node in ast.parse(inspect.getsource(contracts)).body if isinstance(node, ast.ClassDef)]
    assert [name for name in declared if not getattr(contracts, name).__doc__] == []


def test_the_public_surface_is_what_it_says() -> None:
    assert [name for name in penstock.hooks.__all__ if not hasattr(penstock.hooks, name)] == []


def test_a_router_is_recognised_by_its_attributes() -> None:
    class Mine:
        experts, k, e_score_correction_bias = 8, 2, None

        def __call__(self, hidden_TD: object) -> object: ...

    assert isinstance(Mine(), contracts.Router)
    assert not isinstance(object(), contracts.Router)
