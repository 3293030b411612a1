"""Routers, balancing losses, loss-free balancing and expert-load metrics for any mixture of experts.

Import from the submodules: routers are in `topk`, `gates`, `sinkhorn`, `cluster` and `controls`, losses in `losses` and
`imbalance`, balancers in `balancers` and `quantile`, metrics in `load`. This module itself imports nothing heavy, so
that the package can be described without torch.
"""
