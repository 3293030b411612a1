"""The kit under pytest: one test per component and law.

from penstock.conformance import parametrize_contract
from my_package import plugin

@parametrize_contract(plugin)
def test_contract(case):
    case()
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from penstock.conformance.kit import UNPACKAGED, by_law, laws_of, run_law
from penstock.conformance.law import Law
from penstock.conformance.report import Status, Waiver
from penstock.hooks.component import Component
from penstock.hooks.discovery import Loaded, components_of
from penstock.hooks.registry import Entry, Registry


@dataclass(frozen=True, slots=True)
class Case:
    """One law held against one component; call it. `excused` are the component's waivers by law."""

    law: Law
    entry: Entry
    registry: Registry
    settings: Mapping[str, Any] | None
    excused: Mapping[str, Waiver]

    @property
    def id(self) -> str:
        return f"{self.entry.component.name}-{self.law.id.replace('/', '-')}"

    def __call__(self) -> None:
        """Passes, skips if the law does not apply, or fails with what was seen and what to do."""
        import pytest

        result = run_law(self.law, self.entry, self.registry, self.settings, self.excused)
        match result.status:
            case Status.NOT_APPLICABLE:
                pytest.skip(result.seen)
            case Status.WAIVED:
                pytest.xfail(result.seen)
            case Status.PASSED:
                return
            case _:
                pytest.fail(str(result), pytrace=False)


def parametrize_contract(
    plugin: ModuleType | Iterable[Component],
    *,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    waivers: Mapping[str, Iterable[Waiver]] | None = None,
    registry: Registry | None = None,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Parametrizes a test with `case`: every law of every component of a plugin module, or of the components given.

    `settings` and `waivers` are by component name. `registry` knows the components that settings name; None knows the
    plugin's own. Raises ValueError if there are no components to check, and for settings and waivers of unknown
    components or laws.
    """
    import pytest

    components = tuple(components_of(plugin) if isinstance(plugin, ModuleType) else plugin)
    if not components:
        raise ValueError("the plugin has no components to check")
    by_name = {"settings": settings or {}, "waivers": waivers or {}}
    for what, given in by_name.items():
        unknown = sorted(given.keys() - {component.name for component in components})
        if unknown:
            raise ValueError(f"{what} given for unknown components: {', '.join(unknown)}")
    registry = registry or Registry([Loaded(UNPACKAGED, components)])
    cases = [
        Case(
            each,
            Entry(component, UNPACKAGED),
            registry,
            (settings or {}).get(component.name),
            by_law((waivers or {}).get(component.name, ()), component.kind),
        )
        for component in components
        for each in laws_of(component.kind)
    ]
    return pytest.mark.parametrize("case", [pytest.param(case, id=case.id) for case in cases])
