"""Components of this package; imports no torch."""

from __future__ import annotations

from functools import partial

from penstock.hooks import Component, hookimpl

# Common to all routers of this package: they route with tensor operations only, and every slot computes.
ALWAYS = frozenset(
    {"causal", "compilable", "deterministic", "dropless", "empty-batches", "exactly-k", "no-host-sync", "normalized"}
)
# The routing of a token depends only on its own hidden state.
ALONE = ALWAYS | {"batch-invariant", "permutation-equivariant"}
SAME_IN_TRAINING = frozenset({"same-in-training"})
# A given choice of experts is weighted like the router's own.
REPLAYABLE = frozenset({"replayable"})
UNBIASED = frozenset({"no-selection-bias"})
LEARNED = frozenset({"exact-gradient", "trainable"}) | REPLAYABLE
# Under default settings: a `capacity` takes away what ALONE adds and "dropless", `noise` takes "same-in-training".
TOP_K = ALONE | SAME_IN_TRAINING | LEARNED


def _component(
    kind: str,
    name: str,
    target: str,
    config: str | None,
    summary: str,
    capabilities: frozenset[str],
    reference: str = "",
) -> Component:
    return Component(
        kind=kind,
        name=name,
        target=f"penstock.routers.{target}",
        config=f"penstock.routers.config:{config}" if config else None,
        summary=summary,
        capabilities=capabilities,
        reference=reference,
    )


_router = partial(_component, "router")
_loss = partial(_component, "balance-loss")
_balancer = partial(_component, "balancer")


@hookimpl
def routers() -> list[Component]:
    return [
        _router(
            "sigmoid-topk",
            "topk:SigmoidTopK",
            "SigmoidTopKConfig",
            "Sigmoid scores, selection bias, optional groups (GLM-4.x, DeepSeek-V3)",
            TOP_K,
            "arXiv 2412.19437",
        ),
        _router(
            "softmax-topk",
            "topk:SoftmaxTopK",
            "SoftmaxTopKConfig",
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
        ),
        _router(
            "sinkhorn",
            "sinkhorn:SinkhornTopK",
            "SinkhornConfig",
            "Top k of a plan with even load in training, plain top k in evaluation",
            ALONE | LEARNED,
            "arXiv 2103.16716",
        ),
        _router(
            "cluster",
            "cluster:Cluster",
            "ClusterConfig",
            "Nearest centroids of the hidden states, k-means updated online",
            ALONE | SAME_IN_TRAINING | REPLAYABLE | {"exact-gradient"},
        ),
        _router(
            "token-hash",
            "controls:TokenHash",
            "TokenHashConfig",
            "Baseline: experts by a hash of the token's id, as in the published hash layers",
            ALONE | SAME_IN_TRAINING | UNBIASED | {"token-ids"},
            "arXiv 2106.04426",
        ),
        _router(
            "hash",
            "controls:Hash",
            "HashConfig",
            "Baseline: experts by a locality-sensitive hash of the hidden state",
            ALONE | SAME_IN_TRAINING | UNBIASED,
        ),
        _router(
            "random",
            "controls:Random",
            "RandomConfig",
            "Control: random experts for every hidden state",
            ALONE | SAME_IN_TRAINING | UNBIASED,
        ),
        _router(
            "frozen",
            "controls:FrozenTopK",
            "SigmoidTopKConfig",
            "Control: sigmoid-topk with a gate that is never trained",
            ALONE | SAME_IN_TRAINING | REPLAYABLE | {"exact-gradient"},
        ),
        _router(
            "round-robin",
            "controls:RoundRobin",
            "UnlearnedConfig",
            "Control: experts in turn, perfectly even load",
            ALWAYS | SAME_IN_TRAINING | UNBIASED,
        ),
    ]


# Common to all losses: means over tokens, symmetric in experts, computed in the dtype of their inputs.
MEAN = frozenset({"compilable", "exact-in-fp64", "expert-symmetric", "mean-over-tokens", "order-free"})
SWITCH = MEAN | {"counts-choices", "counts-dropped", "exact-gradient", "load-balancing", "one-at-balance"}
# Values are measures of counts: they have no slope, and do not distinguish which expert is overloaded.
IMBALANCE = (MEAN | {"load-balancing"}) - {"exact-in-fp64"}


@hookimpl
def balance_losses() -> list[Component]:
    whole_batch = "GlobalLossConfig"
    return [
        _loss(
            "switch-loss",
            "losses:SwitchLoss",
            "SwitchLossConfig",
            "Switch Transformer load-balancing loss; 1 for an even load",
            SWITCH,
            "arXiv 2101.03961",
        ),
        _loss(
            "sequence-loss",
            "losses:SequenceLoss",
            "SequenceLossConfig",
            "Load-balancing loss of each sequence (DeepSeek-V3, GLM-4.5)",
            SWITCH | {"no-host-sync"},
            "arXiv 2412.19437",
        ),
        _loss(
            "global-loss",
            "losses:GlobalLoss",
            whole_batch,
            "Load-balancing loss of the whole batch, exact for any split",
            SWITCH,
            "arXiv 2501.11873",
        ),
        _loss("gini-loss", "imbalance:gini_loss", whole_batch, "Gini coefficient of the whole batch's load", IMBALANCE),
        _loss("variance-loss", "imbalance:variance_loss", whole_batch, "Variance of the whole batch's load", IMBALANCE),
        _loss(
            "cv-loss",
            "imbalance:variation_loss",
            whole_batch,
            "Coefficient of variation of the whole batch's load",
            IMBALANCE,
        ),
        _loss(
            "entropy-loss",
            "imbalance:entropy_loss",
            whole_batch,
            "Missing entropy of the whole batch's load",
            IMBALANCE,
        ),
        _loss(
            "z-loss",
            "losses:ZLoss",
            "ZLossConfig",
            "Keeps router logits small (ST-MoE)",
            MEAN | {"additive", "exact-gradient", "logit-regularizing", "no-host-sync"},
            "arXiv 2202.08906",
        ),
    ]


# Common to both balancers: updates depend on integer counts of the load, and treat all experts equally.
SHARES = frozenset({"exact-counts", "expert-symmetric", "scale-free", "selection-bias"})


@hookimpl
def balancers() -> list[Component]:
    return [
        _balancer(
            "loss-free",
            "balancers:LossFree",
            "LossFreeConfig",
            "Moves each expert's bias by its load error or by the sign of the error",
            SHARES,
            "arXiv 2408.15664",
        ),
        _balancer(
            "quantile",
            "quantile:Quantile",
            None,
            "Sets each expert's bias by the quantile of its margins; no rate",
            SHARES,
            "Megatron-Core, Kimi K3",
        ),
    ]
