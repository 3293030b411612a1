from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from types import ModuleType
from typing import Annotated, Any, TypeAlias

import pytest
from pydantic import field_validator

from penstock.hooks import Choice, Component, ExitCode, Problem, ProblemError, Registry
from penstock.hooks.architecture import RouterChoice
from penstock.hooks.config import OfKind, Schema, apply_overrides, parse_config, validate, validate_settings
from penstock.hooks.discovery import Broken, Loaded, Origin

ArchitectureChoice: TypeAlias = Annotated[Choice, OfKind("architecture")]


class Train(Schema):
    """A nested schema of the application."""

    tokens: int = 100
    lr: float = 0.1

    @field_validator("lr")
    @classmethod
    def _positive(cls, lr: float) -> float:
        if lr <= 0:
            raise ValueError("must be above 0")
        return lr


class Run(Schema):
    """The envelope."""

    name: str
    train: Train = Train()
    model: ArchitectureChoice | None = None
    router: RouterChoice | None = None
    routers: RouterChoice | list[RouterChoice] = []
    balance: list[Annotated[Choice, OfKind("balance-loss", "balancer")]] = []
    metric: str | list[str] = "loss"


def problems(registry: Registry, text: str, *overrides: str) -> list[str]:
    with pytest.raises(ProblemError) as caught:
        validate(Run, apply_overrides(parse_config(text, "run.yaml"), overrides), registry)
    assert caught.value.exit_code is ExitCode.USAGE
    return [str(problem) for problem in caught.value.problems]


def test_a_valid_config_is_an_instance_of_its_schema(registry: Registry) -> None:
    run = validate(Run, parse_config("{name: x, train: {tokens: 2_000}, router: {use: top-k, k: 4}}"), registry)
    assert run.router is not None
    assert (run.name, run.train.tokens, run.router.settings.k) == ("x", 2000, 4)
    assert run.router.build(experts=8) == {"k": 4, "scale": 1.0, "experts": 8}


def test_every_problem_is_found_at_once_in_the_order_of_the_file(registry: Registry) -> None:
    text = """\
seeed: 1
train:
  tokns: 3
  lr: -1
router: {use: top-k, kk: 3}
balance:
  - nugde
  - {use: nudge, rte: 2}
model:
  preset: smal
  use: model
  router: {use: top-k, k: two}
"""
    assert problems(registry, text, "router.scale=big", "train.tokens=many") == [
        "run.yaml:1:1: name: this field is required",
        "run.yaml:1:1: seeed: unknown field, known: balance, metric, model, name, router, routers, train",
        "run.yaml:3:3: train.tokns: unknown field, did you mean 'tokens'?",
        "run.yaml:4:3: train.lr: must be above 0",
        "run.yaml:5:22: router.kk: unknown field, did you mean 'k'?",
        "run.yaml:7:5: balance.0: unknown balance-loss or balancer 'nugde', did you mean 'nudge'?",
        "run.yaml:8:18: balance.1.rte: unknown field, did you mean 'rate'?",
        "run.yaml:10:3: model.preset: unknown preset 'smal', did you mean 'small'?",
        "run.yaml:12:24: model.router.k: input should be a valid integer, "
        "unable to parse string as an integer, not 'two'",
        "command line, override 1: router.scale: input should be a valid number, unable to parse string as a number, "
        "not 'big'",
        "command line, override 2: train.tokens: input should be a valid integer, "
        "unable to parse string as an integer, not 'many'",
    ]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("name: [1]", "run.yaml:1:1: name: input should be a valid string, not [1]"),
        ("train: 3", "run.yaml:2:1: train: must be a mapping of settings, not 3"),
        ("train: [1, 2]", "run.yaml:2:1: train: must be a mapping of settings, not [1, 2]"),
        ("router: 3", "run.yaml:2:1: router: must be the name of a component of kind 'router', or a"),
        ("router: {k: 3}", "run.yaml:2:1: router: must be the name of a component of kind 'router', or a mapping"),
        ("router: {use: 3}", "run.yaml:2:1: router: must be the name of a component of kind 'router', or a mapping"),
        ("router: ''", "run.yaml:2:1: router: must be the name of a component of kind 'router', or a mapping"),
        ("balance: [3]", "run.yaml:2:11: balance.0: must be the name of a component of kind 'balance-loss' or"),
        ("router: {use: tpo-k}", "run.yaml:2:10: router.use: unknown router 'tpo-k', did you mean 'top-k'?"),
        ("router: sigmoid-topk", "run.yaml:2:1: router: unknown router 'sigmoid-topk', `uv add penstock-routers`"),
        ("router: {use: bare, k: 3}", "run.yaml:2:21: router.k: unknown field"),
        ("router: needy", "run.yaml:2:1: router.k: this field is required"),
        ("router: {use: nested, inner: {depht: 2}}", "run.yaml:2:31: router.inner.depht: unknown field, did you"),
        ("router: {use: nested, routers: [{use: top-k, kk: 2}]}", "run.yaml:2:46: router.routers.0.kk: unknown field,"),
        ("router: {use: checked, low: 5}", "run.yaml:2:1: router: low is above high"),
        ("train: {lr: x}", "run.yaml:2:9: train.lr: input should be a valid number"),
    ],
)  # fmt: skip
def test_a_problem_names_its_line_and_its_path(registry: Registry, line: str, problem: str) -> None:
    text = line if line.startswith("name") else f"name: x\n{line}"
    [found] = problems(registry, text)
    assert found.startswith(problem)


@pytest.mark.parametrize("line", ["routers: {use: checked, low: 5}", "routers: [{use: checked, low: 5}]"])
def test_members_of_unions_leave_no_trace_in_a_path(registry: Registry, line: str) -> None:
    found = problems(registry, f"name: x\n{line}")
    place = "run.yaml:2:11: routers.0" if "[" in line else "run.yaml:2:1: routers"
    assert f"{place}: low is above high" in found
    assert not any("function" in each or "[" in each.partition("not ")[0] for each in found)


def test_a_scalar_union_is_reported_at_its_field(registry: Registry) -> None:
    assert {each.split(": ")[1] for each in problems(registry, "{name: x, metric: 3}")} == {"metric"}


def test_long_values_are_shortened(registry: Registry) -> None:
    [found] = problems(registry, f"name: x\ntrain: {'y' * 5000}")
    assert len(found) < 200


def test_the_hint_of_a_component_is_separate_from_what_is_wrong(registry: Registry) -> None:
    with pytest.raises(ProblemError) as caught:
        validate(Run, parse_config("{name: x, router: tpo-k}"), registry)
    [found] = caught.value.problems
    assert (found.code, found.what) == ("unknown-component", "unknown router 'tpo-k'")
    assert found.fix == "did you mean 'top-k'?"


def test_a_broken_plugin_ends_with_3(registry: Registry) -> None:
    broken = Broken(Origin("penstock-routers", "0.1.0", "r"), ImportError("no torch"))
    with pytest.raises(ProblemError, match=r"not usable, penstock-routers 0\.1\.0: ImportError: no torch") as caught:
        validate(Run, parse_config("{name: x, router: sigmoid-topk}"), Registry([*registry.plugins, broken]))
    assert caught.value.exit_code is ExitCode.PLUGIN
    assert caught.value.problems[0].code == "broken-plugin"


def test_a_schema_that_cannot_be_imported_is_a_problem_of_its_plugin() -> None:
    component = Component("router", "mine", "json:dumps", "", "no_such_module:Settings")
    registry = Registry([Loaded(Origin("acme", "1.0", "main"), (component,))])
    with pytest.raises(ProblemError, match=r"router: router 'mine' is not usable, acme 1\.0: ") as caught:
        validate(Run, parse_config("{name: x, router: mine}"), registry)
    assert caught.value.exit_code is ExitCode.PLUGIN


def test_a_bug_in_a_schema_keeps_its_traceback(registry: Registry) -> None:
    class Buggy(Schema):
        k: int = 1

        @field_validator("k")
        @classmethod
        def _bug(cls, k: int) -> int:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        validate(Buggy, parse_config("k: 2"), registry)


def test_settings_are_validated_outside_a_document(parts: ModuleType, registry: Registry) -> None:
    entry = registry.get("router", "top-k")
    assert validate_settings(entry, {"k": 4}, registry) == parts.TopKSettings(k=4)
    assert validate_settings(registry.get("router", "bare"), {}, registry) is None
    with pytest.raises(ProblemError, match=r"^router 'top-k': kk: unknown field, did you mean 'k'\?$"):
        validate_settings(entry, {"kk": 4}, registry)


class Numbers(Schema):
    count: int = 1
    share: float | None = None
    sizes: list[int] = []
    steps: float | list[list[float]] = 1.0
    switch: bool = False
    either: bool | int = 0


@pytest.mark.parametrize(
    ("written", "path"),
    [
        ("count: true", "count"),
        ("share: false", "share"),
        ("sizes: [1, true]", "sizes.1"),
        ("steps: [[0, true]]", "steps.0.1"),
        ("count: 1.5", "count"),
        ("count: '1e3'", "count"),
        ("share: .nan", "share"),
        ("share: 1e999", "share"),
    ],
)
def test_what_is_no_number_is_refused_and_never_taken_for_one(written: str, path: str) -> None:
    with pytest.raises(ProblemError, match=rf": {re.escape(path)}: "):
        validate(Numbers, parse_config(written), Registry([]))


def test_numbers_and_booleans_are_what_they_look_like() -> None:
    written = "count: 1e3\nshare: 2_000\nswitch: true\neither: true\nsteps: [[0, 1e-3]]"
    assert validate(Numbers, parse_config(written), Registry([])) == Numbers(
        count=1000, share=2000.0, switch=True, either=True, steps=[[0.0, 0.001]]
    )


class Pair(Schema):
    low: int
    high: int
    width: int = 1

    def misfits(self):
        if self.low > self.high:
            yield ("low",), f"is above high = {self.high}"
        if self.width > self.high - self.low:
            yield ("width",), "does not fit between them"


def test_values_that_do_not_fit_together_are_each_located_at_their_field() -> None:
    with pytest.raises(ProblemError) as raised:
        validate(Pair, parse_config("low: 3\nhigh: 2\nwidth: 5"), Registry([]))
    assert [str(problem) for problem in raised.value.problems] == [
        "config:1:1: low: is above high = 2",
        "config:3:1: width: does not fit between them",
    ]


class Outer(Schema):
    pair: Pair | None = None
    numbers: Numbers = Numbers()


def test_null_is_called_null_and_a_section_that_is_null_says_what_to_do() -> None:
    with pytest.raises(ProblemError) as raised:
        validate(Outer, parse_config("numbers: null\npair: {low: null, high: 2}"), Registry([]))
    section, low = (str(problem) for problem in raised.value.problems)
    assert "numbers: must be a mapping of settings, not null" in section
    assert section.endswith("write its settings, or remove the key if all of them have defaults")
    assert low.endswith("not null")


class Inner(Schema):
    low: int = 0
    high: int = 9
    name: str = "inner"

    def misfits(self):
        if self.low > self.high:
            yield ("low",), "low is above high"
        if self.name == "bad":
            yield ("name",), "a bad name"


class Together(Schema):
    needed: int
    one: Inner = Inner()
    many: list[Inner] = []

    def misfits(self):
        if self.needed > 1 and self.one.name == "twice":
            yield ("one", "name"), "twice is too much"


def problems_of(text: str, **options: Any) -> list[str]:
    with pytest.raises(ProblemError) as caught:
        validate(Together, parse_config(text, "a.yaml"), Registry([]), **options)
    return [
        f"{problem.where.rpartition(' ')[2]}: {problem.what.partition(',')[0]}" for problem in caught.value.problems
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("needed: x\none: {low: 10}", ["needed: input should be a valid integer", "one.low: low is above high"]),
        (
            "needed: 2\none: {low: x, name: twice}",
            ["one.low: input should be a valid integer", "one.name: twice is too much"],
        ),
        ("needed: 2\nmany: [{low: 10, high: x}]", ["many.0.high: input should be a valid integer"]),
        ("needed: 1\none: {low: 10, kk: 1}", ["one.kk: unknown field", "one.low: low is above high"]),
        ("one: {low: 10}", ["one.low: low is above high", "needed: this field is required"]),
        (
            "needed: 2\none: {low: 10, high: 5, name: bad}\nother: 1",
            ["one.low: low is above high", "one.name: a bad name", "other: unknown field"],
        ),
    ],
)
def test_what_does_not_fit_together_is_said_with_what_is_wrong_in_itself(text: str, expected: list[str]) -> None:
    assert sorted(problems_of(text)) == sorted(expected)


def test_what_spans_a_config_with_holes_is_said_too_and_what_rests_on_a_hole_is_not() -> None:
    def across(config: Together) -> Iterator[Problem]:
        yield Problem("bad-value", f"one is {config.one.name}", "one")
        yield Problem("bad-value", f"needed is {config.needed}", "needed")

    def careful(config: Together) -> list[Problem]:
        found: list[Problem] = []
        with suppress(AttributeError):
            found.extend(across(config))
        return found

    wrong = "needed: input should be a valid integer"
    assert problems_of("needed: x", across=careful) == [wrong, "one: one is inner"]
    assert problems_of("needed: 1\nmany: x", across=careful)[-2:] == ["one: one is inner", "needed: needed is 1"]
