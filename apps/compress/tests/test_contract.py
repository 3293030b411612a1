"""Every component of the application keeps the laws of its kind."""

from penstock.compress import plugin
from penstock.conformance import parametrize_contract


@parametrize_contract(plugin)
def test_contract(case):
    case()
