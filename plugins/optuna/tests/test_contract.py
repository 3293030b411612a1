"""The command keeps the laws of commands."""

from penstock_optuna import plugin

from penstock.conformance import parametrize_contract


@parametrize_contract(plugin)
def test_contract(case):
    case()
