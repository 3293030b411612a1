"""Contiguous placement and copies of experts."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.hooks.problems import ProblemError
from penstock.netsim.placement import Contiguous, replicate


@given(st.integers(1, 8), st.integers(1, 16))
def test_experts_stay_in_order_with_as_many_on_every_gpu(each, gpus):
    gpu_E = Contiguous().place(np.ones(each * gpus), gpus)
    assert gpu_E.dtype == np.int64
    assert gpu_E.tolist() == [gpu for gpu in range(gpus) for _ in range(each)]


@pytest.mark.parametrize("gpus", [0, 5, 24])
def test_indivisible_experts_name_the_legal_numbers(gpus):
    with pytest.raises(ProblemError, match=r"use 1, 2, 3, 4, 6, 12 GPUs, or a multiple of 12"):
        Contiguous().place(np.ones(12), gpus)


def test_up_to_one_gpu_an_expert_nothing_is_copied():
    counts_SLE = np.arange(12, dtype=np.int64).reshape(1, 2, 6)
    assert (replicate(counts_SLE, 3) == counts_SLE).all()
    assert (replicate(counts_SLE, 6) == counts_SLE).all()


def test_copies_of_an_expert_share_its_load_evenly():
    counts_SLE = np.array([[[6, 3]]], dtype=np.int64)
    assert replicate(counts_SLE, 6).tolist() == [[[2.0, 2.0, 2.0, 1.0, 1.0, 1.0]]]


def test_more_gpus_than_experts_must_be_a_multiple():
    with pytest.raises(ProblemError, match="multiple of 4"):
        replicate(np.ones((1, 1, 4), dtype=np.int64), 6)
