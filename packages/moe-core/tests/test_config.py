"""Sizes that cannot work are refused with the numbers that clash."""

from __future__ import annotations

import pytest

from penstock.hooks.config import parse_config, validate
from penstock.hooks.discovery import Loaded, Origin, discover
from penstock.hooks.problems import ProblemError
from penstock.hooks.registry import Registry
from penstock.moe_core import plugin
from penstock.moe_core.config import PRESETS, GlmMoeConfig


def sizes(**changes):
    values = {key: value for key, value in PRESETS["quickstart"].items() if key != "router"}
    return GlmMoeConfig(**{**values, **changes})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_key_value_heads": 3}, r"num_attention_heads \(4\) is not a multiple of num_key_value_heads \(3\)"),
        ({"head_dim": 31}, "positive even number"),
        ({"first_k_dense_replace": 9}, r"first_k_dense_replace \(9\) is more than num_hidden_layers \(3\)"),
        ({"hidden_size": 0}, "greater than 0"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        sizes(**change)


def test_what_is_written_wins_over_the_preset():
    document = parse_config("preset: quickstart\nhidden_size: 64\nrouter: null\n")
    config = validate(GlmMoeConfig, document, Registry([]))
    assert config.hidden_size == 64
    assert config.n_routed_experts == PRESETS["quickstart"]["n_routed_experts"]


def test_an_unknown_preset_names_the_one_that_was_meant():
    with pytest.raises(ProblemError, match=r"did you mean 'glm-4\.6'"):
        validate(GlmMoeConfig, parse_config("preset: glm-46\n"), Registry([]))


def test_the_plugin_offers_the_architecture():
    (component,) = plugin.architectures()
    assert component.load_config() is GlmMoeConfig
    assert callable(component.load_target())
    registry = Registry([Loaded(Origin("penstock-moe-core", "0", "moe_core"), (component,))])
    assert registry.names("architecture") == ["glm-moe"]
    mine = [found for found in discover() if found.origin.distribution == "penstock-moe-core"]
    assert isinstance(mine[0], Loaded)
    assert mine[0].components == (component,)
