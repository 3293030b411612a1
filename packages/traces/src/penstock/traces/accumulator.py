"""`TraceAccumulator`: builds a trace step by step while a model runs.

Shape suffixes: S steps, L layers, E experts, N tokens, K experts per token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.traces.trace import RoutingTrace

Experts = NDArray[np.integer[Any]]


class TraceAccumulator:
    """Steps of a model with `layers` (layer indices in the model) and `experts` in each layer.

    The experts of each token are kept as long as every step provides them and all tokens of all layers have the same
    number of experts; otherwise they are dropped, because one array could not hold them.
    """

    def __init__(self, layers: Sequence[int], experts: int) -> None:
        self.layers = list(layers)
        self.experts = experts
        self._counts: list[NDArray[np.int64]] = []
        self._chosen: list[Experts] | None = []
        self._domains: list[str | None] = []

    @property
    def steps(self) -> int:
        return len(self._counts)

    @property
    def counts_SLE(self) -> NDArray[np.int64]:
        return np.array(self._counts, dtype=np.int64).reshape(self.steps, len(self.layers), self.experts)

    @property
    def counts_LE(self) -> NDArray[np.int64]:
        """Assignments over all steps."""
        return self.counts_SLE.sum(axis=0)

    @property
    def expert_NLK(self) -> Experts | None:
        """The experts of each token, or None if one array cannot hold them."""
        return np.concatenate(self._chosen) if self._chosen else None

    def add(
        self,
        chosen: Sequence[Experts] | None = None,
        *,
        counts_LE: NDArray[np.int64] | None = None,
        domain: str | None = None,
    ) -> None:
        """Adds a step: the experts of each token [N, K], one array per layer; or only their counts, if tokens differ in
        their number of experts; or both, if they are already counted. `domain` names the text of the step."""
        if counts_LE is None and chosen is None:
            raise ValueError("a step needs the experts of its tokens or their counts")
        rows = self._counted(chosen or ()) if counts_LE is None else list(counts_LE)
        if [len(row) for row in rows] != [self.experts] * len(self.layers):
            raise ValueError(
                f"a step has {len(self.layers)} layers of {self.experts} experts, not {[len(row) for row in rows]}"
            )
        self._counts.append(np.stack(rows))
        self._domains.append(domain)
        self._keep(chosen)

    def _counted(self, chosen: Sequence[Experts]) -> list[NDArray[np.int64]]:
        return [np.bincount(expert_NK.ravel(), minlength=self.experts) for expert_NK in chosen]

    def _keep(self, chosen: Sequence[Experts] | None) -> None:
        if self._chosen is None:
            return
        shapes = {expert_NK.shape for expert_NK in chosen or ()}
        widths = {shape[1] for shape in shapes} | {expert_NLK.shape[2] for expert_NLK in self._chosen[:1]}
        if chosen is None or len(shapes) != 1 or len(widths) != 1:
            self._chosen = None
        else:
            width = np.uint8 if self.experts <= 256 else np.uint16
            self._chosen.append(np.stack(chosen, axis=1).astype(width))

    def trace(self, **header: Any) -> RoutingTrace:
        """The trace so far; its header has the layers, the domains if every step has one, and `header`."""
        described: dict[str, Any] = {"layers": self.layers}
        if self._domains and None not in self._domains:
            described["domains"] = list(self._domains)
        return RoutingTrace(self.counts_SLE, {**header, **described}, self.expert_NLK)
