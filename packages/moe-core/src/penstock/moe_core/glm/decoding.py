"""What a `GlmMoe` computes, in the plain numbers that a decoder without torch reads from an artifact."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from penstock.hooks.contracts import ParameterRole
from penstock.moe_core.glm.layouts import RouterRule
from penstock.moe_core.layers.site import sites_of, unpublished

if TYPE_CHECKING:
    from penstock.moe_core.glm.model import GlmMoe

# Inputs that training did not round are decoded in 16 bits, whose error is below that of bf16.
UNROUNDED_BITS = 16


def described(model: GlmMoe, rules: Mapping[int, RouterRule]) -> dict[str, Any]:
    """See `penstock.hooks.contracts.Decodable`; `rules` are those of the routers by layer."""
    reasons = [_added(model), *(_obstacle(index, rule) for index, rule in rules.items())]
    if reason := next(filter(None, reasons), None):
        return {"unsupported": reason}
    config, bits = model.config, _input_bits(model)
    return {
        "kind": "transformer",
        "width": config.hidden_size,
        "heads": config.num_attention_heads,
        "key_value_heads": config.num_key_value_heads,
        "head_width": config.head_dim,
        "rotary_width": config.rotary_dim,
        "rope_theta": float(config.rope_theta),
        "epsilon": config.rms_norm_eps,
        "qk_norm": config.use_qk_norm,
        "bias": config.attention_bias,
        "sub_norm": config.sub_norm,
        "vocabulary": model.vocabulary_size,
        "positions": config.max_position_embeddings,
        "tied": _tied(model),
        "activations": {
            role.value: bits.get(role, UNROUNDED_BITS)
            for role in (ParameterRole.MATRIX, ParameterRole.EXPERT, ParameterRole.HEAD)
        },
        "layers": [_layer(model, index, rules.get(index)) for index in range(config.num_hidden_layers)],
    }


def _layer(model: GlmMoe, index: int, rule: RouterRule | None) -> dict[str, Any]:
    config = model.config
    if rule is None:
        return {"mlp": "dense", "hidden": config.intermediate_size}
    return {
        "mlp": "experts",
        "hidden": config.moe_intermediate_size,
        "experts": config.n_routed_experts,
        "k": rule.k,
        "score": rule.score,
        "normalize": rule.normalize,
        "scale": float(rule.scale),
        "temperature": float(getattr(model.routers[index], "temperature", 1.0)),
        "groups": 1,
        "shared": config.n_shared_experts * config.moe_intermediate_size,
    }


def _tied(model: GlmMoe) -> bool:
    """Whether head and embedding compute with one weight: with transforms of sharing, one parameter is two."""
    transformed = model.lm_head.site.sharing or model.embed_tokens.site.sharing
    return model.lm_head.weight is model.embed_tokens.weight and not transformed


def _added(model: GlmMoe) -> str | None:
    """What sharing added that a decoder does not compute."""
    if model.lm_head.projection or model.embed_tokens.projection:
        return "the embedding is a product of two matrices"
    if adapted := next((name for name, site in sites_of(model).items() if site.adapted), None):
        return f"'{adapted}' is a shared weight that its layer changes"
    what = unpublished(model)
    return what and f"the model has {what}"


def _obstacle(index: int, rule: RouterRule) -> str | None:
    """What a decoder does not compute of a router."""
    router = f"the router of layer {index}"
    if rule.score is None:
        return f"{router} is no matrix with sigmoid or softmax scores"
    if rule.groups != 1:
        return f"{router} chooses among {rule.groups} groups of experts"
    return f"{router} has a capacity, so the experts of a token depend on the batch" if rule.bounded else None


def _input_bits(model: GlmMoe) -> Mapping[ParameterRole, int]:
    """Bits of the rounded inputs of each role."""
    read = {site.role: site.site.reads for site in sites_of(model).values()}
    return {role: each.input_bits for role, each in read.items() if each is not None and each.input_bits is not None}
