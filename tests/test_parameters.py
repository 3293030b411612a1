"""Parameters are counted twice, with torch and without it, and both counts are the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock.hooks.contracts import ParameterRole
from penstock.hooks.registry import Registry
from penstock.netsim.model_shape import shape_named
from penstock.run.config import load_run_config
from penstock.run.records.training import ParameterCounts
from penstock.train.compose import compose_model, parameter_summary

CONFIG = Path(__file__).parents[1] / "configs" / "quickstart.yaml"


def counted(preset: str, vocabulary: int) -> ParameterCounts:
    untied = "model.sharing=[]"
    overrides = [f"model.preset={preset}", "model.router.k=8", untied, f"data.tokenizer.vocab_size={vocabulary}"]
    config, _ = load_run_config(CONFIG, overrides, Registry.discover())
    return parameter_summary(compose_model(config, vocabulary, "meta"))


@pytest.mark.parametrize(("preset", "active"), [("glm-4.6", 33.63e9), ("glm-4.5-air", 13.42e9)])
def test_netsim_counts_the_parameters_that_the_model_has(preset: str, active: float) -> None:
    shape = shape_named(preset)
    built = counted(preset, shape.vocabulary)
    assert built.total == shape.parameters
    assert built.active is not None
    assert built.active - built.by_role[ParameterRole.EMBEDDING] == shape.active_parameters  # which is looked up
    assert built.active == pytest.approx(active, rel=1e-3)


def test_the_15b_preset_has_3b_active_parameters() -> None:
    built = counted("glm-15b-a3b", 151_552)
    assert built.total == pytest.approx(15e9, rel=0.05)
    assert built.active == pytest.approx(3e9, rel=0.1)
