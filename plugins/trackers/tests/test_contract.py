"""Every tracker keeps the laws of trackers, with the real library behind it."""

from importlib.util import find_spec

import pytest
from penstock_trackers import plugin

from penstock.conformance import parametrize_contract


@parametrize_contract(plugin)
def test_contract(case):
    library = case.entry.component.name
    if find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    case()
