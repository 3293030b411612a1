"""One matrix for several layers, with a learned gain for each output of each use.

With cross-layer sharing as in ALBERT (Lan et al. 2019, arXiv:1909.11942) all uses are equal. One gain vector per use
lets them differ at a cost of D numbers instead of D x D. Gains start at 1, so the first step equals that of plain
tying.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from penstock.hooks.contracts import ParameterRole, SharedGroup, SharingPlan, WeightSite
from penstock.hooks.problems import Problem, ProblemError
from penstock.sharing.apply import check_stored
from penstock.sharing.difference import shared_group

SHARED_ROLES = (ParameterRole.MATRIX, ParameterRole.EXPERT)
_LAYER = re.compile(r"(?<=\.)\d+(?=\.)")


class OutputGains(nn.Module):
    """A factor for each output of a weight [..., out, in]."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(weight.shape[-2], dtype=weight.dtype, device=weight.device))

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.gain.unsqueeze(-1)


@dataclass(frozen=True, slots=True)
class TiedWithGains:
    """`SharedParameters` of `TiedGains`: `gains` by their name in the model."""

    plan: SharingPlan
    gains: Mapping[str, nn.Parameter]
    groups: tuple[SharedGroup, ...]

    def roles(self) -> dict[str, ParameterRole]:
        return dict.fromkeys(self.gains, ParameterRole.NORM)

    def stored_state(self) -> dict[str, Tensor]:
        return {name: gain.detach() for name, gain in self.gains.items()}

    def load_stored_state(self, state: Mapping[str, Tensor]) -> None:
        check_stored(state, self.gains)
        with torch.no_grad():
            for name, gain in self.gains.items():
                gain.copy_(state[name])

    def end_step(self, progress: float, total: Callable[[Tensor], Tensor]) -> None:
        pass

    def hardened(self) -> None:
        return None

    def report(self) -> tuple[SharedGroup, ...]:
        return self.groups


class TiedGains:
    """Ties matrices and experts that have the same name and shape in several layers.

    `match` holds glob patterns of names. `interval` consecutive layers share one matrix; None: all layers do.
    """

    def __init__(self, match: Sequence[str] = ("*",), interval: int | None = None) -> None:
        self.match = tuple(match)
        self.interval = interval

    def apply(self, sites: Mapping[str, WeightSite], seed: int) -> TiedWithGains:
        """Adds gains to every site of a group; `seed` is unused, because nothing is random."""
        groups = self._groups(sites)
        if not groups:
            what = f"no two layers have matrices of the same name and shape that match {', '.join(self.match)}"
            raise ProblemError(Problem("cannot-tie", what, "tied-gains", "widen `match`, or remove the strategy"))
        report = tuple(shared_group(group, [sites[name].weight for name in group]) for group in groups)
        gains: dict[str, nn.Parameter] = {}
        for name in (name for group in groups for name in group):
            added = OutputGains(sites[name].weight)
            gains[f"{sites[name].add(added)}.gain"] = added.gain
        return TiedWithGains(SharingPlan(groups), gains, report)

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
