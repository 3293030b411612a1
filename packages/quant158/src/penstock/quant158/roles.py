"""Which parameters may be ternary, and why the others may not; imports no torch."""

from __future__ import annotations

from collections.abc import Iterable

from penstock.hooks.contracts import ParameterRole

_REFUSED = {
    ParameterRole.EMBEDDING: "its rows are looked up one by one, and rare rows would be rounded away",
    ParameterRole.HEAD: "its rounding error reaches every logit; low-bit formats keep the head at 4 to 8 bits",
    ParameterRole.ROUTER: "three levels cannot rank experts, and it has less than a thousandth of the parameters",
    ParameterRole.NORM: "it is a vector of gains, not a matrix",
    ParameterRole.BIAS: "it is a vector, not a matrix",
}


def checked_roles(roles: Iterable[ParameterRole | str]) -> frozenset[ParameterRole]:
    """Returns the roles as a set. Raises `ValueError` if the set is empty or a role cannot be ternary.

    >>> sorted(checked_roles(["matrix", "expert"]))
    [<ParameterRole.EXPERT: 'expert'>, <ParameterRole.MATRIX: 'matrix'>]
    >>> checked_roles(["norm"])
    Traceback (most recent call last):
    ValueError: role 'norm' cannot be ternary: it is a vector of gains, not a matrix; allowed: matrix, expert
    """
    chosen = frozenset(ParameterRole(role) for role in roles)
    if not chosen:
        raise ValueError("`roles` is empty, so nothing would be ternary; remove the quantizer instead")
    for role in sorted(chosen & _REFUSED.keys()):
        raise ValueError(f"role '{role}' cannot be ternary: {_REFUSED[role]}; allowed: matrix, expert")
    return chosen
