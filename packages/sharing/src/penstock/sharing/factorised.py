"""A table of V tokens as V x R times R x D, as in ALBERT (Lan et al. 2019, arXiv:1909.11942).

In a small model the vocabulary is most of the parameters: of a BERT-base with one shared layer, 23.4 M of 30.5 M. A
rank of 128 makes 3.9 M and 0.1 M of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

from penstock.hooks.contracts import (
    AddedParameters,
    FactorisableSite,
    ParameterRole,
    Shareable,
    SharedParameters,
    SharingPlan,
    WeightSite,
)
from penstock.hooks.problems import Problem, ProblemError
from penstock.sharing.parts import place_of
from penstock.sharing.plan import share
from penstock.sharing.result import Shared

_TABLES = (ParameterRole.EMBEDDING, ParameterRole.HEAD)


class FactorisedEmbedding:
    """Factorises the embedding of tokens and the head, and with `positions` the learned positions. With
    `tied-embeddings`, or a model that ties its head, the table [V, R] is one tensor; embedding and head each have a
    projection of their own."""

    def __init__(self, rank: int, positions: bool = False) -> None:
        self.rank = rank
        self.parts = {"embedding", "head", "positions"} if positions else {"embedding", "head"}

    def restructure(self, model: Shareable, seed: int) -> AddedParameters:
        tables = {
            name: site
            for name, site in model.sites.items()
            if site.role in _TABLES and self.parts & {*place_of(name, site.role).parts}
        }
        self._require(model, tables)
        tied = [pair for pair in combinations(tables, 2) if tables[pair[0]].weight is tables[pair[1]].weight]
        roles: dict[str, ParameterRole] = {}
        for site in tables.values():
            assert isinstance(site, FactorisableSite)
            roles |= site.factorise(self.rank, model.storage)
        share(model.module, SharingPlan(tuple(tied)))
        return AddedParameters(roles)

    def share(self, model: Shareable, seed: int) -> SharedParameters:
        return Shared(SharingPlan())

    def _require(self, model: Shareable, tables: Mapping[str, WeightSite]) -> None:
        """Raises `ProblemError`, before anything is changed, for a model without such tables, and for a rank that saves
        nothing."""
        kind = type(model.module).__name__
        factorisable = {name for name, site in tables.items() if isinstance(site, FactorisableSite)}
        if not factorisable or factorisable != set(tables):
            what = f"the embedding of {kind} cannot be factorised"
            raise ProblemError(Problem("unsupported", what, "", "use an architecture of Penstock, such as glm-moe"))
        if "positions" in self.parts and not any("positions" in place_of(n, _TABLES[0]).parts for n in tables):
            raise ProblemError(Problem("no-match", f"{kind} has no learned positions", "", "set `positions` to false"))
        for name in tables:
            rows, width = tables[name].weight.shape
            if self.rank * (rows + width) >= rows * width:
                what = f"rank {self.rank} saves nothing of '{name}', which is {rows} x {width}"
                raise ProblemError(Problem("bad-value", what, "", "lower the rank"))
