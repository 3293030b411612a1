"""What `penstock evaluate` measures: tasks, baselines on the held-out text, samples, speed."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch

from penstock.data_prep.dataset import TokenDataset
from penstock.data_prep.order import TokenOrder
from penstock.eval_suite.baselines import (
    bigram_bits_per_byte,
    five_gram_bits_per_byte,
    unigram_bits_per_byte,
    xz_bits_per_byte,
)
from penstock.eval_suite.performance import measure_performance
from penstock.eval_suite.runner import BATCH_SIZE, Prepared, prepare
from penstock.hooks.architecture import architecture_settings
from penstock.hooks.contracts import LanguageModel, TaskContext, TaskResult, TaskV1, Tokenizer
from penstock.hooks.problems import Problem, ProblemError
from penstock.hooks.registry import Choice, names_of
from penstock.run import messages
from penstock.run.config import RunConfig
from penstock.run.records.evaluation import (
    Baselines,
    Evaluation,
    HeldoutText,
    Performance,
    Sample,
    TaskFigures,
    heldout_figure,
)
from penstock.run.records.record import read_record
from penstock.train.restore import Restored

BASELINE_TOKENS = 10_000_000
"""The n-gram baselines read at most this many of the tokens that the model saw. The 5-gram then takes 10 s of one core
and 1.4 GB on a stream that hardly repeats itself (tokens drawn from a Zipf distribution over 8,192)."""
READS_THE_CORPUS = "penstock-train:next-token"
"""The objective whose batches are windows of the corpus, in the order of `tokens_seen`."""


def rows_together(architecture: Choice) -> int:
    """How many texts the model may read at once: one, if a router does not promise to choose alike in any batch."""
    settings = architecture_settings(architecture)
    routers = [settings.router, *(override.router for override in settings.overrides)]
    alike = all("batch-invariant" in router.entry.component.capabilities for router in routers if router is not None)
    base = getattr(settings, "base", None)
    return BATCH_SIZE if alike and (base is None or rows_together(base) == BATCH_SIZE) else 1


def versions_of(choices: Sequence[Choice]) -> dict[str, str]:
    """The distribution, its version and the contract of each task."""
    entries = [choice.entry for choice in choices]
    versions = [f"{entry.origin}, contract {entry.component.contract}" for entry in entries]
    return dict(zip(names_of(choices), versions, strict=True))


def heldout_text(tokenizer: Tokenizer, heldout: np.ndarray) -> HeldoutText:
    """Which text the held-out tokens are, whatever tokenizer splits it."""
    documents = [tokenizer.decode(part) for part in _documents(heldout, tokenizer.end_of_text)]
    text = "".join(documents).encode()
    return HeldoutText(hashlib.sha256(text).hexdigest(), len(text), sum(map(bool, documents)))


def prepare_tasks(choices: Sequence[Choice], context: TaskContext) -> dict[str, PreparedTask]:
    """Tasks by name, such as `text` and `text-2` for two of the same; raises one `ProblemError` with everything that is
    wrong with them, before a model is loaded."""
    prepared: dict[str, PreparedTask] = {}
    problems: list[Problem] = []
    for name, choice in zip(names_of(choices), choices, strict=True):
        component = choice.entry.component
        try:
            if component.contract == 1:
                _refuse_options(component.name, context)
                prepared[name] = EarlierTask(choice.build(), context)
            else:
                prepared[name] = prepare(choice.build(), context, name)
        except ProblemError as error:
            problems += error.problems
    if problems:
        raise ProblemError(problems)
    return prepared


def task_context(config: RunConfig, tokenizer: Tokenizer, heldout: np.ndarray | None, **options: Any) -> TaskContext:
    """What tasks know about the run; `options` come from the command line."""
    return TaskContext(tokenizer, heldout, config.data.sequence_length, **options)


def heldout_tokens(dataset: TokenDataset) -> np.ndarray:
    """All tokens that the run held out."""
    split = dataset.split("heldout")
    return split.slice(0, len(split))


@dataclass(frozen=True, slots=True)
class EarlierTask:
    """A task of contract 1, which queries the model itself."""

    task: TaskV1
    context: TaskContext

    def run(self, model: LanguageModel) -> TaskResult:
        context = self.context
        return self.task.run(model, context.tokenizer, heldout=context.heldout, sequence_length=context.sequence_length)


PreparedTask: TypeAlias = Prepared | EarlierTask


def with_earlier_tasks(result: Evaluation, path: Path) -> Evaluation:
    """The result, merged with an earlier evaluation of the same checkpoint: what is measured again is replaced, and a
    task on another text, whose figures have other names, is kept as `text-2`."""
    earlier = read_record(Evaluation, path)
    if earlier is None or earlier.checkpoint != result.checkpoint:
        return result
    tasks = dict(result.tasks)
    for name, figures in earlier.tasks.items():
        if all(figures.metrics.keys() != now.metrics.keys() for now in result.tasks.values()):
            base = re.sub(r"-\d+$", "", name)
            free = (each for number in count(2) if (each := f"{base}-{number}") not in tasks)
            tasks[name if name not in tasks else next(free)] = figures
    return replace(result, tasks=tasks, heldout_bits_per_byte=figure_of(tasks))


def baselines(restored: Restored, heldout: np.ndarray) -> Baselines:
    """Bits per byte of the held-out text by token frequencies, pairs and 5-grams, and by `xz -9`. The first three learn
    from what the model was trained on, so there are none if an objective trained it on other text than its corpus."""
    tokenizer = restored.tokenizer
    text = "".join(tokenizer.decode(document) for document in _documents(heldout, tokenizer.end_of_text))
    packed = xz_bits_per_byte(text.encode())
    objective = restored.config.train.objective.entry
    if objective.id != READS_THE_CORPUS:
        name = objective.component.name
        messages.note(f"without n-gram baselines: the objective '{name}' trains on other text than the corpus")
        return Baselines(xz_bits_per_byte=packed)
    seen, size, lengths = tokens_seen(restored), tokenizer.vocabulary_size, tokenizer.byte_lengths()
    return Baselines(
        unigram_bits_per_byte=unigram_bits_per_byte(seen, heldout, size, lengths),
        bigram_bits_per_byte=bigram_bits_per_byte(seen, heldout, size, lengths),
        five_gram_bits_per_byte=five_gram_bits_per_byte(seen, heldout, size, lengths),
        xz_bits_per_byte=packed,
    )


def tokens_seen(restored: Restored) -> np.ndarray:
    """The tokens that the model was trained on: the windows of its first steps, or the whole split after an epoch."""
    split, train = restored.dataset.split("train"), restored.config.train
    order = TokenOrder(
        split,
        sequence_length=restored.config.data.sequence_length,
        batch_size=train.batch_size,
        seed=restored.config.seed,
    )
    steps = min(restored.step, max(1, BASELINE_TOKENS // order.tokens_per_step))
    if steps >= order.steps_per_epoch:
        return split.slice(0, min(len(split), BASELINE_TOKENS))
    return np.concatenate([order.batch(step).flatten() for step in range(steps)])[:BASELINE_TOKENS]


def sample_starts(restored: Restored) -> list[list[int]]:
    """The tokens of each prompt; raises `ProblemError` for those that leave the model no position for a new token."""
    tokenizer, positions = restored.tokenizer, architecture_settings(restored.config.model).max_positions
    starts = [[tokenizer.end_of_text, *tokenizer.encode(prompt)] for prompt in restored.config.evaluate.prompts]
    problems = [
        Problem(
            "too-long",
            f"the prompt has {len(start)} tokens, but the model reads at most {positions}",
            f"evaluate.prompts.{number}",
            "shorten it",
        )
        for number, start in enumerate(starts)
        if positions is not None and len(start) >= positions
    ]
    if problems:
        raise ProblemError(problems)
    return starts


def samples(restored: Restored, starts: Sequence[Sequence[int]]) -> list[Sample]:
    """The model's continuation of each prompt, from a fixed seed, as far as its positions reach."""
    settings, tokenizer = restored.config.evaluate, restored.tokenizer
    shown = []
    for number, (prompt, start) in enumerate(zip(settings.prompts, starts, strict=True)):
        token_BS = torch.tensor([start], device=next(restored.composition.module.parameters()).device)
        continued = restored.model.generate(
            token_BS,
            tokens=settings.sample_tokens,
            temperature=settings.temperature,
            seed=restored.config.seed + number,
            stop_token=tokenizer.end_of_text,
        )
        new = [token for token in continued[0, len(start) :].tolist() if token != tokenizer.end_of_text]
        shown.append(Sample(prompt, tokenizer.decode(new), settings.temperature))
    return shown


def performance(restored: Restored) -> Performance:
    """Generation of one sequence: time to the first token, time for each further one, memory."""
    positions = architecture_settings(restored.config.model).max_positions
    new = 32 if positions is None else max(2, min(32, positions // 2))
    prompt = min(128, restored.config.data.sequence_length, 128 if positions is None else positions - new)
    measured = measure_performance(restored.model, prompt_tokens=prompt, new_tokens=new, batch_sizes=(1,), repeats=2)
    one = measured["batches"][0]
    return Performance(
        prompt_tokens=prompt,
        prefill_ms=1e3 * one["prefill_seconds"],
        decode_ms_median=1e3 * one["decode_seconds_median"],
        decode_ms_p90=1e3 * one["decode_seconds_p90"],
        tokens_per_second=one["decode_tokens_per_second"],
        peak_memory_bytes=one.get("peak_cuda_bytes", measured["peak_rss_bytes"]),
    )


def _refuse_options(task: str, context: TaskContext) -> None:
    """Refuses options for a task of contract 1, which never sees them."""
    options = {"shots": "shots", "limit": "limit", "chat": "chat-template"}
    asked = [option for name, option in options.items() if getattr(context, name) is not None]
    if asked:
        what = f"task '{task}' was written against contract 1, which does not support {' or '.join(asked)}"
        where, fix = ", ".join(f"--{name}" for name in asked), "leave it out, or install a newer version of the task"
        raise ProblemError(Problem("bad-value", what, where, fix))


def figure_of(tasks: Mapping[str, TaskFigures]) -> float | None:
    return heldout_figure(tasks["heldout"].metrics) if "heldout" in tasks else None


def _documents(tokens: np.ndarray, end_of_text: int) -> list[list[int]]:
    """The documents of a stream, without the tokens that end them."""
    ends = np.flatnonzero(tokens == end_of_text)
    return [part[part != end_of_text].tolist() for part in np.split(tokens, ends) if len(part)]
