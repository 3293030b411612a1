"""What this package offers; imports no torch."""

from __future__ import annotations

from penstock.hooks import Component, hookimpl

# What both routers promise: a token is routed by its own hidden state, with tensor operations alone.
TOP_K = frozenset(
    {
        "batch-invariant",
        "causal",
        "compilable",
        "deterministic",
        "dropless",
        "empty-batches",
        "exact-gradient",
        "exactly-k",
        "no-host-sync",
        "normalized",
        "permutation-equivariant",
        "same-in-training",
        "trainable",
    }
)
# What both losses promise: they are means over tokens, symmetric in tokens and experts, and exact.
MEAN = frozenset(
    {"compilable", "exact-gradient", "exact-in-fp64", "expert-symmetric", "mean-over-tokens", "order-free"}
)


@hookimpl
def routers() -> list[Component]:
    return [
        Component(
            kind="router",
            name="sigmoid-topk",
            target="penstock.routers.topk:SigmoidTopK",
            config="penstock.routers.config:TopKConfig",
            summary="Sigmoid scores, selection bias, optional groups (GLM-4.x, DeepSeek-V3)",
            capabilities=TOP_K,
            reference="arXiv 2412.19437",
        ),
        Component(
            kind="router",
            name="softmax-topk",
            target="penstock.routers.topk:SoftmaxTopK",
            config="penstock.routers.config:TopKConfig",
            summary="Softmax scores, selection bias, optional groups (Mixtral, Qwen3-MoE)",
            capabilities=TOP_K,
            reference="arXiv 2401.04088",
        ),
    ]


@hookimpl
def balance_losses() -> list[Component]:
    return [
        Component(
            kind="balance-loss",
            name="switch-loss",
            target="penstock.routers.losses:SwitchLoss",
            config="penstock.routers.config:SwitchLossConfig",
            summary="Switch Transformer load-balancing loss; 1 for an even load",
            capabilities=MEAN | {"load-balancing", "counts-choices", "counts-dropped", "one-at-balance"},
            reference="arXiv 2101.03961",
        ),
        Component(
            kind="balance-loss",
            name="z-loss",
            target="penstock.routers.losses:ZLoss",
            config="penstock.routers.config:ZLossConfig",
            summary="Keeps router logits small (ST-MoE)",
            capabilities=MEAN | {"logit-regularizing", "additive", "no-host-sync"},
            reference="arXiv 2202.08906",
        ),
    ]


@hookimpl
def balancers() -> list[Component]:
    return [
        Component(
            kind="balancer",
            name="loss-free",
            target="penstock.routers.balancers:LossFree",
            config="penstock.routers.config:LossFreeConfig",
            summary="Moves each expert's bias by the sign of its load error",
            capabilities=frozenset({"exact-counts", "expert-symmetric", "scale-free"}),
            reference="arXiv 2408.15664",
        )
    ]
