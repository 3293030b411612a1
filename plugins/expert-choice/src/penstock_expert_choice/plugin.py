"""Components of this package; imports no torch."""

from __future__ import annotations

from penstock.hooks import Component, hookimpl

# Not "causal" nor "batch-invariant": which experts take a token depends on all tokens of the forward pass. Not
# "exactly-k": a token has as many experts as take it. Not "no-host-sync": the number of slots is read from the device.
CAPABILITIES = frozenset(
    {
        "capacity-bounded",
        "compilable",
        "deterministic",
        "empty-batches",
        "exact-gradient",
        "no-selection-bias",
        "normalized",
        "permutation-equivariant",
        "same-in-training",
        "trainable",
    }
)


@hookimpl
def routers() -> list[Component]:
    return [
        Component(
            kind="router",
            name="expert-choice",
            target="penstock_expert_choice.router:ExpertChoice",
            config="penstock_expert_choice.config:ExpertChoiceConfig",
            summary="Each expert takes its best tokens; perfectly even load, not causal",
            capabilities=CAPABILITIES,
            reference="arXiv 2202.09368",
        )
    ]
