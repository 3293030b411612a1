from __future__ import annotations

import numpy as np
import pytest
import torch
from families import MIXTURES, build, expected_experts, tokens
from penstock_hf_models.recording import record
from penstock_hf_models.routing import router_sites

from penstock.hooks import ProblemError
from penstock.traces.trace import RoutingTrace

each_mixture = pytest.mark.parametrize("family", MIXTURES)


def inputs_of_routers(network, *args, **kwargs) -> dict[str, torch.Tensor]:
    """What each router is given, seen by hooks of the test's own."""
    seen: dict[str, torch.Tensor] = {}
    handles = [
        site.module.register_forward_pre_hook(
            lambda _, inputs, name=site.name: seen.__setitem__(str(name), inputs[0].detach())
        )
        for site in router_sites(network)
    ]
    network(*args, **kwargs)
    for handle in handles:
        handle.remove()
    return seen


@each_mixture
@torch.no_grad()
def test_recorded_experts_are_those_that_the_family_chooses(family: str) -> None:
    network, token_BS = build(family).network, tokens(3, 9)
    hidden = inputs_of_routers(network, token_BS)
    with record(network) as recording:
        network(token_BS)
    expert_NLK = recording.expert_NLK
    assert expert_NLK is not None
    for row, site in enumerate(recording.sites):
        expected_TK = expected_experts(family, site.module, hidden[site.name], site.k)
        assert torch.equal(torch.from_numpy(expert_NLK[:, row].astype(np.int64)).sort(dim=-1).values, expected_TK)
        assert np.array_equal(
            recording.counts_SLE[0, row], np.bincount(expected_TK.flatten().numpy(), minlength=site.experts)
        )


@each_mixture
@torch.no_grad()
def test_logits_are_the_same_bits_with_and_without(family: str) -> None:
    network, token_BS = build(family).network, tokens(2, 9)
    plain = network(token_BS).logits
    with record(network):
        recorded = network(token_BS).logits
    assert torch.equal(plain, recorded)
    assert torch.equal(plain, network(token_BS).logits)


@each_mixture
@torch.no_grad()
def test_padding_is_not_counted(family: str) -> None:
    network, token_BS = build(family).network, tokens(2, 9)
    mask_BS = torch.ones(2, 9, dtype=torch.long)
    mask_BS[1, 5:] = 0
    with record(network) as padded:
        network(token_BS, attention_mask=mask_BS)
    with record(network) as alone:
        network(token_BS[:1])
        network(token_BS[1:, :5])
    assert padded.counts_LE.sum(axis=1).tolist() == [14 * site.k for site in padded.sites]
    assert np.array_equal(padded.counts_LE, alone.counts_LE)
    assert (padded.steps, alone.steps) == (1, 2)


@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize("family", ["mixtral", "deepseek_v3", "gpt_oss"])
def test_a_token_counts_once_under_activation_checkpointing(family: str, use_reentrant: bool) -> None:
    network, token_BS = build(family).network.train(), tokens(2, 9)
    with record(network) as plain:
        network(token_BS)
    network.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    with record(network) as recording:
        network(token_BS, use_cache=False).logits.sum().backward()
    assert np.array_equal(plain.counts_SLE, recording.counts_SLE)


@torch.no_grad()
def test_generation_with_a_cache_is_one_step_a_token() -> None:
    network = build("qwen3_moe").network
    mask_BS = torch.ones(2, 6, dtype=torch.long)
    mask_BS[1, :2] = 0
    with record(network) as recording:
        network.generate(tokens(2, 6), attention_mask=mask_BS, max_new_tokens=3, do_sample=False, eos_token_id=None)
    assert recording.counts_SLE.sum(axis=2).tolist() == [[20, 20], [4, 4], [4, 4]]


@torch.no_grad()
def test_a_failed_pass_leaves_no_step_and_the_next_one_counts() -> None:
    network = build("mixtral").network
    with record(network) as recording:
        with pytest.raises(IndexError):
            network(torch.full((1, 4), 10_000))
        network(tokens(1, 4))
    assert recording.counts_SLE.sum(axis=2).tolist() == [[8, 8]]


def test_what_runs_after_the_context_is_not_recorded() -> None:
    network = build("mixtral").network
    with record(network) as recording:
        pass
    network(tokens(1, 4))
    assert recording.counts_SLE.shape == (0, 2, 4)
    assert recording.expert_NLK is None


@torch.no_grad()
def test_the_trace_is_read_back_as_it_was_written(tmp_path) -> None:
    network = build("jetmoe").network
    with record(network) as recording:
        network(tokens(2, 5))
    trace = recording.trace(domain="test")
    trace.save(tmp_path / "trace.npz")
    read = RoutingTrace.load(tmp_path / "trace.npz")
    assert np.array_equal(read.counts_SLE, trace.counts_SLE)
    assert read.expert_NLK is not None
    assert trace.expert_NLK is not None
    assert np.array_equal(read.expert_NLK, trace.expert_NLK)
    assert read.header == {
        "model": "jetmoe",
        "k": 2,
        "layers": [0, 0, 1, 1],
        "routers": [
            "model.layers.0.mlp.router",
            "model.layers.0.self_attention.experts.router",
            "model.layers.1.mlp.router",
            "model.layers.1.self_attention.experts.router",
        ],
        "hidden_size": 32,
        "domain": "test",
    }


def test_a_dense_model_has_nothing_to_record() -> None:
    with pytest.raises(ProblemError, match="no router"), record(build("llama").network):
        pass


def test_a_mask_of_another_shape_is_a_problem() -> None:
    network = build("mixtral").network
    with record(network) as recording:
        with pytest.raises(ProblemError, match="2-D attention_mask"):
            network(tokens(1, 4), attention_mask=torch.zeros(1, 1, 4, 4))
        network(tokens(1, 4))
    assert recording.steps == 1
