"""Stop rules that break one law each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from broken.described import described
from penstock.hooks.contracts import Standing


class Good:
    """Stops what is 0.25 bits per byte or more behind the best."""

    def stopped(self, rung: int, standings: Sequence[Standing]) -> Mapping[str, Any]:
        if not standings:
            return {}
        best = self.best(standings)
        return {each.cell: self.reason(each) for each in standings if self.worse(each, best)}

    def best(self, standings: Sequence[Standing]) -> Standing:
        return min(standings, key=lambda standing: standing.bits_per_byte)

    def worse(self, standing: Standing, best: Standing) -> bool:
        return standing.bits_per_byte >= best.bits_per_byte + 0.25

    def reason(self, standing: Standing) -> str:
        return f"{standing.bits_per_byte:.3f} bits per byte, too far behind"


class Everyone(Good):
    """Also stops the sweep's baseline, whether it stands or not."""

    def stopped(self, rung: int, standings: Sequence[Standing]) -> Mapping[str, Any]:
        return {**super().stopped(rung, standings), "baseline": "it is never any good"} if standings else {}


class Curt(Good):
    def reason(self, standing: Standing) -> str:
        return "worse"


class Strict(Good):
    """Stops even the best if it is alone."""

    def stopped(self, rung: int, standings: Sequence[Standing]) -> Mapping[str, Any]:
        if len(standings) == 1:
            return {standings[0].cell: "nothing to compare with"}
        return super().stopped(rung, standings)


class Centring(Good):
    """Subtracts the mean in place."""

    def reason(self, standing: Standing) -> str:
        standing.document_bits[:] -= np.mean(standing.document_bits)
        return super().reason(standing)


class First(Good):
    """Compares with the first cell, or with the best if all would stop."""

    def best(self, standings: Sequence[Standing]) -> Standing:
        good = [each for each in standings if not self.worse(each, super(First, self).best(standings))]
        return good[0]


class Tiring(Good):
    """Stops asking for much after a while."""

    def __init__(self) -> None:
        self.asked = 0

    def stopped(self, rung: int, standings: Sequence[Standing]) -> Mapping[str, Any]:
        self.asked += 1
        return super().stopped(rung, standings) if self.asked < 4 else {}


class Loyal(Good):
    """Never stops the cell of a name."""

    def worse(self, standing: Standing, best: Standing) -> bool:
        return standing.cell not in ("cell 0", "cell 1", "cell 2") and super().worse(standing, best)


class Perplexed(Good):
    def best(self, standings: Sequence[Standing]) -> Standing:
        return min(standings, key=lambda standing: standing.perplexity)

    def worse(self, standing: Standing, best: Standing) -> bool:
        return standing.perplexity >= best.perplexity + 30


of = described("stop-rule", "A stop rule that breaks one law", frozenset({"any-tokenizer"}))
GOOD = of(Good)
BROKEN = {
    "stop-rule/only-cells-that-stand-are-stopped": of(Everyone),
    "stop-rule/a-reason-is-a-sentence": of(Curt),
    "stop-rule/some-cell-goes-on": of(Strict),
    "stop-rule/results-are-left-alone": of(Centring),
    "stop-rule/the-order-plays-no-part": of(First),
    "stop-rule/equal-results-give-equal-decisions": of(Tiring),
    "stop-rule/a-name-decides-nothing": of(Loyal),
    "stop-rule/perplexity-decides-nothing": of(Perplexed),
}
