"""Which parameters are tied, and what is said where none can be."""

from __future__ import annotations

import pytest

from penstock.hooks import ProblemError
from penstock.hooks.contracts import ParameterRole
from penstock.sharing.tied import TiedEmbeddings

ROLES = {
    "head.weight": ParameterRole.HEAD,
    "layer.weight": ParameterRole.MATRIX,
    "embed.weight": ParameterRole.EMBEDDING,
}


def test_the_embedding_is_the_stored_name_whatever_the_order_of_the_model():
    shapes = {"head.weight": (8, 2), "layer.weight": (8, 2), "embed.weight": (8, 2)}
    assert TiedEmbeddings().plan(ROLES, shapes).groups == (("embed.weight", "head.weight"),)


def test_unequal_shapes_are_an_error_that_names_both_shapes():
    shapes = {"head.weight": (8, 3), "layer.weight": (8, 2), "embed.weight": (8, 2)}
    with pytest.raises(ProblemError) as caught:
        TiedEmbeddings().plan(ROLES, shapes)
    for part in ("embed.weight", "(8, 2)", "head.weight", "(8, 3)"):
        assert part in str(caught.value)


@pytest.mark.parametrize("role", [ParameterRole.EMBEDDING, ParameterRole.HEAD])
def test_a_missing_role_is_named(role: ParameterRole):
    roles = {name: found for name, found in ROLES.items() if found != role}
    with pytest.raises(ProblemError, match=f"no parameter with role '{role}'"):
        TiedEmbeddings().plan(roles, dict.fromkeys(roles, (8, 2)))


def test_two_heads_are_named():
    roles = {**ROLES, "second.weight": ParameterRole.HEAD}
    with pytest.raises(ProblemError, match=r"head\.weight, second\.weight"):
        TiedEmbeddings().plan(roles, dict.fromkeys(roles, (8, 2)))
