"""What this package offers; imports no torch."""

from __future__ import annotations

from penstock.hooks import Component, hookimpl

# What all routers of this package promise: a token is routed with tensor operations alone, and every slot computes.
ALWAYS = frozenset({"causal", "compilable", "deterministic", "dropless", "empty-batches", "no-host-sync", "normalized"})
# A token is routed by its own hidden state, and by nothing else.
ALONE = ALWAYS | {"batch-invariant", "permutation-equivariant"}
SAME_IN_TRAINING = frozenset({"same-in-training"})
LEARNED = frozenset({"exact-gradient", "trainable"})
# Under default settings: a `capacity` takes away what ALONE adds and "dropless", `noise` takes "same-in-training".
TOP_K = ALONE | SAME_IN_TRAINING | LEARNED


def _router(
    name: str, target: str, config: str, summary: str, capabilities: frozenset[str], reference: str
) -> Component:
    return Component(
        kind="router",
        name=name,
        target=f"penstock.routers.{target}",
        config=f"penstock.routers.config:{config}",
        summary=summary,
        capabilities=capabilities,
        reference=reference,
    )


@hookimpl
def routers() -> list[Component]:
    return [
        _router(
            "sigmoid-topk",
            "topk:SigmoidTopK",
            "TopKConfig",
            "Sigmoid scores, selection bias, optional groups (GLM-4.x, DeepSeek-V3)",
            TOP_K,
            "arXiv 2412.19437",
        ),
        _router(
            "softmax-topk",
            "topk:SoftmaxTopK",
            "TopKConfig",
            "Softmax scores, selection bias, optional groups (Mixtral, Qwen3-MoE)",
            TOP_K,
            "arXiv 2401.04088",
        ),
        _router(
            "sqrtsoftplus-topk",
            "topk:SqrtSoftplusTopK",
            "TopKConfig",
            "Scores without a ceiling, sqrt(softplus(logit)) (DeepSeek-V4)",
            TOP_K,
            "DeepSeek-V4, Megatron-Core",
        ),
        _router(
            "two-layer",
            "gates:TwoLayer",
            "TopKConfig",
            "Softmax scores of a small network, D to D/2 to E, for frozen bases",
            TOP_K,
            "",
        ),
        _router(
            "sinkhorn",
            "sinkhorn:SinkhornTopK",
            "SinkhornConfig",
            "In training, top k of a plan that loads every expert evenly",
            ALONE | LEARNED,
            "arXiv 2103.16716",
        ),
        _router(
            "cluster",
            "cluster:Cluster",
            "ClusterConfig",
            "Nearest centroids of the hidden states, k-means updated online",
            ALONE | SAME_IN_TRAINING | {"exact-gradient"},
            "",
        ),
        _router(
            "hash",
            "controls:Hash",
            "HashConfig",
            "Control: similar hidden states share experts that nobody chose",
            ALONE | SAME_IN_TRAINING,
            "arXiv 2106.04426",
        ),
        _router(
            "random",
            "controls:Random",
            "RandomConfig",
            "Control: experts drawn anew for every hidden state",
            ALONE | SAME_IN_TRAINING,
            "",
        ),
        _router(
            "frozen",
            "controls:FrozenTopK",
            "TopKConfig",
            "Control: sigmoid-topk with a gate that is never trained",
            ALONE | SAME_IN_TRAINING | {"exact-gradient"},
            "",
        ),
        _router(
            "round-robin",
            "controls:RoundRobin",
            "UnlearnedConfig",
            "Control: tokens dealt to experts in turn, perfectly even",
            ALWAYS | SAME_IN_TRAINING,
            "",
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
            capabilities=frozenset({"load-balancing"}),
            reference="arXiv 2101.03961",
        ),
        Component(
            kind="balance-loss",
            name="z-loss",
            target="penstock.routers.losses:ZLoss",
            config="penstock.routers.config:ZLossConfig",
            summary="Keeps router logits small (ST-MoE)",
            capabilities=frozenset({"logit-regularizing"}),
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
            reference="arXiv 2408.15664",
        )
    ]
