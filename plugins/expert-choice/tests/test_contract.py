"""Every component of the package keeps the laws of its kind."""

from penstock_expert_choice import plugin

from penstock.conformance import parametrize_contract


@parametrize_contract(plugin)
def test_contract(case):
    case()
