"""The rule of a fixed distance in perplexity, for cells of one tokenizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from penstock.hooks.contracts.stopping import Standing
from penstock.sweep.rules.order import cheaper


class Perplexity:
    """Stops a cell whose held-out perplexity has been `behind` or more above the best for `tokens` tokens, at every
    rung of that time. Perplexities of two tokenizers do not compare, so a sweep with several is refused."""

    def __init__(self, *, behind: float = 0.5, tokens: int = 1_000_000) -> None:
        self.behind, self.tokens = behind, tokens
        self.judges_over = tokens

    def stopped(self, rung: int, standings: Sequence[Standing]) -> Mapping[str, str]:
        reasons: dict[str, str] = {}
        for standing in standings:
            others = cheaper(standing, standings)
            since = self._behind_since(standing, others)
            if since is not None and standing.tokens - since >= self.tokens:
                gap = standing.perplexity - min(other.perplexity for other in others)
                reasons[standing.cell] = (
                    f"perplexity {gap:.2f} above the best, {self.behind:g} or more since {since:,} tokens"
                )
        return reasons

    def _behind_since(self, standing: Standing, others: Sequence[Standing]) -> int | None:
        """Tokens of the first rung from which on the cell is behind at all; None if it is not."""
        since: int | None = None
        curves = [[*other.history, other] for other in others]
        for index, own in reversed([*enumerate([*standing.history, standing])]):
            least = min((curve[index].perplexity for curve in curves if index < len(curve)), default=own.perplexity)
            if own.perplexity - least < self.behind:
                break
            since = own.tokens
        return since
