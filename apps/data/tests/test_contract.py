"""Every component of the application keeps the laws of its kind."""

from penstock.conformance import parametrize_contract
from penstock.data import plugin


@parametrize_contract(plugin)
def test_contract(case):
    case()
