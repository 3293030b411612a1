"""Sections of a config: an app that is installed offers one, and a config that does not write it stays as it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock.hooks import Component, Registry
from penstock.hooks.architecture import ArchitectureSettings
from penstock.hooks.config import Schema, explain, json_schema
from penstock.hooks.discovery import Loaded, Origin
from penstock.hooks.known import FIRST_PARTY
from penstock.hooks.problems import ExitCode, ProblemError
from penstock.run.config import RESOLVED, digest, envelope_of, load_run_config
from penstock.run.directory import RunDirectory

TEXT = "name: toy\ndata: {corpus: text}\nmodel: toy\ntrain: {tokens: 100}\n"

OURS = [  # those that a config has by default
    ("corpus", "text"),
    ("filter", "exact-dedup"),
    ("optimizer", "muon"),
    ("schedule", "cosine"),
    ("objective", "next-token"),
    ("engine", "local"),
    ("tracker", "jsonl"),
    ("tracker", "tensorboard"),
    ("observer", "load-trace"),
]


class Sizes(ArchitectureSettings):
    """A model without experts."""

    expert_layers: tuple[int, ...] = ()
    """Layers with experts."""


class Wheel(Schema):
    """A wheel that the water turns."""

    speed: float = 1.0
    """Turns a second."""


def section(name: str, config: str = f"{__name__}:Wheel") -> Component:
    return Component("section", name, config, "A section of the tests' own", config=config)


def registry(*sections: Component, distribution: str = "acme-wheels") -> Registry:
    ours = [
        Loaded(Origin(FIRST_PARTY[kind, name], "1", name), (Component(kind, name, "json:dumps", ""),))
        for kind, name in OURS
    ]
    model = Component("architecture", "toy", "json:dumps", "", config=f"{__name__}:Sizes")
    theirs = [Loaded(Origin("acme", "1", "acme"), (model,)), Loaded(Origin(distribution, "1", "acme"), sections)]
    return Registry([*ours, *theirs])


@pytest.fixture
def load(tmp_path: Path):
    def loaded(text: str, known: Registry, *overrides: str, name: str = "run.yaml", owns: tuple[str, ...] = ()):
        (tmp_path / name).write_text(TEXT + text)
        return load_run_config(tmp_path / name, overrides, known, owns=owns)

    return loaded


def problems(load, *arguments, **named) -> ProblemError:
    with pytest.raises(ProblemError) as raised:
        load(*arguments, **named)
    return raised.value


WITH = registry(section("wheel"))
WITHOUT = registry()


def test_a_command_reads_its_section_as_an_attribute(load):
    assert load("wheel: {speed: 2}", WITH)[0].wheel == Wheel(speed=2)
    assert load("", WITH, "wheel.speed=3")[0].wheel == Wheel(speed=3)


def test_a_section_that_is_not_written_has_its_defaults(load):
    assert load("", WITH)[0].wheel == Wheel()


def test_installing_an_app_changes_neither_the_resolved_config_nor_its_hash(load):
    before, after = load("", WITHOUT)[0].resolved(), load("", WITH)[0].resolved()
    assert before == after
    assert digest(before) == digest(after)


def test_the_resolved_config_holds_what_is_written_and_what_the_running_command_owns(load):
    assert load("wheel: {}", WITH)[0].resolved()["wheel"] == {"speed": 1.0}
    assert load("", WITH, owns=("wheel",))[0].resolved()["wheel"] == {"speed": 1.0}
    assert load("wheel: {speed: 2}", WITH, owns=("wheel",))[0].resolved()["wheel"] == {"speed": 2.0}


def test_configs_of_the_same_apps_can_be_equal(load):
    assert load("wheel: {speed: 2}", WITH)[0] == load("", registry(section("wheel")), "wheel.speed=2")[0]


def test_a_mistake_in_a_section_is_named_with_its_line(load):
    error = problems(load, "wheel:\n  sped: 2\n", WITH)
    assert str(error).endswith("run.yaml:6:3: wheel.sped: unknown field, did you mean 'speed'?")


def test_a_section_of_ours_that_is_not_installed_names_its_package_beside_every_other_problem(load):
    error = problems(load, "simulate: {gpus: [8]}\nseed: none\n", WITHOUT)
    assert {problem.code for problem in error.problems} == {"unknown-component", "bad-value"}
    (missing,) = [problem for problem in error.problems if problem.code == "unknown-component"]
    assert "run.yaml:5:1: simulate" in missing.where
    assert missing.fix == "`uv add penstock-simulate` provides it"


def test_a_misspelt_key_is_still_told_what_was_meant(load):
    error = problems(load, "whel: {}\n", WITH)
    assert [(problem.code, problem.fix) for problem in error.problems] == [("unknown-field", "did you mean 'wheel'?")]


def test_a_section_that_two_apps_offer_names_both_to_the_config_that_writes_it(load):
    two = Registry([*WITH.plugins, Loaded(Origin("other", "1", "other"), (section("wheel"),))])
    assert load("", two)[0].resolved() == load("", WITHOUT)[0].resolved()
    (problem,) = problems(load, "wheel: {}\n", two).problems
    assert problem.code == "ambiguous-component"
    assert "acme-wheels" in problem.what
    assert "other" in problem.what


def test_a_section_that_cannot_be_imported_stops_the_configs_alone_that_write_it(load):
    broken = registry(section("wheel", "no_such_module:Wheel"))
    load("", broken)
    error = problems(load, "wheel: {}\n", broken)
    assert error.exit_code == ExitCode.PLUGIN
    assert "no_such_module" in str(error)


@pytest.mark.parametrize("name", ["train", "resolved", "water-wheel"])
def test_a_section_takes_no_name_that_the_config_has_already(load, name):
    named = registry(section(name))
    assert load("", named)[0].train.tokens == 100
    if name != "train":
        assert problems(load, f"{name}: {{}}\n", named).problems[0].code == "bad-section"


def test_a_run_keeps_the_sections_of_apps_that_are_gone(load, tmp_path):
    config, document = load("wheel: {speed: 2}", WITH)
    run = RunDirectory.create(tmp_path / "runs", config, document, (), WITH)
    without = run.config(WITHOUT)
    assert not hasattr(without, "wheel")
    assert without.resolved() == config.resolved()


def test_an_override_into_a_section_of_no_app_is_an_error_in_the_config_of_a_run_too(load):
    error = problems(load, "wheel: {speed: 2}\n", WITHOUT, "trian.tokens=5", name=RESOLVED)
    assert [problem.fix for problem in error.problems] == ["did you mean 'train'?"]


def test_a_run_gives_one_section_without_reading_the_rest(load, tmp_path):
    config, document = load("wheel: {speed: 2}", WITH)
    run = RunDirectory.create(tmp_path / "runs", config, document, (), WITH)
    assert run.section("wheel", Wheel, Registry([])) == Wheel(speed=2)
    assert run.section("another", Wheel, Registry([])) == Wheel()


def test_explanations_and_the_json_schema_have_the_section(load):
    config, document = load("wheel: {speed: 2}", WITH)
    (setting,) = explain(config, document, WITH, "wheel")
    assert (setting.path, setting.value, setting.source) == ("wheel.speed", 2.0, f"{document.name}:5:9")
    schema = json_schema(envelope_of(WITH), WITH)
    assert schema["properties"]["wheel"]["default"] == {}
    assert "wheel" not in json_schema(envelope_of(WITHOUT), WITHOUT)["properties"]
