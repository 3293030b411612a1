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
    """Factorises the embedding of tokens and a head of its shape, and with `positions` the learned positions, where the
    model has any. With `tied-embeddings`, or a model that ties its head, the table [V, R] is one tensor; embedding and
    head each have a projection of their own."""

    def __init__(self, rank: int, positions: bool = False) -> None:
        self.rank, self.positions = rank, positions

    def restructure(self, model: Shareable, seed: int) -> AddedParameters:
        tables = self._tables(model)
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

    def _tables(self, model: Shareable) -> dict[str, WeightSite]:
        """All but the head of a task, which has a row for each label."""
        sites: dict[str, dict[str, WeightSite]] = {part: {} for part in ("embedding", "positions", "head")}
        for name, site in model.sites.items():
            part = place_of(name, site.role).parts[0]
            if site.role in _TABLES and part in sites:
                sites[part][name] = site
        shapes = {site.weight.shape for site in sites["embedding"].values()}
        heads = {name: site for name, site in sites["head"].items() if site.weight.shape in shapes}
        return {**sites["embedding"], **(sites["positions"] if self.positions else {}), **heads}

    def _require(self, model: Shareable, tables: Mapping[str, WeightSite]) -> None:
        """Raises `ProblemError`, before anything is changed, for a model without such tables, for one that is
        factorised already, and for a rank that saves nothing."""
        if not tables or not all(isinstance(site, FactorisableSite) for site in tables.values()):
            what = f"the embedding of {type(model.module).__name__} cannot be factorised"
            raise ProblemError(Problem("unsupported", what, "", "use an architecture of Penstock, such as glm-moe"))
        for name, site in tables.items():
            if isinstance(site, FactorisableSite) and site.whole is not None:
                what = f"another strategy factorises '{name}' already"
                raise ProblemError(Problem("shared-twice", what, "", "keep one of them"))
            rows, width = site.weight.shape
            if self.rank * (rows + width) >= rows * width:
                what = f"rank {self.rank} saves nothing of '{name}', which is {rows} x {width}"
                raise ProblemError(Problem("bad-value", what, "", "lower the rank"))
