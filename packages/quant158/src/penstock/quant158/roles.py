"""Which parameters a format may store, and why not the others; imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from penstock.hooks.contracts import ParameterRole

_VECTORS = {
    ParameterRole.NORM: "it is a vector of gains, not a matrix",
    ParameterRole.BIAS: "it is a vector, not a matrix",
}
_NOT_TERNARY = _VECTORS | {
    ParameterRole.EMBEDDING: "its rows are looked up one by one, and rare rows would be rounded away",
    ParameterRole.HEAD: "its rounding error reaches every logit; low-bit formats keep the head at 4 to 8 bits",
    ParameterRole.ROUTER: "three levels cannot rank experts, and it has less than a thousandth of the parameters",
}
_NOT_STORED = _VECTORS | {
    ParameterRole.ROUTER: "its choices are discrete, and it has less than a thousandth of the parameters",
}
# Matrices that a format may store: all of them except those of routers.
STORED_ROLES = (ParameterRole.EMBEDDING, ParameterRole.HEAD, ParameterRole.MATRIX, ParameterRole.EXPERT)


def checked_roles(roles: Iterable[ParameterRole | str]) -> frozenset[ParameterRole]:
    """Returns the roles as a set. Raises `ValueError` if the set is empty or a role cannot be ternary.

    >>> sorted(checked_roles(["matrix", "expert"]))
    [<ParameterRole.EXPERT: 'expert'>, <ParameterRole.MATRIX: 'matrix'>]
    >>> checked_roles(["norm"])
    Traceback (most recent call last):
    ValueError: role 'norm' cannot be ternary: it is a vector of gains, not a matrix; allowed: matrix, expert
    """
    return _checked(roles, "ternary", _NOT_TERNARY, "matrix, expert")


def checked_integer_roles(roles: Iterable[ParameterRole | str]) -> frozenset[ParameterRole]:
    """The same for roles that are to be stored as whole numbers of 8 or 4 bits."""
    return _checked(roles, "stored in 8 or 4 bits", _NOT_STORED, ", ".join(STORED_ROLES))


def checked_half_roles(roles: Iterable[ParameterRole | str]) -> frozenset[ParameterRole]:
    """The same for roles that are to be stored as floating-point numbers of 16 bits."""
    return _checked(roles, "stored in 16 bits", _NOT_STORED, ", ".join(STORED_ROLES))


def _checked(
    roles: Iterable[ParameterRole | str], form: str, refused: Mapping[ParameterRole, str], allowed: str
) -> frozenset[ParameterRole]:
    chosen = frozenset(ParameterRole(role) for role in roles)
    if not chosen:
        raise ValueError(f"`roles` is empty, so nothing would be {form}; remove the quantizer instead")
    for role in sorted(chosen & refused.keys()):
        raise ValueError(f"role '{role}' cannot be {form}: {refused[role]}; allowed: {allowed}")
    return chosen
