"""Sizes that cannot work are refused with the numbers that clash."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from penstock.hooks.architecture import LARGEST_DEPTH, LARGEST_SIZE
from penstock.hooks.component import Component
from penstock.hooks.config import explain, parse_config, validate
from penstock.hooks.discovery import Loaded, Origin, discover
from penstock.hooks.problems import ProblemError
from penstock.hooks.registry import Registry
from penstock.hooks.schema import Schema
from penstock.moe_core import plugin
from penstock.moe_core.glm.config import PRESETS, GlmMoeConfig


def sizes(**changes):
    values = {key: value for key, value in PRESETS["quickstart"].items() if key != "router"}
    return GlmMoeConfig(**{**values, **changes})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_key_value_heads": 3}, r"num_attention_heads \(4\) is not a multiple of num_key_value_heads \(3\)"),
        ({"head_dim": 31}, "positive even number"),
        ({"first_k_dense_replace": 9}, r"first_k_dense_replace \(9\) is greater than num_hidden_layers \(3\)"),
        ({"hidden_size": 0}, "greater than 0"),
        ({"n_routed_experts": 0}, "layers 1 to 2 have experts, which need it"),
        ({"moe_intermediate_size": 0}, "a model without experts has first_k_dense_replace = num_hidden_layers = 3"),
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


def test_the_plugin_offers_the_architectures():
    components = plugin.architectures()
    component = next(each for each in components if each.name == "glm-moe")
    assert component.load_config() is GlmMoeConfig
    assert callable(component.load_target())
    registry = Registry([Loaded(Origin("penstock-moe-core", "0", "moe_core"), tuple(components))])
    assert registry.names("architecture") == ["bert", "frozen-base", "glm-moe", "gpt"]
    mine = [found for found in discover() if found.origin.distribution == "penstock-moe-core"]
    assert isinstance(mine[0], Loaded)
    assert mine[0].components == tuple(components)


def test_a_model_of_dense_layers_needs_no_sizes_of_experts():
    dense = sizes(first_k_dense_replace=3, n_routed_experts=0, moe_intermediate_size=0)
    assert not dense.expert_layers


HUB = {
    "model_type": "glm4_moe",
    "vocab_size": 96,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "first_k_dense_replace": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "attention_bias": True,
    "use_qk_norm": True,
    "intermediate_size": 48,
    "moe_intermediate_size": 16,
    "n_routed_experts": 8,
    "n_shared_experts": 2,
    "num_experts_per_tok": 3,
    "n_group": 4,
    "topk_group": 2,
    "norm_topk_prob": False,
    "routed_scaling_factor": 2.5,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "partial_rotary_factor": 0.25,
    "eos_token_id": [7, 9],
    "transformers_version": "4.54.1",
}


class TopK(Schema):
    """The schema of a router that reads like ours."""

    k: int
    normalize: bool
    scale: float
    groups: int
    groups_kept: int


ROUTER = Component("router", "sigmoid-topk", "small_routers:Router", "Routes.", config="small_routers:TopK")
REGISTRY = Registry([Loaded(Origin("penstock-routers", "0", "routers"), (ROUTER,))])


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Writes a `config.json` and returns its folder; `...` leaves a field out."""
    monkeypatch.setitem(sys.modules, "small_routers", SimpleNamespace(TopK=TopK))

    def write(**changes) -> Path:
        document = {name: value for name, value in {**HUB, **changes}.items() if value is not ...}
        (tmp_path / "config.json").write_text(json.dumps(document))
        return tmp_path

    return write


def read(folder, *lines):
    return validate(GlmMoeConfig, parse_config("\n".join([f"pretrained: {folder}", *lines]), "run.yaml"), REGISTRY)


def test_sizes_and_router_are_those_of_the_pretrained_model(hub):
    config = read(hub())
    same = {name: value for name, value in HUB.items() if name in GlmMoeConfig.model_fields}
    assert {name: getattr(config, name) for name in same} == same
    assert config.router is not None
    assert config.router.arguments() == {"k": 3, "normalize": False, "scale": 2.5, "groups": 4, "groups_kept": 2}


def test_values_of_the_pretrained_model_are_explained(hub):
    folder = hub()
    document = parse_config(f"pretrained: {folder}\nrope_theta: 10000\n", "run.yaml")
    settings = {one.path: one.source for one in explain(validate(GlmMoeConfig, document, REGISTRY), document, REGISTRY)}
    assert settings["hidden_size"] == settings["router.k"] == f"pretrained '{folder}'"
    assert (settings["rope_theta"], settings["mtp"]) == ("run.yaml:2:1", "default")


def test_a_resolved_config_is_accepted_again(hub):
    config = read(hub())
    again = GlmMoeConfig.model_validate(config.model_dump(mode="json"), context={"registry": REGISTRY})
    assert again.model_dump() == config.model_dump()


def test_another_size_than_the_pretrained_one_is_refused_on_its_line(hub):
    with pytest.raises(ProblemError) as caught:
        read(hub(), "num_hidden_layers: 5", "hidden_size: 32", "rope_theta: 10000", "use_qk_norm: false")
    assert [str(problem) for problem in caught.value.problems] == [
        "run.yaml:2:1: num_hidden_layers: is 5, but 4 in the pretrained model, remove it",
        "run.yaml:5:1: use_qk_norm: is False, but True in the pretrained model, remove it",
    ]


def test_what_no_weight_depends_on_may_be_changed(hub):
    config = read(hub(), "rope_theta: 10000", "max_position_embeddings: 64", "eos_token_id: 3", "vocab_size: null")
    assert (config.rope_theta, config.max_position_embeddings, config.eos_token_id) == (10_000, 64, 3)
    assert config.vocab_size == 96


def test_fields_that_old_files_lack_are_what_transformers_takes(hub):
    absent = dict.fromkeys(["attention_bias", "use_qk_norm", "n_group", "topk_group", "rope_theta", "head_dim"], ...)
    config = read(hub(**absent))
    assert (config.attention_bias, config.use_qk_norm, config.rope_theta, config.head_dim) == (False, False, 1e4, 8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "qwen3_moe"}, "type 'qwen3_moe', a model can start from Hugging Face's glm4_moe"),
        ({"model_type": ...}, "type 'None'"),
        ({"hidden_act": "gelu"}, 'hidden_act = "gelu", which is not supported'),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, 'rope_type = "yarn"'),
        ({"rope_parameters": {"rope_type": "linear"}}, 'rope_type = "linear"'),
        ({"quantization_config": {"quant_method": "fp8"}}, "quantization_config"),
        ({"hidden_size": ..., "vocab_size": "many"}, "'vocab_size' is \"many\", not an integer\n.*has no 'hid"),
        ({"num_attention_heads": 0}, "greater than 0"),
    ],
)
def test_a_model_that_cannot_be_started_from_is_named(hub, changes, message):
    with pytest.raises(ProblemError, match=message):
        read(hub(**changes))


def test_a_path_that_cannot_be_read_is_the_only_problem(tmp_path):
    with pytest.raises(ProblemError) as caught:
        read(tmp_path / "missing")
    assert len(caught.value.problems) == 1
    assert str(caught.value).startswith(f"run.yaml:1:1: pretrained: {tmp_path / 'missing'}: cannot be read")
    with pytest.raises(
        ProblemError, match=r"config.json: cannot be read \(No such file or directory\), give the folder"
    ):
        read(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ProblemError, match="not JSON"):
        read(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ProblemError, match="not a mapping"):
        read(tmp_path)


def test_a_preset_beside_a_pretrained_model_is_refused(hub):
    with pytest.raises(ProblemError, match="remove one of them"):
        read(hub(), "preset: quickstart")


@pytest.mark.parametrize("name", ["vocab_size", "hidden_size", "num_hidden_layers", "n_routed_experts"])
def test_a_size_that_no_tensor_has_is_refused_at_its_field(name):
    most = LARGEST_DEPTH if name == "num_hidden_layers" else LARGEST_SIZE
    with pytest.raises(ValueError, match=rf"{name}\n.*less than or equal to {most}"):
        sizes(**{name: 10**30})
