"""One set of weights for several layers, as in the Universal Transformer and ALBERT (arXiv:1909.11942)."""

from __future__ import annotations

from collections.abc import Sequence

from penstock.hooks.contracts import AddedParameters, Shareable, SharedParameters, SharingPlan
from penstock.sharing.config import PerUse
from penstock.sharing.difference import reported
from penstock.sharing.layers import Pattern, PatternName, Selection, plan_layers
from penstock.sharing.parts import ATTENTION, FEED_FORWARD, Part
from penstock.sharing.per_use import add_per_use
from penstock.sharing.result import Shared


class CrossLayer:
    """Ties parameters of one name in the layers of each group of the pattern (see `layers.Pattern`).

    `parts` are those of a layer, None: all matrices and experts; routers are shared only if they are named. `norms` and
    `biases` are those that belong to the parts. `per_use` is what each of these layers has of its own.
    """

    needs_every_part = True

    def __init__(
        self,
        pattern: PatternName = "sequential",
        interval: int | None = None,
        distinct: int | None = None,
        groups: Sequence[Sequence[int]] | None = None,
        parts: Sequence[Part] | None = None,
        norms: bool = False,
        biases: bool = False,
        per_use: PerUse | None = None,
    ) -> None:
        numbers = None if groups is None else tuple(tuple(group) for group in groups)
        self.pattern = Pattern(pattern, interval, distinct, numbers)
        self.selection = Selection(None if parts is None else frozenset(parts), norms, biases, self.needs_every_part)
        self.per_use = per_use

    def restructure(self, model: Shareable, seed: int) -> AddedParameters:
        if self.per_use is None:
            return AddedParameters()
        return add_per_use(self.per_use, model, self.planned(model).groups, seed)

    def share(self, model: Shareable, seed: int) -> SharedParameters:
        plan = self.planned(model)
        return Shared(plan, reported(plan, model.parameters))

    def planned(self, model: Shareable) -> SharingPlan:
        return plan_layers(model, self.pattern, self.selection)


class AttentionSharing(CrossLayer):
    """Ties the attention of the layers: `CrossLayer` of q, k, v and o."""

    needs_every_part = False

    def __init__(self, **settings: object) -> None:
        super().__init__(parts=ATTENTION, **settings)  # pyright: ignore[reportArgumentType]


class FeedForwardSharing(CrossLayer):
    """Ties the feed-forward networks of the layers: `CrossLayer` of gate, up, down and experts, as far as there are
    any."""

    needs_every_part = False

    def __init__(self, **settings: object) -> None:
        super().__init__(parts=FEED_FORWARD, **settings)  # pyright: ignore[reportArgumentType]
