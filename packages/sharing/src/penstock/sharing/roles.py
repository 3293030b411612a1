"""Roles of the parameters of a module that does not tell them, by the types and names of its modules."""

from __future__ import annotations

from typing import Any

from torch import nn

from penstock.hooks.contracts import ParameterRole


def roles_of(module: nn.Module) -> dict[str, ParameterRole]:
    """Role of every name in `named_parameters()`. A head that is one with the embedding has the embedding's role.
    Routers and stacked experts are not told apart from matrices: give the roles of a mixture of experts yourself."""
    owners: Any = module
    head = owners.get_output_embeddings() if hasattr(module, "get_output_embeddings") else None
    heads = set[int]() if head is None else {id(parameter) for parameter in head.parameters()}
    embedded = {id(each.weight) for each in module.modules() if isinstance(each, nn.Embedding)}
    roles: dict[str, ParameterRole] = {}
    for name, parameter in module.named_parameters():
        if id(parameter) in embedded:
            roles[name] = ParameterRole.EMBEDDING
        elif id(parameter) in heads:
            roles[name] = ParameterRole.HEAD if parameter.dim() == 2 else ParameterRole.BIAS
        elif name.endswith("bias"):
            roles[name] = ParameterRole.BIAS
        else:
            roles[name] = ParameterRole.MATRIX if parameter.dim() == 2 else ParameterRole.NORM
    return roles
