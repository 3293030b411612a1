"""A sharing strategy: norms of the same place and size are one in all layers."""

from collections import defaultdict
from collections.abc import Mapping

from penstock.hooks import Component, hookimpl
from penstock.hooks.contracts import ParameterRole, SharingPlan


class TiedNorms:
    def plan(self, roles: Mapping[str, ParameterRole], shapes: Mapping[str, tuple[int, ...]]) -> SharingPlan:
        alike = defaultdict(list)
        for name, role in roles.items():
            if role is ParameterRole.NORM and name.startswith("layers."):
                alike[name.split(".", 2)[2], shapes[name]].append(name)
        return SharingPlan(groups=tuple(tuple(names) for names in alike.values() if len(names) > 1))


@hookimpl
def sharing() -> list[Component]:
    return [Component(kind="sharing", name="tied-norms", target="tied_norms:TiedNorms", summary="One norm", contract=1)]
