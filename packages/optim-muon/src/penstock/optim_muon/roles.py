"""Which rule steps which parameter. Imports no torch, so configs are checked with the code that runs them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from penstock.hooks.contracts import ParameterRole, Tensor

Parameters = Mapping[ParameterRole, Mapping[str, Tensor]]

MUON_ROLES = (ParameterRole.MATRIX, ParameterRole.EXPERT)

# The scale of norms and biases is meaningful. Decaying embeddings shrinks the residual stream and raises its
# gradients: OLMo 2 stopped it for stability (arXiv 2501.00656 section 3).
NO_DECAY = frozenset({ParameterRole.NORM, ParameterRole.BIAS, ParameterRole.EMBEDDING})


def checked_muon_roles(roles: Iterable[str]) -> tuple[ParameterRole, ...]:
    """The roles as `ParameterRole`s; raises ValueError, with the reason, for one that Muon must not step."""
    checked = tuple(ParameterRole(role) for role in roles)
    for role in checked:
        if role not in MUON_ROLES:
            raise ValueError(f"muon_roles contains '{role}': {_why_not(role)}; allowed: 'matrix' and 'expert'")
    return checked


def checked_rates(role_lr: Mapping[ParameterRole, float]) -> dict[ParameterRole, float]:
    """The learning rates by `ParameterRole`; raises ValueError for a negative rate or an unknown role."""
    for role, rate in role_lr.items():
        if rate < 0:
            raise ValueError(f"role_lr for '{role}' is {rate}: use 0 or more")
    return {ParameterRole(role): rate for role, rate in role_lr.items()}


def _why_not(role: ParameterRole) -> str:
    match role:
        case ParameterRole.ROUTER:  # measured by nanochat, branch moe3
            return (
                "orthogonalising a router's gate moves every expert's row at full speed, whether its tokens need it "
                "or not, and learned routing ends up worse than random; use AdamW although it is 2-D"
            )
        case ParameterRole.EMBEDDING | ParameterRole.HEAD:
            return "its rows are tokens, few of which occur in a batch, not the map between spaces that Muon assumes"
        case _:
            return "it is a vector, and only matrices can be orthogonalised"


def distinct(parameters: Parameters) -> dict[ParameterRole, dict[str, Tensor]]:
    """The same mapping with every tensor only under its first role and name, so that a shared tensor is stepped once.

    Roles without tensors are dropped.
    """
    seen: set[int] = set()
    result: dict[ParameterRole, dict[str, Tensor]] = {}
    for role, named in parameters.items():
        for name, tensor in named.items():
            if id(tensor) not in seen:
                seen.add(id(tensor))
                result.setdefault(ParameterRole(role), {})[name] = tensor
    return result
