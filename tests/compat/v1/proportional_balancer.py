"""A balancer that moves the bias by the load error itself."""

from typing import Any

from penstock.hooks import Component, hookimpl
from penstock.hooks.config import Schema


class ProportionalSettings(Schema):
    rate: float = 0.1
    """Bias for a load error of one."""


class Proportional:
    def __init__(self, rate: float) -> None:
        self.rate = rate

    def update(self, router: Any, counts_E: Any, *, tokens_seen: int) -> None:
        share_E = counts_E.float() / counts_E.sum().clamp(min=1)
        router.e_score_correction_bias.add_(1 / router.experts - share_E, alpha=self.rate)


@hookimpl
def balancers() -> list[Component]:
    return [
        Component(
            kind="balancer",
            name="proportional",
            target="proportional_balancer:Proportional",
            config="proportional_balancer:ProportionalSettings",
            summary="Bias by the load error",
            contract=1,
        )
    ]
