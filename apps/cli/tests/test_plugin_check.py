"""`plugins check` and `plugins show`: what they say of a component, and the exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import click
import pytest

from penstock.cli.commands.plugin_show import type_name
from penstock.cli.main import run
from penstock.hooks import Component, ProblemError, Registry
from penstock.hooks.config import Schema
from penstock.hooks.discovery import Loaded, Origin

HERE = __name__
TOMORROW = str(date.today() + timedelta(days=1))
PEAK = "schedule/a-factor-is-at-most-one"


class PeakConfig(Schema):
    peak: float = 1.0
    """Factor of every step."""


class Peak:
    def __init__(self, *, peak: float = 1.0) -> None:
        self.peak = peak

    def __call__(self, progress: float) -> float:
        return self.peak


def registry_of(*components: Component) -> Registry:
    plugins = Component("command", "plugins", "penstock.cli.commands.plugins:plugins", "Plugins and what they offer")
    return Registry(
        [Loaded(Origin("penstock", "1", "cli"), (plugins,)), Loaded(Origin("acme", "1.2", "acme"), components)]
    )


FLAT = Component("schedule", "flat", f"{HERE}:Peak", "The same factor throughout", config=f"{HERE}:PeakConfig")
NAMESAKE = Component("corpus", "flat", "nowhere:corpus", "A corpus of that name")
REGISTRY = registry_of(FLAT)


def plugins(*arguments: str, registry: Registry = REGISTRY) -> Any:
    return run(["plugins", *arguments], registry)


def test_a_component_that_keeps_the_laws_passes_and_the_verdict_counts_them(capsys):
    (report,) = plugins("check", "flat")
    out, err = capsys.readouterr()
    assert report["passed"]
    assert out.splitlines()[-1] == report["verdict"]
    assert report["verdict"].startswith(f"{len(report['results'])} run, ")
    assert err.startswith("schedule acme:flat: ")


@pytest.mark.parametrize("name", ["flat", "acme:flat", "schedule/flat", "schedule/acme:flat"])
def test_a_component_is_found_by_name_by_distribution_and_by_kind(name):
    assert [report["component"] for report in plugins("check", name)] == ["acme:flat"]


def test_a_broken_law_is_exit_code_1_with_what_was_seen_and_the_remedy(capsys):
    with pytest.raises(SystemExit, match="1"):
        plugins("check", "flat", "--set", "peak=2.5")
    out = capsys.readouterr().out
    assert "the factor of 0.0 is 2.5" in out
    assert "remedy: Divide by the largest value" in out


def test_a_waiver_excuses_until_its_date():
    (report,) = plugins("check", "flat", "--set", "peak=2.5", "--waive", PEAK, TOMORROW, "measured so in the paper")
    assert report["passed"]
    with pytest.raises(SystemExit, match="1"):
        plugins("check", "flat", "--set", "peak=2.5", "--waive", PEAK, "2020-01-01", "long ago")


def test_json_has_every_result(capsys):
    result = plugins("check", "flat", "--json")
    assert json.loads(capsys.readouterr().out) == result


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("check", "flta"), "did you mean 'flat'?"),
        (("check", "flat", "--kind", "corpus"), "unknown corpus 'flat'"),
        (("check", "flat", "--set", "peek=2"), "did you mean 'peak'?"),
        (("check", "flat", "--set", "peak"), "is not key.sub=value"),
        (("check", "flat", "--waive", "schedule/none", TOMORROW, "why"), "unknown law 'schedule/none'"),
        (("check", "flat", "--waive", PEAK, "soon", "why"), "Invalid isoformat"),
        (("check", "flat", "--waive", PEAK, TOMORROW, " "), "needs a reason"),
    ],
)
def test_what_cannot_be_checked_is_a_problem(arguments, said):
    with pytest.raises(ProblemError, match=said):
        plugins(*arguments)


def test_a_name_of_two_kinds_means_both_unless_the_kind_is_said():
    registry = registry_of(FLAT, NAMESAKE)
    shown = plugins("show", "flat", registry=registry)
    assert {each["kind"] for each in shown} == {"schedule", "corpus"}
    shown = plugins("show", "flat", "--kind", "schedule", registry=registry)
    assert [each["kind"] for each in shown] == ["schedule"]


def test_show_has_settings_provider_line_and_how_to_check(capsys):
    (shown,) = plugins("show", "flat")
    (row,) = shown["settings"]
    assert row == {
        "field": "peak",
        "type": "float",
        "required": False,
        "default": 1.0,
        "description": "Factor of every step.",
    }
    text = capsys.readouterr().out
    for part in ("acme 1.2", "train: {schedule: {use: flat}}", shown["check"], "Factor of every step."):
        assert part in text


def test_show_imports_no_target():
    (shown,) = plugins("show", "flat", registry=registry_of(NAMESAKE))
    assert shown["check"] == "penstock plugins check flat --kind corpus"


FAR_AWAY = """from penstock.hooks import Component, hookimpl

@hookimpl
def routers():
    return [Component("router", "mine", "nowhere:router", "Mine", capabilities=frozenset({"causal"}))]
"""


def test_show_imports_neither_torch_nor_laws(tmp_path):
    (tmp_path / "far_away.py").write_text(FAR_AWAY)
    code = """import sys
from penstock.cli.main import run
run(["--plugin", sys.argv[1], "plugins", "show", "mine"])
sys.exit(any(name == "torch" or name.startswith("penstock.conformance.laws.") for name in sys.modules))"""
    command = [sys.executable, "-c", code, str(tmp_path / "far_away.py")]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "promises causal" in result.stdout


class NeedyConfig(Schema):
    peak: float
    """Factor of every step."""


NEEDY = replace(FLAT, name="needy", config=f"{HERE}:NeedyConfig")


def test_a_component_without_an_example_is_asked_for_settings_and_not_called_broken():
    with pytest.raises(ProblemError, match="schedule 'needy' needs settings to be checked") as raised:
        plugins("check", "needy", registry=registry_of(NEEDY))
    assert "peak: this field is required" in str(raised.value)
    (report,) = plugins("check", "needy", "--set", "peak=1.0", registry=registry_of(NEEDY))
    assert report["passed"]


def test_a_name_that_two_distributions_have_is_written_in_full():
    other = Registry([*REGISTRY.plugins, Loaded(Origin("other", "1", "other"), (FLAT,))])
    (shown,) = plugins("show", "acme:flat", registry=other)
    assert shown["use"] == "train: {schedule: {use: acme:flat}}"


def test_types_read_as_in_a_config():
    assert type_name(list[int] | None) == "list[int] or null"
    assert type_name(tuple[float, ...]) == "tuple[float, ...]"


def test_exit_codes_are_clicks():
    with pytest.raises(click.UsageError):
        plugins("check")
