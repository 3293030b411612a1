from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from families import DENSE, MIXTURES, VOCABULARY, build, tokens
from penstock_hf_models import model as model_module
from penstock_hf_models.build import hf_model
from torch.nn import functional as F
from transformers import AutoModelForCausalLM

from penstock.hooks import ProblemError
from penstock.hooks.contracts import ParameterRole, Router

each_family = pytest.mark.parametrize("family", [*DENSE, *MIXTURES])


@each_family
@torch.no_grad()
def test_head_on_hidden_states_gives_the_logits_of_transformers(family: str) -> None:
    model, token_BS = build(family), tokens(2, 7)
    hidden_BSD = model(token_BS).hidden_BSD
    expected_BSV = model.network(token_BS).logits
    torch.testing.assert_close(model.logits(hidden_BSD), expected_BSV)
    torch.testing.assert_close(model.logits(hidden_BSD[:, -1]), expected_BSV[:, -1])


@each_family
@torch.no_grad()
def test_blocks_run_once_each_in_their_order(family: str) -> None:
    model, ran = build(family), []
    blocks = model.blocks()
    for index, block in enumerate(blocks):
        block.register_forward_pre_hook(lambda *_, index=index: ran.append(index))
    model(tokens(2, 7))
    assert ran == list(range(model.network.config.num_hidden_layers))
    assert not any(inner in blocks for block in blocks for inner in list(block.modules())[1:])


@each_family
@torch.no_grad()
def test_no_token_sees_a_later_one(family: str) -> None:
    model, token_BS = build(family), tokens(1, 8)
    changed_BS = token_BS.clone()
    changed_BS[:, -1] = (changed_BS[:, -1] + 1) % VOCABULARY
    before, after = (model.logits(model(each).hidden_BSD) for each in (token_BS, changed_BS))
    torch.testing.assert_close(before[:, :-1], after[:, :-1])
    assert not torch.equal(before[:, -1], after[:, -1])


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "mixtral"])
@pytest.mark.parametrize("chunk", [2**24, 5 * VOCABULARY])
def test_loss_sums_the_nats_that_the_mask_counts_in_any_chunks(family: str, chunk: int, monkeypatch) -> None:
    monkeypatch.setattr(model_module, "CHUNK_LOGITS", chunk)
    model, window_BS = build(family), tokens(2, 8)
    token_BS, target_BS = window_BS[:, :-1], window_BS[:, 1:]
    mask_BS = torch.ones_like(token_BS, dtype=torch.bool)
    mask_BS[1, 4:] = False
    logits_BSV = model.network(token_BS).logits.float()
    expected = F.cross_entropy(logits_BSV[mask_BS], target_BS[mask_BS], reduction="sum")
    expected_gradients = torch.autograd.grad(expected, list(model.parameters()), allow_unused=True)
    output = model.next_token_loss(token_BS, target_BS, mask_BS)
    torch.testing.assert_close(output.loss, expected)
    torch.testing.assert_close(output.nll_BS.sum(), expected.detach())
    assert not output.nll_BS[~mask_BS].any()
    gradients = torch.autograd.grad(output.loss, list(model.parameters()), allow_unused=True)
    for gradient, wanted in zip(gradients, expected_gradients, strict=True):
        assert (gradient is None) == (wanted is None)
        if gradient is not None:
            torch.testing.assert_close(gradient, wanted, rtol=1e-4, atol=1e-5)


@each_family
def test_generation_is_greedy_and_the_same_with_and_without_cache(family: str) -> None:
    model, prompt_BS = build(family), tokens(2, 4)
    expected_BS = prompt_BS
    with torch.no_grad():
        for _ in range(5):
            expected_BS = torch.cat((expected_BS, model.network(expected_BS).logits[:, -1:].argmax(-1)), dim=1)
    assert torch.equal(model.generate(prompt_BS, tokens=5), expected_BS)
    assert torch.equal(model.generate(prompt_BS, tokens=5, use_cache=False), expected_BS)


def test_sampling_is_a_function_of_its_seed_and_leaves_the_global_generator_alone() -> None:
    model, prompt_BS = build("gpt2").train(), tokens(2, 4)
    state = torch.get_rng_state()
    one, again, other = (model.generate(prompt_BS, tokens=12, temperature=1.0, top_p=0.95, seed=s) for s in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert torch.equal(state, torch.get_rng_state())
    assert model.training
    assert torch.equal(
        model.generate(prompt_BS, tokens=5, temperature=1.0, top_k=1), model.generate(prompt_BS, tokens=5)
    )


def test_a_row_that_stopped_repeats_the_stop_token() -> None:
    model, prompt_BS = build("gpt2"), tokens(2, 4)
    free_BS = model.generate(prompt_BS, tokens=6)
    stop = int(free_BS[0, 4])
    stopped_BS = model.generate(prompt_BS, tokens=6, stop_token=stop)
    assert (stopped_BS[0, 4:] == stop).all()
    end = (free_BS[1, 4:] == stop).int().argmax() if stop in free_BS[1, 4:] else 6
    assert torch.equal(stopped_BS[1, : 4 + end], free_BS[1, : 4 + end][: stopped_BS.shape[1]])


@each_family
def test_state_returns_bit_for_bit_under_the_names_of_the_hub(family: str, tmp_path) -> None:
    model, other = build(family), build(family)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    state = {name: tensor.clone() for name, tensor in model.export_state().items()}
    other.load_export_state(state)
    assert model.state_dict().keys() == other.state_dict().keys()
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))
    model.network.save_pretrained(tmp_path)
    reread = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    torch.testing.assert_close(reread(tokens(1, 5)).logits, other.network(tokens(1, 5)).logits)


@pytest.mark.parametrize("family", ["gpt2", "mixtral", "bert"])
def test_export_state_and_config_are_what_save_pretrained_writes(family: str, tmp_path) -> None:
    from safetensors.torch import load_file

    model = build(family)
    model.network.save_pretrained(tmp_path)
    written, ours = load_file(tmp_path / "model.safetensors"), model.export_state()
    assert written.keys() == ours.keys()
    assert all(torch.equal(written[name], ours[name]) for name in written)
    config = json.loads((tmp_path / "config.json").read_text())
    exported = json.loads(json.dumps(model.export_config()))
    assert {name: exported[name] for name in config if name != "dtype"} == {
        name: value for name, value in config.items() if name != "dtype"
    }


def test_weights_that_do_not_fit_are_named_and_change_nothing() -> None:
    model = build("mixtral")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = {name: torch.zeros_like(value) for name, value in model.export_state().items()}
    del state["model.norm.weight"]
    with pytest.raises(ProblemError, match=r"missing tensors: model\.norm\.weight"):
        model.load_export_state(state)
    with pytest.raises(ProblemError, match="unknown tensors: stray"):
        model.load_export_state({**model.export_state(), "stray": torch.zeros(1)})
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_embeddings_tied_by_a_strategy_are_stored_once_and_the_config_says_so() -> None:
    model = build("mixtral")
    assert "lm_head.weight" in model.export_state()
    model.network.lm_head.weight = model.network.model.embed_tokens.weight
    state = {name: tensor.clone() for name, tensor in model.export_state().items()}
    assert "lm_head.weight" not in state
    assert model.export_config()["tie_word_embeddings"] is True
    with torch.no_grad():
        model.network.lm_head.weight.zero_()
    model.load_export_state(state)
    assert torch.equal(model.network.lm_head.weight, state["model.embed_tokens.weight"])
    assert model.network.lm_head.weight is model.network.model.embed_tokens.weight


@pytest.mark.parametrize("family", ["gpt2", "mixtral"])
def test_another_head_than_the_one_that_the_config_ties_is_kept_beside_the_embedding(family: str, tmp_path) -> None:
    from safetensors.torch import save_file

    model = build(family)
    embedding = model.network.get_input_embeddings().weight.detach()
    state = {**model.export_state(), "lm_head.weight": embedding + 1}
    save_file(
        {name: tensor.clone() for name, tensor in state.items()}, tmp_path / "model.safetensors", {"format": "pt"}
    )
    (tmp_path / "config.json").write_text(json.dumps({**model.export_config(), "tie_word_embeddings": True}))
    loaded = hf_model(pretrained=str(tmp_path))
    network: Any = loaded.network
    assert torch.equal(network.get_input_embeddings().weight, embedding)
    assert torch.equal(network.get_output_embeddings().weight, embedding + 1)
    assert loaded.export_config()["tie_word_embeddings"] is False
    assert torch.equal(loaded.export_state()["lm_head.weight"], embedding + 1)


def test_every_parameter_has_the_role_of_what_it_does() -> None:
    roles = {name.removeprefix("network."): role for name, role in build("qwen2_moe").parameter_roles().items()}
    assert {
        "model.embed_tokens.weight": ParameterRole.EMBEDDING,
        "model.layers.0.self_attn.q_proj.weight": ParameterRole.MATRIX,
        "model.layers.0.self_attn.q_proj.bias": ParameterRole.BIAS,
        "model.layers.0.mlp.gate.weight": ParameterRole.ROUTER,
        "model.layers.0.mlp.experts.gate_up_proj": ParameterRole.EXPERT,
        "model.layers.0.mlp.experts.down_proj": ParameterRole.EXPERT,
        "model.layers.0.mlp.shared_expert.gate_proj.weight": ParameterRole.MATRIX,
        "model.layers.0.mlp.shared_expert_gate.weight": ParameterRole.ROUTER,
        "model.layers.0.input_layernorm.weight": ParameterRole.NORM,
        "model.norm.weight": ParameterRole.NORM,
        "lm_head.weight": ParameterRole.HEAD,
    }.items() <= roles.items()


@each_family
def test_roles_name_every_parameter_and_fit_its_dimensions(family: str) -> None:
    model = build(family)
    roles = model.parameter_roles()
    assert roles.keys() == dict(model.named_parameters()).keys()
    dimensions = {ParameterRole.MATRIX: {2}, ParameterRole.EXPERT: {3}, ParameterRole.EMBEDDING: {2}}
    dimensions |= {ParameterRole.HEAD: {2}, ParameterRole.ROUTER: {2}, ParameterRole.BIAS: {1, 2}}
    for name, parameter in model.named_parameters():
        others = {0, 1, 3} if name.endswith(".weight") else {0, 1, 2, 3}  # tables, such as decay rates, are no matrices
        assert parameter.dim() in dimensions.get(roles[name], others), name
    assert (ParameterRole.ROUTER in roles.values()) == (family in MIXTURES)
    assert (ParameterRole.EXPERT in roles.values()) == (family in MIXTURES)


@pytest.mark.parametrize("family", MIXTURES)
def test_routings_are_those_of_the_pass_with_gradient(family: str) -> None:
    model, window_BS = build(family), tokens(2, 8)
    output = model.next_token_loss(window_BS[:, :-1], window_BS[:, 1:])
    assert output.routings.keys() == model.routers.keys() != set()
    for layer, routing in output.routings.items():
        router = model.routers[layer]
        assert isinstance(router, Router)
        assert routing.expert_TK.shape == routing.weight_TK.shape == (14, router.k)
        assert routing.logits_TE.shape == routing.score_TE.shape == (14, router.experts)
        assert routing.expert_TK.dtype == torch.int64
        assert routing.weight_TK.dtype == routing.logits_TE.dtype == torch.float32
        assert routing.score_TE.requires_grad
    torch.stack([routing.logits_TE.square().mean() for routing in output.routings.values()]).sum().backward()
    assert all(
        parameter.grad is not None and parameter.grad.any()
        for site in model.routers.values()
        for parameter in site.module.parameters()
        if parameter.dim() == 2
    )


@pytest.mark.parametrize("family", ["deepseek_v3", "glm4_moe", "mixtral", "olmoe", "deepseek_v2", "llama4_text"])
def test_weights_follow_from_the_scores(family: str) -> None:
    model, token_BS = build(family), tokens(2, 8)
    for routing in model(token_BS).routings.values():
        chosen_TK = routing.score_TE.gather(-1, routing.expert_TK)
        ratio_TK = routing.weight_TK / chosen_TK
        torch.testing.assert_close(ratio_TK, ratio_TK[:, :1].expand_as(ratio_TK))
    bounded = family in {"mixtral", "olmoe", "deepseek_v2"}
    assert torch.allclose(routing.score_TE.sum(-1), torch.ones(16)) == bounded


def test_a_balancing_loss_trains_the_router_under_activation_checkpointing() -> None:
    model, window_BS = build("mixtral").train(), tokens(2, 8)

    def gradients() -> list[torch.Tensor]:
        output = model.next_token_loss(window_BS[:, :-1], window_BS[:, 1:])
        loss = output.loss + sum(routing.score_TE.square().sum() for routing in output.routings.values())
        assert [routing.expert_TK.shape for routing in output.routings.values()] == [(14, 2)] * 2
        return list(torch.autograd.grad(loss, list(model.parameters())))

    plain = gradients()
    model.network.gradient_checkpointing_enable({"use_reentrant": False})
    for gradient, expected in zip(gradients(), plain, strict=True):
        torch.testing.assert_close(gradient, expected)


def test_layers_compute_in_bf16_and_parameters_stay_fp32() -> None:
    model, token_BS = build("mixtral"), tokens(2, 8)
    exact = model.logits(model(token_BS).hidden_BSD)
    model.compute_dtype = torch.bfloat16
    rounded = model.logits(model(token_BS).hidden_BSD)
    assert rounded.dtype == torch.float32
    assert not torch.equal(rounded, exact)
    assert (rounded - exact).abs().max() < 0.1 * exact.abs().max()
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_an_encoder_learns_hidden_tokens_and_says_what_it_cannot() -> None:
    model = build("bert", task="masked")
    target_BS, mask_BS = tokens(2, 8), torch.zeros(2, 8, dtype=torch.bool)
    mask_BS[:, 3] = True
    token_BS = torch.where(mask_BS, 5, target_BS)
    output = model.masked_token_loss(token_BS, target_BS, mask_BS)
    logits_BSV = model.network(token_BS).logits
    torch.testing.assert_close(output.loss, F.cross_entropy(logits_BSV[mask_BS], target_BS[mask_BS], reduction="sum"))
    output.loss.backward()
    changed_BS = token_BS.clone()
    changed_BS[:, -1] = (changed_BS[:, -1] + 1) % VOCABULARY
    assert not torch.equal(model(token_BS).hidden_BSD[:, 0], model(changed_BS).hidden_BSD[:, 0])  # it sees both sides
    with pytest.raises(ProblemError, match=r"bert model predicts hidden tokens .* masked_token_loss"):
        model.next_token_loss(token_BS, target_BS)
    with pytest.raises(ProblemError, match="does not support generate"):
        model.generate(token_BS, tokens=2)


T5 = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0}


def test_an_encoder_decoder_learns_one_text_from_another_and_says_what_it_cannot() -> None:
    torch.manual_seed(0)
    model: Any = hf_model(task="seq2seq", model_type="t5", settings=T5, vocab_size=VOCABULARY).eval()
    source_BS, target_BS = tokens(2, 6), tokens(2, 5)
    output = model.sequence_loss(source_BS, target_BS)
    expected = model.network(input_ids=source_BS, labels=target_BS).loss * target_BS.numel()
    torch.testing.assert_close(output.loss, expected)
    output.loss.backward()
    assert model.generate(source_BS, tokens=4).shape[1] <= 4
    with pytest.raises(ProblemError, match=r"t5 model predicts one text from another.* sequence_loss"):
        model.next_token_loss(source_BS, source_BS)
    roles = model.parameter_roles()
    assert roles["network.shared.weight"] == ParameterRole.EMBEDDING
    other = hf_model(task="seq2seq", model_type="t5", settings=T5, vocab_size=VOCABULARY)
    other.load_export_state(model.export_state())
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))


@pytest.mark.parametrize("prompt", [[7], [3, 7], [7, 3]])
@pytest.mark.parametrize("use_cache", [True, False])
def test_only_generated_tokens_end_a_text(prompt: list[int], use_cache: bool) -> None:
    """A prompt may be the end of text alone: what a model writes without a prompt."""
    model, token_BS = build("mixtral"), torch.tensor([prompt])
    free = model.generate(token_BS, tokens=6, use_cache=use_cache)[0, len(prompt) :].tolist()
    stopped = model.generate(token_BS, tokens=6, stop_token=7, use_cache=use_cache)[0, len(prompt) :].tolist()
    assert stopped == (free[: free.index(7) + 1] if 7 in free else free)
    third = free[2]
    ended = model.generate(torch.tensor([[third]]), tokens=4, stop_token=third, use_cache=use_cache)
    assert ended.shape[1] > 1
