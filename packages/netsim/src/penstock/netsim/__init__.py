"""All-to-all time of expert parallelism, predicted from a measured routing trace. Needs only numpy.

Import from the submodules: `penstock.netsim.topology`, `placement`, `traffic`, `simulate`, `hardware`.
"""
