"""Which rule steps which parameter. Imports no torch, so that a config is checked with the same code that runs it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from penstock.hooks.contracts import ParameterRole, Tensor

Parameters = Mapping[ParameterRole, Mapping[str, Tensor]]

MUON_ROLES = (ParameterRole.MATRIX, ParameterRole.EXPERT)

# Norms and biases have a scale of their own to keep. Decaying embeddings shrinks the residual stream and raises its
# gradients: OLMo 2 stopped it for stability (arXiv 2501.00656 section 3).
NO_DECAY = frozenset({ParameterRole.NORM, ParameterRole.BIAS, ParameterRole.EMBEDDING})


def checked_muon_roles(roles: Iterable[str]) -> tuple[ParameterRole, ...]:
    """The roles as `ParameterRole`s; raises ValueError for one whose parameters Muon must not take, and says why."""
    checked = tuple(ParameterRole(role) for role in roles)
    for role in checked:
        if role not in MUON_ROLES:
            raise ValueError(f"muon_roles has '{role}': {_why_not(role)}; it may hold 'matrix' and 'expert'")
    return checked


def checked_rates(role_lr: Mapping[ParameterRole, float]) -> dict[ParameterRole, float]:
    """The learning rates by `ParameterRole`; raises ValueError for one that is negative or a role that is none."""
    for role, rate in role_lr.items():
        if rate < 0:
            raise ValueError(f"role_lr has {rate} for '{role}': use 0 or more")
    return {ParameterRole(role): rate for role, rate in role_lr.items()}


def _why_not(role: ParameterRole) -> str:
    match role:
        case ParameterRole.ROUTER:  # measured by nanochat, branch moe3
            return (
                "orthogonalising a router's gate moves every expert's row at full speed, whether its tokens ask for "
                "it or not, and learned routing ends up worse than random; it is 2-D and belongs to AdamW all the same"
            )
        case ParameterRole.EMBEDDING | ParameterRole.HEAD:
            return "its rows are words, of which a batch sees few, and not the map between spaces that Muon assumes"
        case _:
            return "it is a vector, and only matrices can be orthogonalised"


def distinct(parameters: Parameters) -> dict[ParameterRole, dict[str, Tensor]]:
    """The same mapping with every tensor under the first role and name it has, so that a shared one is stepped once.

    Roles without any tensor left are dropped.
    """
    seen: set[int] = set()
    result: dict[ParameterRole, dict[str, Tensor]] = {}
    for role, named in parameters.items():
        for name, tensor in named.items():
            if id(tensor) not in seen:
                seen.add(id(tensor))
                result.setdefault(ParameterRole(role), {})[name] = tensor
    return result
