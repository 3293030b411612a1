import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys

import pytest

import penstock.hooks
from penstock.hooks import contracts

PREFIX = "penstock.hooks.contracts."
# Names for types that are declared elsewhere, or unions of them.
ALIASES = {"Answer", "Array", "Profile", "Progress", "Request", "Tensor"}

IMPORT_ALL = """
import importlib, pkgutil, sys
import penstock.hooks
for module in pkgutil.walk_packages(penstock.hooks.__path__, "penstock.hooks."):
    if module.name not in ("penstock.hooks.testing", "penstock.hooks.trace"):
        importlib.import_module(module.name)
print(*(name for name in ("torch", "numpy", "pydantic", "yaml") if name in sys.modules))
"""


def imported(code: str) -> set[str]:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_no_module_needs_numpy_or_torch() -> None:
    assert imported(IMPORT_ALL) == {"pydantic", "yaml"}


@pytest.mark.parametrize(("old", "new"), [("testing", "penstock-conformance"), ("trace", "penstock-traces")])
def test_a_module_that_moved_away_names_the_distribution_that_has_it(old: str, new: str) -> None:
    with pytest.raises(ImportError, match=f"uv add.* {new}"):
        importlib.import_module(f"penstock.hooks.{old}")


def test_describing_a_plugin_needs_no_pydantic() -> None:
    code = "import sys, penstock.hooks; print(*(name for name in ('pydantic', 'yaml', 'numpy') if name in sys.modules))"
    assert imported(code) == set()


def test_every_public_type_says_what_it_is() -> None:
    declared = {name: value for name, value in vars(contracts).items() if inspect.isclass(value)}
    assert [name for name, value in declared.items() if not value.__doc__] == []
    assert {*declared, *ALIASES} == set(contracts.__all__)


def test_every_type_of_a_subject_is_imported_from_the_folder_too() -> None:
    subjects = [importlib.import_module(module.name) for module in pkgutil.iter_modules(contracts.__path__, PREFIX)]
    declared = {
        node.name
        for subject in subjects
        for node in ast.parse(inspect.getsource(subject)).body
        if isinstance(node, ast.ClassDef)
    }
    assert len(declared) > 30
    assert declared == set(contracts.__all__) - ALIASES


def test_the_public_surface_is_what_it_says() -> None:
    assert [name for name in penstock.hooks.__all__ if not hasattr(penstock.hooks, name)] == []


def test_a_router_is_recognised_by_its_attributes() -> None:
    class Mine:
        experts, k, e_score_correction_bias = 8, 2, None

        def __call__(self, hidden_TD: object) -> object: ...

    assert isinstance(Mine(), contracts.Router)
    assert not isinstance(object(), contracts.Router)
