"""What this package offers; imports no torch."""

from __future__ import annotations

from penstock.hooks import Component, hookimpl


@hookimpl
def routers() -> list[Component]:
    # Not "causal": which experts take a token depends on the tokens after it.
    return [
        Component(
            kind="router",
            name="expert-choice",
            target="penstock_expert_choice.router:ExpertChoice",
            config="penstock_expert_choice.config:ExpertChoiceConfig",
            summary="Each expert takes its best tokens; perfectly even load, not causal",
            reference="arXiv 2202.09368",
        )
    ]
