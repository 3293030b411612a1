"""All-to-all time of expert parallelism, predicted from a measured routing trace. Needs numpy and nothing else.

Import from the submodules: `penstock.netsim.topology`, `placement`, `traffic`, `simulate`, `hardware`.
"""
