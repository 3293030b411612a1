"""The proof of the kit: for every law there is a component that breaks this law and no other.

`pytest packages/conformance -s` prints the table of laws, broken components, and the laws that each was seen to fail.
"""

from __future__ import annotations

import importlib
import sys
from dataclasses import replace
from functools import cache
from types import ModuleType

import pytest

from penstock.conformance import Report, capabilities, check, laws_of
from penstock.conformance.laws import general
from penstock.hooks.component import KINDS, Component


def mutants(kind: str) -> ModuleType:
    return importlib.import_module(f"broken.{kind.replace('-', '_')}")


def own_laws(kind: str) -> list[str]:
    return [law.id for law in laws_of(kind) if law not in general.LAWS]


CASES = [("general", law.id) for law in general.LAWS] + [(kind, law) for kind in KINDS for law in own_laws(kind)]


@cache  # the table asks again for what the tests before it have seen
def of_the_mutant(kind: str, law: str) -> Report:
    return check(mutants(kind).BROKEN[law])


@pytest.mark.parametrize("kind", ["general", *KINDS])
def test_a_component_that_keeps_every_law_passes(kind: str) -> None:
    report = check(mutants(kind).GOOD)
    assert report.passed, "\n".join(map(str, report.broken))
    assert len(report.results) == len(laws_of(report.kind)) > 0


@pytest.mark.parametrize("kind", [kind for kind in KINDS if hasattr(mutants(kind), "OLDER")])
def test_a_component_of_an_older_contract_that_keeps_every_law_passes(kind: str) -> None:
    report = check(mutants(kind).OLDER)
    assert report.passed, "\n".join(map(str, report.broken))


@pytest.mark.parametrize(("kind", "law"), CASES, ids=[law for _, law in CASES])
def test_a_broken_component_fails_exactly_its_law(kind: str, law: str) -> None:
    report = of_the_mutant(kind, law)
    assert [result.law for result in report.broken] == [law], "\n".join(map(str, report.broken))
    assert not report.passed


EARLIER = [(kind, module) for kind in KINDS for module in getattr(mutants(kind), "EARLIER", {}).values()]
EARLIER_CASES = [(module, law) for _, module in EARLIER for law in module.BROKEN]


@pytest.mark.parametrize(("kind", "module"), EARLIER)
def test_a_component_of_an_earlier_contract_that_keeps_every_law_passes(kind: str, module: ModuleType) -> None:
    report = check(module.GOOD)
    assert report.passed, "\n".join(map(str, report.broken))
    assert report.contract < mutants(kind).GOOD.contract


@pytest.mark.parametrize(("module", "law"), EARLIER_CASES, ids=[law for _, law in EARLIER_CASES])
def test_a_broken_component_of_an_earlier_contract_fails_exactly_its_law(module: ModuleType, law: str) -> None:
    report = check(module.BROKEN[law])
    assert [result.law for result in report.broken] == [law], "\n".join(map(str, report.broken))


@pytest.mark.parametrize("kind", ["general", *KINDS])
def test_every_broken_component_is_of_a_law(kind: str) -> None:
    known = {law.id for law in general.LAWS} if kind == "general" else set(own_laws(kind))
    assert mutants(kind).BROKEN.keys() <= known


@pytest.mark.parametrize("kind", KINDS)
def test_every_capability_has_a_law(kind: str) -> None:
    assert {law.capability for law in laws_of(kind)} - {""} == set(capabilities(kind))


@pytest.mark.parametrize(("kind", "capability"), [(kind, each) for kind in KINDS for each in capabilities(kind)])
def test_a_capability_is_tested_both_ways(kind: str, capability: str) -> None:
    good: Component = mutants(kind).GOOD
    report = check(replace(good, capabilities=good.capabilities ^ {capability}))
    assert [result.law for result in report.broken] == [law.id for law in laws_of(kind) if law.capability == capability]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_laws_of_its_own(kind: str) -> None:
    assert own_laws(kind)


def test_the_table_of_laws_and_mutants() -> None:
    rows = []
    for kind, law in CASES:
        name = mutants(kind).BROKEN[law].target.split(":")[1]
        rows.append((law, name, [result.law for result in of_the_mutant(kind, law).broken]))
    head = f"{len(rows)} laws, each with a component that fails it and nothing else"
    lines = [f"| {law} | {name} | {', '.join(failed)} |" for law, name, failed in rows]
    sys.stdout.write("\n".join(["", head, "", "| law | mutant | laws failed |", "|---|---|---|", *lines, ""]))
    assert [failed for _, _, failed in rows] == [[law] for law, _, _ in rows]
