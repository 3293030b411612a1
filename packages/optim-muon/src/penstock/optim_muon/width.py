"""How learning rates follow the width of a model, so that a rate found for a small one serves a wide one. No torch.

A step should change what a layer puts out by the same amount at every width. For Muon the change is the spectral norm
of the update, which should be sqrt(rows / columns) (Yang, Simon and Bernstein, arXiv 2310.17813): `original` has that
scale already, `match_rms` is sqrt(width) times as large. For AdamW, whose entries have one size, the change grows with
the number of inputs, so the rate falls with it (Yang et al., arXiv 2203.03466, table 8). Embeddings, norms and biases
have one input a token, whatever the width.

The rules are about width alone: depth, batch size and the length of training stay as they are.
"""

from __future__ import annotations

from penstock.hooks.contracts import ParameterRole

WITH_WIDE_INPUTS = frozenset({ParameterRole.MATRIX, ParameterRole.EXPERT, ParameterRole.ROUTER, ParameterRole.HEAD})


def muon_factor(ratio: float, scaling: str) -> float:
    """Factor on Muon's rate in a model that is `ratio` times as wide."""
    return ratio**-0.5 if scaling == "match_rms" else 1.0


def adamw_factor(ratio: float, role: ParameterRole) -> float:
    """Factor on AdamW's rate of a role in a model that is `ratio` times as wide."""
    return 1 / ratio if role in WITH_WIDE_INPUTS else 1.0
