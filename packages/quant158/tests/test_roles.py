"""Matrices and experts may be ternary, nothing else."""

from __future__ import annotations

import pytest

from penstock.hooks.contracts import ParameterRole
from penstock.quant158.roles import STORED_ROLES, checked_integer_roles, checked_roles

ALLOWED = {ParameterRole.MATRIX, ParameterRole.EXPERT}


@pytest.mark.parametrize("role", list(ParameterRole))
def test_every_role_is_allowed_or_refused_with_a_reason(role: ParameterRole):
    if role in ALLOWED:
        assert checked_roles([role]) == {role}
    else:
        with pytest.raises(ValueError, match=rf"role '{role}' cannot be ternary: .{{20,}}; allowed: matrix, expert"):
            checked_roles([ParameterRole.MATRIX, role])


def test_plain_strings_are_roles():
    assert checked_roles(["matrix", "expert"]) == ALLOWED


def test_no_role_is_an_error():
    with pytest.raises(ValueError, match="nothing would be ternary"):
        checked_roles([])


@pytest.mark.parametrize("role", list(ParameterRole))
def test_every_matrix_but_a_router_may_be_whole_numbers(role: ParameterRole):
    if role in STORED_ROLES:
        assert checked_integer_roles([role]) == {role}
    else:
        with pytest.raises(ValueError, match=rf"role '{role}' cannot be stored in 8 or 4 bits: .{{20,}}; allowed: emb"):
            checked_integer_roles([role])
