"""Latency, throughput and memory of generation, in the terms that serving benchmarks use.

Shape suffixes: B batch, S sequence.
"""

from __future__ import annotations

import itertools
import resource
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from penstock.hooks.contracts import LanguageModel


def measure_performance(
    model: LanguageModel,
    *,
    prompt_tokens: int = 128,
    new_tokens: int = 32,
    batch_sizes: Sequence[int] = (1, 8),
    repeats: int = 3,
    seed: int = 0,
) -> dict[str, Any]:
    """Generates `new_tokens` after random prompts, `repeats` times for each batch size, after one warm-up.

    Returns `prompt_tokens`, `new_tokens`, `repeats`, `device`, `peak_rss_bytes` of the process so far, and `batches`,
    for each size: `prefill_seconds` (prompt to the logits of the first new token; median), `decode_seconds_median` and
    `decode_seconds_p90` (one step of the whole batch, pooled over repeats), `prefill_tokens_per_second`,
    `decode_tokens_per_second` (of the batch, at the median) and, on CUDA, `peak_cuda_bytes`.

    A step is timed at the end of the model's forward pass, so `generate` has to call the model once per token; raises
    ValueError if it does not. Restores the model's mode.
    """
    if prompt_tokens < 1 or new_tokens < 2 or repeats < 1:
        raise ValueError("measure_performance needs prompt_tokens >= 1, new_tokens >= 2 and repeats >= 1")
    module = cast(nn.Module, model)
    device = next(module.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    was_training = module.training
    module.eval()
    try:
        batches: list[dict[str, Any]] = []
        for size in batch_sizes:
            prompt_BS = torch.randint(model.vocabulary_size, (size, prompt_tokens), generator=generator).to(device)
            batches.append(_measure_batch(model, prompt_BS, new_tokens, repeats))
    finally:
        module.train(was_training)
    return {
        "prompt_tokens": prompt_tokens,
        "new_tokens": new_tokens,
        "repeats": repeats,
        "device": str(device),
        "peak_rss_bytes": peak_rss_bytes(),
        "batches": batches,
    }


def peak_rss_bytes() -> int:
    """The peak memory of this process; macOS counts in bytes, Linux in KiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _measure_batch(model: LanguageModel, prompt_BS: Tensor, new_tokens: int, repeats: int) -> dict[str, Any]:
    on_cuda = prompt_BS.device.type == "cuda"
    if on_cuda:
        torch.cuda.reset_peak_memory_stats(prompt_BS.device)
    _step_seconds(model, prompt_BS, new_tokens)
    runs = [_step_seconds(model, prompt_BS, new_tokens) for _ in range(repeats)]
    prefill = statistics.median(run[0] for run in runs)
    decode = torch.tensor([seconds for run in runs for seconds in run[1:]], dtype=torch.float64)
    median = float(decode.quantile(0.5))
    result: dict[str, Any] = {
        "batch_size": len(prompt_BS),
        "prefill_seconds": prefill,
        "decode_seconds_median": median,
        "decode_seconds_p90": float(decode.quantile(0.9)),
        "prefill_tokens_per_second": prompt_BS.numel() / prefill,
        "decode_tokens_per_second": len(prompt_BS) / median,
    }
    if on_cuda:
        result["peak_cuda_bytes"] = torch.cuda.max_memory_allocated(prompt_BS.device)
    return result


def _step_seconds(model: LanguageModel, prompt_BS: Tensor, new_tokens: int) -> list[float]:
    """Seconds from one forward pass's end to the next one's, the first counted from the start."""
    times: list[float] = []

    def stamp(*_: Any) -> None:
        if prompt_BS.device.type == "cuda":
            torch.cuda.synchronize(prompt_BS.device)
        times.append(time.perf_counter())

    handle = cast(nn.Module, model).register_forward_hook(stamp)
    try:
        stamp()
        with torch.inference_mode():
            model.generate(prompt_BS, tokens=new_tokens)
    finally:
        handle.remove()
    if len(times) != new_tokens + 1:
        raise ValueError(
            f"generate called the model {len(times) - 1} times for {new_tokens} tokens; steps can only be timed if "
            "it calls the model once per token"
        )
    return [end - start for start, end in itertools.pairwise(times)]
