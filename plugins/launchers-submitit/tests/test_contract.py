"""Every component of the package keeps the laws of its kind: as processes of this machine, and on a Slurm that runs
what it is given."""

from penstock_submitit import plugin

from penstock.conformance import parametrize_contract


@parametrize_contract(plugin, settings={"submitit": {"cluster": "local", "workers": 4}})
def test_contract(case):
    case()
