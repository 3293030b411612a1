"""The task keeps the laws of tasks, with the real harness behind it."""

from penstock_lm_eval import plugin

from penstock.conformance import parametrize_contract


@parametrize_contract(plugin)
def test_contract(case):
    case()
