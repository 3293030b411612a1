"""The role of each parameter of a transformers model, from the type and the name of the module that holds it."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel

from penstock.hooks.contracts import ParameterRole
from penstock_hf_models.routing import router_sites


def parameter_roles(model: nn.Module, network: PreTrainedModel) -> dict[str, ParameterRole]:
    """Role of every name in `model.named_parameters()`, where `model` holds `network`.

    A head tied to the embedding has the embedding's role. Scalars and vectors other than biases are norms, and so are
    tables of numbers that no input is multiplied with, such as the decay rates `A_log` of Mamba. Experts that are
    separate modules are matrices. The orientation of a matrix is in `layouts`.
    """
    routers = {id(parameter) for site in router_sites(network) for parameter in site.module.parameters()}
    head = network.get_output_embeddings()
    heads = set() if head is None else {id(parameter) for parameter in head.parameters()}
    embedded = {id(each.weight) for each in model.modules() if isinstance(each, nn.Embedding)}
    found: dict[str, ParameterRole] = {}
    for name, parameter in model.named_parameters():
        owner = model.get_submodule(name.rpartition(".")[0])
        if id(parameter) in embedded:
            found[name] = ParameterRole.EMBEDDING
        elif name.endswith("bias"):
            found[name] = ParameterRole.BIAS
        elif id(parameter) in routers or _gates_one_value(name):
            found[name] = ParameterRole.ROUTER
        elif id(parameter) in heads:
            found[name] = ParameterRole.HEAD
        elif parameter.dim() == 3 and hasattr(owner, "num_experts"):
            found[name] = ParameterRole.EXPERT
        elif parameter.dim() == 2 and name.endswith(".weight") and not type(owner).__name__.lower().endswith("norm"):
            found[name] = ParameterRole.MATRIX
        else:
            found[name] = ParameterRole.NORM
    return found


def _gates_one_value(name: str) -> bool:
    """Qwen2-MoE weighs its shared expert by a gate of one row."""
    return name.endswith("expert_gate.weight")
