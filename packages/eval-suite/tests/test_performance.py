"""Measurements of a model whose cost is known."""

import time
from pathlib import Path

import pytest
import torch

from penstock.eval_suite.performance import measure_performance, peak_rss_bytes


def test_measures_every_batch_size_and_restores_the_mode(make_gru):
    model = make_gru().train()
    report = measure_performance(model, prompt_tokens=5, new_tokens=4, batch_sizes=(1, 3), repeats=2)
    assert [batch["batch_size"] for batch in report["batches"]] == [1, 3]
    assert all(value > 0 for batch in report["batches"] for value in batch.values())
    assert (report["prompt_tokens"], report["new_tokens"], report["device"]) == (5, 4, "cpu")
    assert model.training
    assert not model._forward_hooks
    assert model.widths == [5, 6, 7, 8] * 3 * 2  # a warm-up and two repeats of each size


def test_prefill_and_decode_are_told_apart(make_gru):
    model = make_gru()
    plain = model.forward

    def slow(token_BS, *, cache=None):
        time.sleep(0.03 if token_BS.shape[1] == 5 else 0.01)
        return plain(token_BS, cache=cache)

    model.forward = slow
    [batch] = measure_performance(model, prompt_tokens=5, new_tokens=5, batch_sizes=(2,), repeats=1)["batches"]
    assert 0.03 <= batch["prefill_seconds"] < 0.3
    assert 0.01 <= batch["decode_seconds_median"] < batch["prefill_seconds"]
    assert batch["decode_seconds_median"] <= batch["decode_seconds_p90"]
    assert batch["decode_tokens_per_second"] == pytest.approx(2 / batch["decode_seconds_median"])
    assert batch["prefill_tokens_per_second"] == pytest.approx(10 / batch["prefill_seconds"])


def test_a_model_that_does_not_call_itself_once_a_token_is_refused(make_gru):
    model = make_gru()
    model.generate = lambda token_BS, *, tokens: token_BS
    with pytest.raises(ValueError, match="0 times for 3 tokens"):
        measure_performance(model, prompt_tokens=2, new_tokens=3)
    assert not model._forward_hooks


def test_impossible_settings_are_refused(make_gru):
    with pytest.raises(ValueError, match="new_tokens >= 2"):
        measure_performance(make_gru(), new_tokens=1)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_peak_memory_is_in_bytes_and_at_least_what_the_kernel_saw():
    [high_water] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    [total] = [line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal")]
    seen = 1024 * int(high_water.split()[1])
    # The two add up what each core counts at different times, some hundred kB apart while memory grows.
    assert 0.99 * seen <= peak_rss_bytes() <= 1024 * int(total.split()[1])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_cuda_memory_is_reported(make_gru):
    [batch] = measure_performance(make_gru().cuda(), prompt_tokens=5, new_tokens=4, batch_sizes=(2,))["batches"]
    assert batch["peak_cuda_bytes"] > 0
