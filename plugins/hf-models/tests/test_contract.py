"""Models of the architecture keep the laws of architectures: a dense one, and two mixtures of experts."""

from dataclasses import replace

from families import DENSE, MIXTURES
from penstock_hf_models.plugin import architectures

from penstock.conformance import parametrize_contract


def contract_of(family: str, *more: str):
    """The contract for one family, which may promise more than all of them do."""
    (component,) = architectures()
    promised = replace(component, capabilities=component.capabilities | set(more))
    settings = {"model_type": family, "settings": {**DENSE, **MIXTURES}[family]}
    return parametrize_contract([promised], settings={"hf": settings})


@contract_of("llama", "noise-free", "compilable")
def test_contract_of_a_dense_model(case):
    case()


@contract_of("qwen3_moe", "noise-free")
def test_contract_of_a_mixture_of_experts(case):
    case()


@contract_of("glm4_moe", "noise-free")
def test_contract_of_a_mixture_with_a_dense_layer_and_biased_routers(case):
    case()
