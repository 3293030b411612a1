"""The proof of the kit: for every law there is a component that breaks this law and no other."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

import pytest

from penstock.hooks.component import KINDS
from penstock.hooks.testing import capabilities, check, laws

# Kinds that have nothing but the laws of every component: what they do is seen in whole runs.
WITHOUT_LAWS = {"engine", "observer", "command"} | {
    "architecture",
    "quantizer",
    "sharing",
    "optimizer",
    "corpus",
    "filter",
    "task",
    "topology",
    "placement",
    "exporter",
    "tracker",
}
WITH_LAWS = [kind for kind in KINDS if kind not in WITHOUT_LAWS]
GENERAL = laws("engine")


def mutants(kind: str) -> ModuleType:
    return importlib.import_module(f"broken.{kind.replace('-', '_')}")


def own_laws(kind: str) -> list[str]:
    return [law.id for law in laws(kind) if law not in GENERAL]


CASES = [("general", law.id) for law in GENERAL] + [(kind, law) for kind in WITH_LAWS for law in own_laws(kind)]


@pytest.mark.parametrize("kind", ["general", *WITH_LAWS])
def test_a_component_that_keeps_every_law_passes(kind: str) -> None:
    report = check(mutants(kind).GOOD)
    assert report.passed, "\n".join(map(str, report.broken))
    assert len(report.results) > 0


@pytest.mark.parametrize(("kind", "law"), CASES, ids=[law for _, law in CASES])
def test_a_broken_component_fails_exactly_its_law(kind: str, law: str) -> None:
    report = check(mutants(kind).BROKEN[law])
    assert [result.law for result in report.broken] == [law], "\n".join(map(str, report.broken))


@pytest.mark.parametrize("kind", ["general", *WITH_LAWS])
def test_every_broken_component_is_of_a_law(kind: str) -> None:
    known = {law.id for law in GENERAL} if kind == "general" else set(own_laws(kind))
    assert mutants(kind).BROKEN.keys() <= known


@pytest.mark.parametrize("kind", WITH_LAWS)
def test_every_capability_has_a_law(kind: str) -> None:
    assert {law.capability for law in laws(kind)} - {""} == set(capabilities(kind))


def test_the_table_of_laws_and_mutants(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [(law, mutants(kind).BROKEN[law].target.split(":")[1]) for kind, law in CASES]
    lines = [f"{len(rows)} laws, each with a component that fails it and nothing else:"]
    with capsys.disabled():
        sys.stdout.write("\n" + "\n".join(lines + [f"  {law:64} {mutant}" for law, mutant in rows]) + "\n")
    assert len(rows) == len({law for law, _ in rows})
