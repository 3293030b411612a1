"""Every router that a class of transformers has is exported in that class's layout: the same logits, the same text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from penstock_expert_choice.router import ExpertChoice
from torch import Tensor
from transformers import AutoModelForCausalLM

from penstock.conformance.parts import VOCABULARY, write_tokenizer
from penstock.hooks import ProblemError, Registry
from penstock.hooks.architecture import architecture_settings
from penstock.moe_core.glm.config import GlmMoeConfig
from penstock.moe_core.glm.model import GlmMoe
from penstock.routers.gates import TwoLayer
from penstock.routers.sinkhorn import SinkhornTopK
from penstock.routers.topk import SigmoidTopK, SoftmaxTopK
from penstock.serve.huggingface import HuggingFaceExporter

SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 40,
    "moe_intermediate_size": 16,
    "n_routed_experts": 4,
    "max_position_embeddings": 96,
}
BARE = {"use_qk_norm": False, "partial_rotary_factor": 1, "attention_bias": False, "n_shared_experts": 0}

# The class that is expected, the router with its settings, and what differs from SIZES.
LAYOUTS: dict[str, tuple[str, Any, dict[str, Any], dict[str, Any]]] = {
    "glm": ("glm4_moe", SigmoidTopK, {"scale": 2.5, "groups": 2, "groups_kept": 1}, {"first_k_dense_replace": 2}),
    "glm, warm, without shared experts": ("glm4_moe", SigmoidTopK, {"temperature": 0.7}, {"n_shared_experts": 0}),
    "glm, weights as they are": ("glm4_moe", SigmoidTopK, {"normalize": False}, {"use_qk_norm": False}),
    "mixtral": ("mixtral", SoftmaxTopK, {}, {**BARE, "first_k_dense_replace": 0}),
    "mixtral, one expert": (
        "mixtral",
        SoftmaxTopK,
        {"k": 1},
        {**BARE, "first_k_dense_replace": 0, "n_routed_experts": 1},
    ),
    "mixtral, scaled": (
        "mixtral",
        SinkhornTopK,
        {"scale": 1.7, "temperature": 0.5},
        {**BARE, "first_k_dense_replace": 0},
    ),
    "qwen2": ("qwen2_moe", SoftmaxTopK, {}, {"use_qk_norm": False, "partial_rotary_factor": 1}),
    "qwen2, bare": ("qwen2_moe", SoftmaxTopK, {"normalize": False}, BARE),
    "qwen3": ("qwen3_moe", SoftmaxTopK, {}, {"partial_rotary_factor": 1, "n_shared_experts": 0}),
    "qwen3, weights as they are": (
        "qwen3_moe",
        SoftmaxTopK,
        {"normalize": False, "k": 3},
        {**BARE, "use_qk_norm": True, "first_k_dense_replace": 0},
    ),
    "qwen3 next": ("qwen3_next", SoftmaxTopK, {}, {"n_shared_experts": 2}),
    "qwen3 next, without shared experts": (
        "qwen3_next",
        SoftmaxTopK,
        {"normalize": False, "scale": 2.0},
        {"n_shared_experts": 0, "attention_bias": False, "hidden_size": 28},
    ),
}


def random_model(router: Any, settings: dict[str, Any], sizes: dict[str, Any]) -> GlmMoe:
    """Random everywhere: biases, norms and projections that start at zero too."""
    torch.manual_seed(0)
    config = GlmMoeConfig(**{**SIZES, **sizes})
    model = GlmMoe(config, make_router=lambda layer, **context: router(**settings, **context)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
        for each in model.routers.values():
            if router is SigmoidTopK and each.e_score_correction_bias is not None:
                each.e_score_correction_bias.normal_(0, 0.2)
    return model


def trained(model: GlmMoe) -> GlmMoe:
    """After a few steps on a text that repeats itself."""
    token_BS = (torch.arange(4 * 33).view(4, 33) * 7 + torch.arange(4)[:, None]) % VOCABULARY
    optimizer = torch.optim.Adam(model.train().parameters(), lr=0.01)
    for _ in range(12):
        optimizer.zero_grad()
        model.next_token_loss(token_BS[:, :-1], token_BS[:, 1:]).loss.backward()
        optimizer.step()
    return model.eval()


def exported(model: GlmMoe, folder: Path) -> Any:
    folder.mkdir()
    HuggingFaceExporter(dtype="float32").export(model, write_tokenizer(folder), folder / "hub")
    loading: Any = AutoModelForCausalLM.from_pretrained(folder / "hub", dtype=torch.float32, output_loading_info=True)
    loaded, info = loading
    assert not any(info.values()), info
    return loaded.eval()


@torch.no_grad()
def assert_same(model: GlmMoe, loaded: Any) -> None:
    token_BS = torch.randint(0, VOCABULARY, (3, 24), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(loaded(token_BS).logits, model.logits(model(token_BS).hidden_BSD), atol=3e-5, rtol=1e-5)
    prompt_BS = token_BS[:1, :6]
    options = {"max_new_tokens": 64, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    theirs: Tensor = loaded.generate(prompt_BS, attention_mask=torch.ones_like(prompt_BS), **options)
    assert torch.equal(theirs, model.generate(prompt_BS, tokens=64, temperature=0.0))


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_transformers_computes_the_exported_model(tmp_path: Path, layout: str, tied: bool) -> None:
    model_type, router, settings, sizes = LAYOUTS[layout]
    model = random_model(router, settings, {**sizes, "tie_word_embeddings": tied})
    loaded = exported(model, tmp_path / "random")
    assert (loaded.config.model_type, loaded.config.max_position_embeddings) == (model_type, 96)
    assert (loaded.lm_head.weight is loaded.model.embed_tokens.weight) == tied
    assert_same(model, loaded)
    assert_same(trained(model), exported(model, tmp_path / "trained"))


def biased(router: Any) -> Callable[..., Any]:
    """Makes routers whose choice depends on a bias."""

    def make(**context: Any) -> Any:
        made = router(**context)
        made.e_score_correction_bias[0] = 0.5
        return made

    return make


# The router with its settings, what differs from SIZES, and what the problem says.
REFUSED: list[tuple[Any, dict[str, Any], dict[str, Any], str]] = [
    (TwoLayer, {}, {}, "has this router, use sigmoid-topk or softmax-topk"),
    (SigmoidTopK, {"capacity": 1.25}, {}, "routers that turn tokens away, remove `capacity`"),
    (SigmoidTopK, {"k": 1}, {"n_routed_experts": 1}, "a sigmoid router with one expert"),
    (biased(SoftmaxTopK), {}, {}, "a softmax router with a selection bias, balance with a loss"),
    (SoftmaxTopK, {"groups": 2}, {}, "a softmax router with groups of experts, set groups to 1"),
    (SoftmaxTopK, {}, {"use_qk_norm": False}, "partial rotary embeddings and no norm of queries and keys"),
]


@pytest.mark.parametrize(("router", "settings", "sizes", "message"), REFUSED)
def test_what_no_class_computes_is_refused_with_what_to_change(
    tmp_path: Path, router: Any, settings: dict[str, Any], sizes: dict[str, Any], message: str
) -> None:
    config = GlmMoeConfig(**{**SIZES, **sizes})
    model = GlmMoe(config, make_router=lambda layer, **context: router(**settings, **context))
    with pytest.raises(ProblemError, match=message):
        exported(model, tmp_path / "refused")
    assert not (tmp_path / "refused" / "hub").exists()


def test_a_router_that_no_class_has_is_not_told_to_remove_a_setting_that_it_lacks(tmp_path: Path) -> None:
    model = GlmMoe(GlmMoeConfig(**SIZES), make_router=lambda layer, **context: ExpertChoice(**context))
    with pytest.raises(ProblemError) as caught:
        exported(model, tmp_path / "refused")
    assert [problem.what for problem in caught.value.problems] == ["no transformers class has this router"]


def test_layers_with_different_routers_are_refused_by_number(tmp_path: Path) -> None:
    model = GlmMoe(GlmMoeConfig(**SIZES), make_router=lambda layer, **context: SigmoidTopK(k=1 + layer // 2, **context))
    with pytest.raises(ProblemError, match="a router in layer 1 other than in layer 2"):
        exported(model, tmp_path / "refused")


REGISTRY = Registry.discover()
COMPOSITIONS: list[tuple[dict[str, Any], str]] = [
    ({"router": "sigmoid-topk", "balance": ["loss-free"]}, ""),
    ({"router": {"use": "frozen", "temperature": 0.5}}, ""),
    ({"router": "softmax-topk", "balance": ["switch-loss"]}, ""),
    ({"router": "sinkhorn"}, ""),
    ({"router": "softmax-topk", "balance": ["loss-free"]}, "a softmax router with a selection bias"),
    ({"router": "two-layer"}, "this router"),
    ({"router": "random"}, "this router"),
    ({"router": {"use": "softmax-topk", "groups": 2}}, "groups of experts"),
    ({"router": {"use": "sigmoid-topk", "capacity": 1.0}}, "turn tokens away"),
    ({"router": {"use": "sigmoid-topk", "k": 1}, "n_routed_experts": 1}, "one expert"),
    ({"router": "softmax-topk", "use_qk_norm": False}, "no norm of queries and keys"),
    (
        {"router": "sigmoid-topk", "overrides": [{"match": "layers.2.mlp", "router": "softmax-topk"}]},
        "in layer 1 other",
    ),
    ({"router": "random", "first_k_dense_replace": 3}, ""),
]


@pytest.mark.parametrize(("changes", "message"), COMPOSITIONS)
def test_a_config_tells_what_cannot_be_exported_before_anything_is_built(changes: dict[str, Any], message: str) -> None:
    choice = REGISTRY.choose("architecture", {"use": "glm-moe", **SIZES, **changes})
    found = [str(problem) for problem in architecture_settings(choice).export_obstacles()]
    assert bool(found) == bool(message)
    assert all(message in each for each in found)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, ""),
        ({"router": "softmax-topk", "place": "in_place"}, ""),
        ({"router": "two-layer"}, "this router"),
        ({"layers": [1]}, "dense layers after the first one with experts"),
        ({"expert_size": 7}, "MLPs of width 40 next to experts of width 7"),
        ({"base": {"use": "glm-moe", **SIZES, "router": "sigmoid-topk"}}, "experts next to experts"),
        ({"base": {"use": "hf", "model_type": "gpt2"}}, "a base that is not a glm-moe"),
    ],
)
def test_a_frozen_base_tells_it_too(changes: dict[str, Any], message: str) -> None:
    base = {"use": "glm-moe", **SIZES, "first_k_dense_replace": 3}
    size = {} if changes.get("place") == "in_place" else {"expert_size": 8}
    settings = {"base": base, "layers": [1, 2], "router": "sigmoid-topk", **size, **changes}
    choice = REGISTRY.choose("architecture", {"use": "frozen-base", **settings})
    found = [str(problem) for problem in architecture_settings(choice).export_obstacles()]
    assert bool(found) == bool(message)
    assert all(message in each for each in found)


def test_schemas_of_routers_name_the_score_that_their_routers_have() -> None:
    routers = [entry.component for entry in REGISTRY.entries() if entry.component.kind == "router"]
    ours = [each for each in routers if each.target.startswith("penstock.routers.")]
    named = {each.name: each.load_config().score_function for each in ours}
    built = {each.name: getattr(each.load_target(), "score_function", None) for each in ours}
    assert named == {name: score if score in ("sigmoid", "softmax") else None for name, score in built.items()}
    assert {name for name, score in named.items() if score} == {"sigmoid-topk", "softmax-topk", "sinkhorn", "frozen"}
