"""One matrix for several layers, with a learned gain for each output of each use.

With cross-layer sharing as in ALBERT (Lan et al. 2019, arXiv:1909.11942) all uses are equal. One gain vector per use
lets them differ at a cost of D numbers instead of D x D. Gains start at 1, so the first step equals that of plain
tying.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from torch import nn

from penstock.hooks.contracts import ParameterRole, SharingPlan, WeightSite
from penstock.hooks.problems import Problem, ProblemError
from penstock.sharing.difference import shared_group
from penstock.sharing.per_use import OutputGains
from penstock.sharing.result import InModules, Shared

SHARED_ROLES = (ParameterRole.MATRIX, ParameterRole.EXPERT)
_LAYER = re.compile(r"(?<=\.)\d+(?=\.)")


class TiedGains:
    """Ties matrices and experts that have the same name and shape in several layers.

    `match` holds glob patterns of names. `interval` consecutive layers share one matrix; None: all layers do.
    """

    def __init__(self, match: Sequence[str] = ("*",), interval: int | None = None) -> None:
        self.match = tuple(match)
        self.interval = interval

    def apply(self, sites: Mapping[str, WeightSite], seed: int) -> Shared:
        """Adds gains to every site of a group; `seed` is unused, because nothing is random."""
        groups = self._groups(sites)
        if not groups:
            what = f"no two layers have matrices of the same name and shape that match {', '.join(self.match)}"
            raise ProblemError(Problem("cannot-tie", what, "tied-gains", "widen `match`, or remove the strategy"))
        report = tuple(shared_group(group, [sites[name].weight for name in group]) for group in groups)
        gains: dict[str, tuple[nn.Module, str]] = {}
        for name in (name for group in groups for name in group):
            added = OutputGains(sites[name].weight)
            gains[f"{sites[name].add(added)}.gain"] = added, "gain"
        return Shared(SharingPlan(groups), report, InModules(gains))

    def _groups(self, sites: Mapping[str, WeightSite]) -> tuple[tuple[str, ...], ...]:
        alike: dict[tuple[object, ...], dict[int, str]] = {}
        for name, site in sites.items():
            layer = _LAYER.search(name)
            if layer and site.role in SHARED_ROLES and any(fnmatchcase(name, pattern) for pattern in self.match):
                key = (_LAYER.sub("*", name, count=1), site.role, tuple(site.weight.shape))
                alike.setdefault(key, {})[int(layer[0])] = name
        runs = (run for layers in alike.values() for run in self._runs([layers[layer] for layer in sorted(layers)]))
        return tuple(tuple(run) for run in runs if len(run) > 1)

    def _runs(self, names: list[str]) -> list[list[str]]:
        length = self.interval or len(names)
        return [names[start : start + length] for start in range(0, len(names), length)]
