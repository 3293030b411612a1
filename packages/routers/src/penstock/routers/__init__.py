"""Routers, balancing losses, loss-free balancing and expert-load metrics for any mixture of experts.

Import from the submodules: `topk`, `losses`, `balancers`, `load`. This module itself imports nothing heavy, so that
the package can be described without torch.
"""
