"""Which class of transformers computes what a `GlmMoe` computes, and why none does. Imports no torch.

Read in the modelling code of transformers 5.23. Sigmoid routers are those of Glm4Moe. The classes with softmax routers
differ from it and from one another:

| class | norm of q and k | biases of attention | rotary embedding | shared expert | dense layers | weights of a token |
|---|---|---|---|---|---|---|
| Mixtral | none | none | whole head | none | none | sum to 1 |
| Qwen3Moe | each head | q, k, v and output | whole head | none | any | sum to 1 or not |
| Qwen2Moe | none | q, k and v | whole head | gated | any | sum to 1 or not |
| Qwen3Next | each head | q, k, v and output | any part of a head | gated | any | sum to 1 or not |

OLMoE is not among them: it normalises all heads of q together, which a `GlmMoe` never does. A part that the model lacks
is written so that it does nothing, exactly (see `translation`): a bias of zeros, a gate that is always 0.5 with
weights of twice the size. A temperature is divided into the gate's weights, a scale multiplied into the experts'.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from penstock.hooks.architecture import ArchitectureSettings, layer_routers
from penstock.hooks.problems import Problem, ProblemError

if TYPE_CHECKING:
    from penstock.moe_core.glm.config import GlmMoeConfig

Layout = Literal["glm4_moe", "mixtral", "qwen2_moe", "qwen3_moe", "qwen3_next"]

CLASSES: Mapping[Layout, str] = {
    "glm4_moe": "Glm4MoeForCausalLM",
    "mixtral": "MixtralForCausalLM",
    "qwen2_moe": "Qwen2MoeForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
    "qwen3_next": "Qwen3NextForCausalLM",
}


@dataclass(frozen=True, slots=True)
class RouterRule:
    """What a router computes in evaluation, as far as a layout can express it.

    `score` is the function of the logits of one matrix, None for any other router. `biased`: the choice depends on a
    selection bias.
    """

    score: str | None
    k: int = 1
    normalize: bool = True
    scale: float = 1.0
    groups: int = 1
    groups_kept: int = 1
    bounded: bool = False
    biased: bool = False

    @classmethod
    def of(cls, described: Any, *, score: str | None, biased: bool) -> RouterRule:
        """From a router, or from the settings of one: they have the same names."""
        return cls(
            score=score if score in ("sigmoid", "softmax") else None,
            k=getattr(described, "k", 1),
            normalize=getattr(described, "normalize", True),
            scale=getattr(described, "scale", 1.0),
            groups=getattr(described, "groups", 1),
            groups_kept=getattr(described, "groups_kept", 1),
            bounded=getattr(described, "capacity", None) is not None,
            biased=biased,
        )


def rules_of(settings: ArchitectureSettings) -> dict[int, RouterRule] | None:
    """What the routers of a config compute; None if a router's schema does not say (`score_function`)."""
    choices = layer_routers(settings, settings.expert_layers)
    if not all(hasattr(choice.settings, "score_function") for choice in choices.values()):
        return None
    biased = any(each.entry.component.kind == "balancer" for each in settings.balance)
    return {
        layer: RouterRule.of(choice.settings, score=getattr(choice.settings, "score_function", None), biased=biased)
        for layer, choice in choices.items()
    }


def obstacles(
    config: GlmMoeConfig, rules: Mapping[int, RouterRule] | None, *, prediction_layers: bool = False
) -> list[Problem]:
    """Why no transformers class computes the model; empty if one does, or if nothing is known of its routers."""
    try:
        if rules is not None:
            layout_of(config, rules, prediction_layers=prediction_layers)
    except ProblemError as error:
        return list(error.problems)
    return []


def layout_of(config: GlmMoeConfig, rules: Mapping[int, RouterRule], *, prediction_layers: bool = False) -> Layout:
    """The layout of a model with these routers by layer; raises `ProblemError` with everything that stands in its way
    and what to change."""
    problems = [
        Problem("not-exportable", f"no transformers class has {what}", "model", fix)
        for what, fix in _obstacles(config, rules, prediction_layers)
    ]
    if problems:
        raise ProblemError(problems)
    if not rules or _first(rules).score == "sigmoid":
        return "glm4_moe"
    return _of_softmax(config, normalize=_first(rules).normalize)


def _of_softmax(config: GlmMoeConfig, *, normalize: bool) -> Layout:
    whole_head, shared = config.rotary_dim == config.head_dim, config.n_shared_experts > 0
    if config.use_qk_norm:
        return "qwen3_moe" if whole_head and not shared else "qwen3_next"
    plain = normalize and not (shared or config.attention_bias or config.first_k_dense_replace)
    return "mixtral" if plain else "qwen2_moe"


def _obstacles(
    config: GlmMoeConfig, rules: Mapping[int, RouterRule], prediction_layers: bool
) -> Iterator[tuple[str, str]]:
    """What no class has, and what to change."""
    if config.sub_norm:
        yield "a norm before output and down projections", "set sub_norm to false"
    if not rules:
        return
    rule = replace(_first(rules), biased=any(each.biased for each in rules.values()))
    if others := [str(layer) for layer, other in rules.items() if replace(other, biased=rule.biased) != rule]:
        what = f"a router in layer {min(rules)} other than in {'layer' if len(others) == 1 else 'layers'} "
        yield what + ", ".join(others), "give every layer the same router and settings: remove `overrides`"
    if any(each.score is None for each in rules.values()):
        yield "this router", "use sigmoid-topk or softmax-topk; sinkhorn and frozen can be exported too"
    elif any(each.bounded for each in rules.values()):  # such as by a setting; another router is dropless without it
        yield "routers that turn tokens away", "remove `capacity`"
    if rule.score == "sigmoid" and config.n_routed_experts == 1:
        yield "a sigmoid router with one expert", "use 2 or more n_routed_experts, or dense layers"
    if rule.score == "softmax":
        yield from _obstacles_of_softmax(config, rule, prediction_layers)


def _obstacles_of_softmax(config: GlmMoeConfig, rule: RouterRule, prediction_layers: bool) -> Iterator[tuple[str, str]]:
    if rule.biased:
        fix = "balance with a loss, such as global-loss, instead of a balancer, or use sigmoid-topk"
        yield "a softmax router with a selection bias", fix
    if rule.groups > 1:
        yield "a softmax router with groups of experts", "set groups to 1, or use sigmoid-topk"
    if not config.use_qk_norm and config.rotary_dim != config.head_dim:
        what = "a softmax router, partial rotary embeddings and no norm of queries and keys"
        yield what, "set partial_rotary_factor to 1, or use_qk_norm to true, or use sigmoid-topk"
    if prediction_layers:
        yield "a softmax router and prediction layers of Glm4Moe", "write `mtp: drop`, or use sigmoid-topk"


def _first(rules: Mapping[int, RouterRule]) -> RouterRule:
    return rules[min(rules)]
