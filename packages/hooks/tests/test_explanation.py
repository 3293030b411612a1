from __future__ import annotations

from typing import Annotated, TypeAlias

import pytest

from penstock.hooks import Choice, ProblemError, Registry
from penstock.hooks.architecture import RouterChoice
from penstock.hooks.config import OfKind, Schema, apply_overrides, dump_config, explain, parse_config, validate

ArchitectureChoice: TypeAlias = Annotated[Choice, OfKind("architecture")]


class Run(Schema):
    """The envelope."""

    name: str
    seed: int = 0
    tags: list[str] = []
    model: ArchitectureChoice
    routers: list[RouterChoice] = []
    extra: dict[str, dict[str, int]] = {}


TEXT = """\
name: x
tags: [a, b]
model:
  use: model
  preset: small
routers:
  - top-k
  - use: nested
    inner: {}
extra: {a: {b: 1}}
"""


def sources(registry: Registry, text: str, *overrides: str, prefix: str = "") -> dict[str, str]:
    document = apply_overrides(parse_config(text, "run.yaml"), overrides)
    config = validate(Run, document, registry)
    return {setting.path: setting.source for setting in explain(config, document, registry, prefix)}


def test_every_value_says_who_set_it(registry: Registry) -> None:
    assert sources(registry, TEXT, "seed=3", "model.router.k=4", "model.router.use=top-k", "extra.c={d: 2}") == {
        "name": "run.yaml:1:1",
        "seed": "command line, override 1",
        "tags": "run.yaml:2:1",
        "model.use": "run.yaml:4:3",
        "model.preset": "run.yaml:5:3",
        "model.width": "preset 'small'",
        "model.router.use": "command line, override 3",
        "model.router.k": "command line, override 2",
        "model.router.scale": "default",
        "routers.0.use": "run.yaml:7:5",
        "routers.0.k": "default",
        "routers.0.scale": "default",
        "routers.1.use": "run.yaml:8:5",
        "routers.1.inner.depth": "default",
        "routers.1.routers": "default",
        "extra.a.b": "run.yaml:10:13",
        "extra.c.d": "command line, override 4",
    }


def test_what_a_preset_gives_below_a_field_is_the_preset_s(registry: Registry) -> None:
    found = sources(registry, TEXT, prefix="model.router")
    assert found == dict.fromkeys(["model.router.use", "model.router.k", "model.router.scale"], "preset 'small'")


def test_a_component_that_the_user_wrote_hides_the_preset_s(registry: Registry) -> None:
    found = sources(registry, f"{TEXT}", "model.router=top-k", prefix="model.router")
    assert found["model.router.use"] == "command line, override 1"
    assert found["model.router.scale"] == "default"


def test_the_prefix_is_a_whole_part_of_the_path(registry: Registry) -> None:
    assert list(sources(registry, TEXT, prefix="name")) == ["name"]
    assert list(sources(registry, TEXT, prefix="routers.1")) == [
        "routers.1.use", "routers.1.inner.depth", "routers.1.routers"]  # fmt: skip
    with pytest.raises(ProblemError, match=r"the config has no 'mod', did you mean 'model'\?"):
        sources(registry, TEXT, prefix="mod")
    with pytest.raises(ProblemError, match=r"the config has no 'model.ruoter', did you mean 'router'\?"):
        sources(registry, TEXT, prefix="model.ruoter")


def test_values_are_the_resolved_ones(registry: Registry) -> None:
    document = parse_config(TEXT)
    values = {setting.path: setting.value for setting in explain(validate(Run, document, registry), document, registry)}
    assert values["model.router.scale"] == 3.0
    assert values["model.use"] == "acme:model"
    assert values["tags"] == ["a", "b"]


def test_a_resolved_config_written_out_means_the_same(registry: Registry) -> None:
    config = validate(Run, parse_config(TEXT), registry)
    written = dump_config(config.model_dump(mode="json"))
    again = parse_config(written, "config.resolved.yaml")
    assert validate(Run, again, registry) == config
    assert {setting.source.split(":")[0] for setting in explain(config, again, registry)} == {"config.resolved.yaml"}


def test_an_unknown_path_names_its_neighbours_alone(registry: Registry) -> None:
    with pytest.raises(ProblemError) as raised:
        sources(registry, "{name: x, model: {use: model, preset: small}}", prefix="model.zzz")
    known = "preset, router, use, width"
    assert str(raised.value).endswith(f"the config has no 'model.zzz', known: {known}")
