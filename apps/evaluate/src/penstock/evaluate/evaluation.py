"""What `penstock evaluate` measures: tasks, baselines on the same bytes, samples, speed."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from penstock.data_prep.order import TokenOrder
from penstock.eval_suite.baselines import bigram_bits_per_byte, unigram_bits_per_byte, xz_bits_per_byte
from penstock.eval_suite.performance import measure_performance
from penstock.hooks.registry import Choice
from penstock.run.directory import read_json
from penstock.train.restore import Restored

# The n-gram baselines read at most this many of the tokens that the model saw, so that they cost seconds.
BASELINE_TOKENS = 10_000_000


def evaluate_run(restored: Restored, choices: Sequence[Choice]) -> dict[str, Any]:
    """The contents of `evaluation.json`."""
    begun = time.perf_counter()
    heldout = _tokens(restored, "heldout")
    tokenizer = restored.dataset.tokenizer()
    speed = performance(restored)  # before anything else, so that peak memory is the model's
    tasks: dict[str, Any] = {}
    for choice in choices:
        result = choice.build().run(
            restored.model, tokenizer, heldout=heldout, sequence_length=restored.config.data.sequence_length
        )
        tasks[choice.entry.component.name] = {"metrics": dict(result.metrics), "details": dict(result.details)}
    return {
        "checkpoint": restored.checkpoint.path.name,
        "tasks": tasks,
        "heldout_bits_per_byte": _figure_of(tasks),
        "baselines": baselines(restored, heldout),
        "samples": samples(restored),
        "performance": speed,
        "seconds": round(time.perf_counter() - begun, 3),
    }


def with_earlier_tasks(result: dict[str, Any], path: Path) -> dict[str, Any]:
    """The result, with what an earlier evaluation of the same checkpoint found on other tasks."""
    earlier = read_json(path) if path.exists() else {}
    if earlier.get("checkpoint") != result["checkpoint"]:
        return result
    tasks = {**earlier["tasks"], **result["tasks"]}
    return {**result, "tasks": tasks, "heldout_bits_per_byte": _figure_of(tasks)}


def baselines(restored: Restored, heldout: np.ndarray) -> dict[str, float]:
    """Bits per byte of the held-out text by token frequencies, by token pairs, and by `xz -9`."""
    seen, tokenizer = tokens_seen(restored), restored.dataset.tokenizer()
    size, lengths = tokenizer.vocabulary_size, tokenizer.byte_lengths()
    text = "".join(tokenizer.decode(document) for document in _documents(heldout, tokenizer.end_of_text))
    return {
        "unigram_bits_per_byte": unigram_bits_per_byte(seen, heldout, size, lengths),
        "bigram_bits_per_byte": bigram_bits_per_byte(seen, heldout, size, lengths),
        "xz_bits_per_byte": xz_bits_per_byte(text.encode()),
    }


def tokens_seen(restored: Restored) -> np.ndarray:
    """The tokens that the model was trained on: the windows of its steps, or the whole split after an epoch."""
    split, train = restored.dataset.split("train"), restored.config.train
    order = TokenOrder(
        split,
        sequence_length=restored.config.data.sequence_length,
        batch_size=train.batch_size,
        seed=restored.config.seed,
    )
    steps = min(restored.checkpoint.step, BASELINE_TOKENS // order.tokens_per_step)
    if steps >= order.steps_per_epoch:
        return split.slice(0, min(len(split), BASELINE_TOKENS))
    return np.concatenate([order.batch(step).flatten() for step in range(steps)])


def samples(restored: Restored) -> list[dict[str, Any]]:
    """What the model continues each prompt with, from a fixed seed."""
    settings, tokenizer = restored.config.evaluate, restored.dataset.tokenizer()
    shown = []
    for number, prompt in enumerate(settings.prompts):
        start = [tokenizer.end_of_text, *tokenizer.encode(prompt)]
        token_BS = torch.tensor([start], device=next(restored.composition.module.parameters()).device)
        continued = restored.model.generate(
            token_BS,
            tokens=settings.sample_tokens,
            temperature=settings.temperature,
            seed=restored.config.seed + number,
            stop_token=tokenizer.end_of_text,
        )
        new = [token for token in continued[0, len(start) :].tolist() if token != tokenizer.end_of_text]
        shown.append({"prompt": prompt, "text": tokenizer.decode(new), "temperature": settings.temperature})
    return shown


def performance(restored: Restored) -> dict[str, Any]:
    """Generation of one sequence: time to the first token, time for each further one, memory."""
    prompt = min(128, restored.config.data.sequence_length)
    measured = measure_performance(restored.model, prompt_tokens=prompt, new_tokens=32, batch_sizes=(1,), repeats=2)
    one = measured["batches"][0]
    return {
        "prompt_tokens": prompt,
        "prefill_ms": 1e3 * one["prefill_seconds"],
        "decode_ms_median": 1e3 * one["decode_seconds_median"],
        "decode_ms_p90": 1e3 * one["decode_seconds_p90"],
        "tokens_per_second": one["decode_tokens_per_second"],
        "peak_memory_bytes": one.get("peak_cuda_bytes", measured["peak_rss_bytes"]),
    }


def heldout_figure(metrics: Mapping[str, float]) -> float | None:
    """Bits per byte of all held-out text, which is what the baselines read too; None where only a part was scored."""
    whole = (name for name in metrics if name.startswith("heldout.bits_per_byte@") and "@first-" not in name)
    return next((metrics[name] for name in whole), None)


def _figure_of(tasks: dict[str, Any]) -> float | None:
    return heldout_figure(tasks.get("heldout", {}).get("metrics", {}))


def _tokens(restored: Restored, split: str) -> np.ndarray:
    tokens = restored.dataset.split(split)
    return tokens.slice(0, len(tokens))


def _documents(tokens: np.ndarray, end_of_text: int) -> list[list[int]]:
    """The documents of a stream, without the tokens that end them."""
    ends = np.flatnonzero(tokens == end_of_text)
    return [part[part != end_of_text].tolist() for part in np.split(tokens, ends) if len(part)]
