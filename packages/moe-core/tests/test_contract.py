"""Every component of the package keeps the laws of its kind."""

from penstock.conformance import parametrize_contract
from penstock.hooks import Registry
from penstock.moe_core import plugin


@parametrize_contract(plugin, registry=Registry.discover())  # the example of `frozen-base` names `glm-moe`
def test_contract(case):
    case()
