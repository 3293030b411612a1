"""A balance loss: how far the mean choice is from even, in nats."""

import math

import torch

from penstock.hooks import Component, hookimpl
from penstock.hooks.config import Schema
from penstock.hooks.contracts import Routing


class EntropySettings(Schema):
    weight: float = 0.01
    """Factor on the loss."""


class EntropyLoss:
    def __init__(self, weight: float) -> None:
        self.weight = weight

    def __call__(self, routing: Routing, mask_T: torch.Tensor | None = None) -> torch.Tensor:
        probability_TE = routing.logits_TE.softmax(dim=-1)
        if mask_T is not None:
            probability_TE = probability_TE[mask_T]
        mean_E = probability_TE.mean(dim=0)
        return math.log(mean_E.numel()) + torch.special.xlogy(mean_E, mean_E).sum()


@hookimpl
def balance_losses() -> list[Component]:
    return [
        Component(
            kind="balance-loss",
            name="entropy",
            target="entropy_loss:EntropyLoss",
            config="entropy_loss:EntropySettings",
            summary="Missing entropy of the mean choice",
            contract=1,
        )
    ]
