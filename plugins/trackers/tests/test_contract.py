"""Every tracker keeps the laws of trackers, with the real library behind it."""

from importlib.util import find_spec

import pytest
from penstock_trackers import plugin

from penstock.conformance import parametrize_contract

IMPORTED = {"prometheus": "prometheus_client"}


@parametrize_contract(plugin)
def test_contract(case):
    name = case.entry.component.name or ""
    library = IMPORTED.get(name, name)
    if find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    case()
