"""Bytes from counts, against a loop over tokens."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.netsim.traffic import Batch, bytes_between_gpus, deduplicated_bytes, gpu_shares, token_reach


def test_a_traffic_matrix_equals_sending_token_by_token():
    """Every GPU holds the same 30 tokens' assignments; each assignment is 64 elements of 2 bytes."""
    rng = np.random.default_rng(0)
    gpus, experts, k, hidden_size = 4, 8, 2, 64
    gpu_E = rng.permutation(np.repeat(np.arange(gpus), 2))
    expert_TK = np.stack([rng.choice(experts, k, replace=False) for _ in range(30)])
    expected_GG = np.zeros((gpus, gpus))
    for source in range(gpus):
        for expert in expert_TK.ravel():
            if gpu_E[expert] != source:
                expected_GG[source, gpu_E[expert]] += hidden_size * 2

    counts_SE = np.bincount(expert_TK.ravel(), minlength=experts)[None]
    sent = Batch(tokens_per_gpu=30, k=k, hidden_size=hidden_size).bytes_per_gpu(2)
    bytes_GG = bytes_between_gpus(gpu_shares(counts_SE, gpu_E, gpus)[0] * sent)
    assert bytes_GG == pytest.approx(expected_GG)


@given(st.integers(0, 2**32 - 1))
def test_shares_sum_to_one_and_ignore_the_size_of_a_step(seed):
    rng = np.random.default_rng(seed)
    counts_SE = rng.integers(1, 100, (3, 6))
    gpu_E = np.array([0, 0, 1, 1, 2, 2])
    share_SG = gpu_shares(counts_SE, gpu_E, 3)
    assert share_SG.sum(axis=1) == pytest.approx(np.ones(3))
    assert gpu_shares(counts_SE * 7, gpu_E, 3) == pytest.approx(share_SG)


def test_steps_without_tokens_are_left_out():
    assert gpu_shares(np.array([[0, 0], [3, 1]]), np.array([0, 1]), 2).tolist() == [[0.75, 0.25]]


def test_deduplicated_bytes_equal_sending_token_by_token():
    """Each of 6 GPUs in 2 nodes holds the same 40 tokens; a token goes to the receiver's node once, to the GPU with the
    sender's number, and from there to each GPU that it needs."""
    rng = np.random.default_rng(0)
    gpus, size, tokens = 6, 3, 40
    gpu_E = np.repeat(np.arange(gpus), 2)
    expert_TK = np.stack([rng.choice(12, 3, replace=False) for _ in range(tokens)])
    expected_GG, expected_crossing = np.zeros((gpus, gpus)), 0.0
    for source in range(gpus):
        for experts in expert_TK:
            needed = {int(gpu_E[expert]) for expert in experts}
            for node in {gpu // size for gpu in needed}:
                relay = node * size + source % size
                expected_GG[source, relay] += 10.0 if relay != source else 0.0
                expected_crossing += 10.0 if relay != source else 0.0
                for gpu in needed:
                    if gpu // size == node and gpu != relay:
                        expected_GG[relay, gpu] += 10.0
    reach_G = token_reach(expert_TK, gpu_E[:, None], np.arange(gpus))
    reach_M = token_reach(expert_TK, gpu_E[:, None], np.arange(gpus) // size)
    bytes_GG, crossing_GG = deduplicated_bytes(reach_G, reach_M, size, tokens * 10.0)
    assert bytes_GG == pytest.approx(expected_GG)
    assert crossing_GG.sum() == pytest.approx(expected_crossing)


def test_copies_take_tokens_in_turn():
    reach_G = token_reach(np.zeros((10, 1), dtype=np.int64), np.array([[0, 1]]), np.arange(2))
    assert reach_G.tolist() == [0.5, 0.5]
