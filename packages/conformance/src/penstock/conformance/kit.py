"""Holds a component to the laws of its kind.

The laws of a kind are in `penstock.conformance.laws.KIND`, imported when a component of the kind is checked: they may
need torch, which authors of such components have.
"""

from __future__ import annotations

import importlib
import importlib.util
import tempfile
import time
from collections.abc import Iterable, Mapping
from datetime import date
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

from penstock.conformance.law import Law, NotApplicable, Subject, by_id
from penstock.conformance.promises import CAPABILITIES
from penstock.conformance.report import Report, Result, Status, Waiver
from penstock.hooks.component import Component
from penstock.hooks.discovery import Loaded, Origin
from penstock.hooks.registry import Entry, Registry

_PACKAGE = "penstock.conformance.laws"
UNPACKAGED = Origin("unpackaged", "0", "none")


def laws_of(kind: str) -> tuple[Law, ...]:
    """The laws of a kind: those of every component, then its own."""
    general = cast("tuple[Law, ...]", importlib.import_module(f"{_PACKAGE}.general").LAWS)
    own = _module_of(kind)
    return general if own is None else (*general, *cast("tuple[Law, ...]", own.LAWS))


def capabilities(kind: str) -> Mapping[str, str]:
    """The capabilities that a component of the kind may declare, and what each promises."""
    return CAPABILITIES.get(kind, {})


def check(
    component: Component | Entry,
    *,
    settings: Mapping[str, Any] | None = None,
    registry: Registry | None = None,
    waivers: Iterable[Waiver] = (),
    today: date | None = None,
) -> Report:
    """Runs every law of the component's kind.

    `settings` are the component's, as in a config; None takes `Schema.example`. `registry` knows the components that
    the settings name. A waiver excuses a broken law until its date; a waiver that is expired or not needed is itself a
    failure. Laws that need a waived one do not apply. Raises ValueError for a waiver of a law that the kind does not
    have.
    """
    entry = component if isinstance(component, Entry) else Entry(component, UNPACKAGED)
    registry = registry or Registry([Loaded(entry.origin, (entry.component,))])
    component_ = entry.component
    excused = by_law(waivers, component_.kind)
    results = _results(laws_of(component_.kind), entry, registry, settings, excused, today or date.today())
    return Report(entry.id, component_.kind, component_.contract, tuple(results.values()))


def run_law(
    each: Law,
    entry: Entry,
    registry: Registry,
    settings: Mapping[str, Any] | None = None,
    excused: Mapping[str, Waiver] = MappingProxyType({}),
) -> Result:
    """One law and the laws that it needs; `excused` are waivers by law."""
    known = by_id(laws_of(entry.component.kind))
    needed = [known[law] for law in each.needs]
    return _results((*needed, each), entry, registry, settings, excused, date.today())[each.id]


def by_law(waivers: Iterable[Waiver], kind: str) -> Mapping[str, Waiver]:
    """Raises ValueError for a waiver of a law that the kind does not have."""
    excused = {waiver.law: waiver for waiver in waivers}
    unknown = sorted(excused.keys() - by_id(laws_of(kind)).keys())
    if unknown:
        raise ValueError(f"unknown laws of kind '{kind}': {', '.join(unknown)}")
    return excused


def _results(
    in_order: Iterable[Law],
    entry: Entry,
    registry: Registry,
    settings: Mapping[str, Any] | None,
    excused: Mapping[str, Waiver],
    today: date,
) -> dict[str, Result]:
    results: dict[str, Result] = {}
    for each in in_order:
        result = _held_against(each, entry, registry, settings, results)
        if each.id in excused:
            result = _excuse(result, excused[each.id], today)
        results[each.id] = result
    return results


def _held_against(
    each: Law, entry: Entry, registry: Registry, settings: Mapping[str, Any] | None, before: Mapping[str, Result]
) -> Result:
    broken = [needed for needed in each.needs if before[needed].status in (Status.FAILED, Status.NOT_REACHED)]
    waived = [needed for needed in each.needs if before[needed].status is Status.WAIVED]
    if broken:
        return Result(each.id, each.statement, Status.NOT_REACHED, f"needs {', '.join(broken)}", each.remedy)
    if waived:
        seen = f"needs {', '.join(waived)}, which is waived"
        return Result(each.id, each.statement, Status.NOT_APPLICABLE, seen)
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        status, seen = _outcome(each, Subject(entry, registry, Path(folder), settings))
    remedy = each.remedy if status is Status.FAILED else ""
    return Result(each.id, each.statement, status, seen, remedy, time.perf_counter() - begun)


def _outcome(each: Law, subject: Subject) -> tuple[Status, str]:
    claimed = not each.capability or subject.claims(each.capability)
    try:
        each.test(subject)
    except NotApplicable as reason:
        return Status.NOT_APPLICABLE, str(reason)
    except Exception as error:  # the component's own code runs here and may raise anything
        seen = str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
        return (
            Status.FAILED if claimed else Status.PASSED
        ), seen if claimed else f"not declared, and the law does not hold: {seen}"
    if claimed:
        return Status.PASSED, ""
    return Status.FAILED, f"the law holds, but the component does not declare '{each.capability}': declare it"


def _excuse(result: Result, waiver: Waiver, today: date) -> Result:
    """The result of a waived law: a waiver that is expired or not needed is itself a failure."""
    if result.status is not Status.FAILED:
        status, seen = Status.FAILED, f"{result.status}, although it is waived: remove the waiver"
    elif today > waiver.until:
        status, seen = Status.FAILED, f"{result.seen} (waived until {waiver.until}: {waiver.reason})"
    else:
        status, seen = Status.WAIVED, f"until {waiver.until}: {waiver.reason}"
    return Result(result.law, result.statement, status, seen, result.remedy, result.seconds)


def _module_of(kind: str) -> Any:
    name = f"{_PACKAGE}.{kind.replace('-', '_')}"
    return importlib.import_module(name) if importlib.util.find_spec(name) else None
