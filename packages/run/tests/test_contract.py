"""Every component of the package keeps the laws of its kind."""

from penstock.conformance import parametrize_contract
from penstock.run import plugin


@parametrize_contract(plugin)
def test_contract(case):
    case()
