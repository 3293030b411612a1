"""Processor seconds of an evaluation vs lm-evaluation-harness at its best batch size of 1, 8 and 32, on one thread.

Both read the same folder: random weights of GPT-2's shape that transformers wrote, ours as `gpt`, theirs by the `hf`
backend. Requests are tokens before the clock starts, and answers are compared. LAMBADA is the last word of a passage.
MMLU is five examples and a question, with four letters to choose from, of the first subject: there are 57 of 100 to
1,534 questions each, so few questions of one say too little of what sharing its examples saves.

The floor is the matrix products alone, in whole, for the tokens that we read and the positions that are scored.

    uv pip install "lm-eval[hf]==0.4.13"
    PENSTOCK_DATA=FOLDER uv run python tests/benchmarks/evaluation_speed.py
"""

from __future__ import annotations

import importlib
import json
import lzma
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from measure import Bar, finish, json_option, medians, rounds
from transformers import GPT2Config, GPT2LMHeadModel, GPT2Tokenizer

from penstock.eval_suite.answers import AnswerStore
from penstock.eval_suite.runner import Prepared, prepare
from penstock.hooks.contracts import Answer, Item, Likelihood, LikelihoodAnswer, TaskContext, TaskResult
from penstock.moe_core.gpt.model import gpt

VOCABULARY, POSITIONS = 50_257, 1024
SIZES = {"16M": {"n_embd": 256, "n_layer": 4, "n_head": 4}, "64M": {"n_embd": 512, "n_layer": 12, "n_head": 8}}
QUESTIONS = {("16M", "lambada"): 100, ("16M", "mmlu"): 60, ("64M", "lambada"): 24, ("64M", "mmlu"): 24}
BARS = {("16M", "lambada"): 4.0, ("16M", "mmlu"): 10.0, ("64M", "lambada"): 1.5, ("64M", "mmlu"): 6.0}
BATCHES = (1, 8, 32)
ROWS = 1024  # of a matrix product of the floor

Requests = Sequence[Likelihood]


class Encoded:
    """The requests, in tokens, of one task; the tokenizer is not asked."""

    def __init__(self, requests: Requests) -> None:
        self._requests = requests

    def items(self, context: TaskContext) -> Iterator[Item]:
        yield from (Item(str(number), request) for number, request in enumerate(self._requests))

    def requests(self, item: Item, context: TaskContext) -> Requests:
        return [item.document]

    def score(self, item: Item, answers: Sequence[Answer], context: TaskContext) -> Sequence[Mapping[str, float]]:
        (answer,) = answers
        assert isinstance(answer, LikelihoodAnswer)
        return [{"nll": answer.nll}]

    def total(self, scores: Mapping[str, Any], context: TaskContext) -> TaskResult:
        return TaskResult({"encoded.nats@mean": float(np.mean(scores["nll"]))})


@dataclass(frozen=True, slots=True)
class Work:
    """What both are given: a model's folder and requests of a task."""

    folder: Path
    requests: Requests

    def ours(self, *, batch_invariant: bool = False) -> tuple[Callable[[], float], list[float], Any]:
        """What measures its own processor seconds; the nats, filled when it runs; and the model."""
        model = gpt(pretrained=self.folder)
        context = TaskContext(_NoTokenizer(), None, POSITIONS)
        prepared = prepare(Encoded(self.requests), context)
        return partial(_seconds_of_ours, prepared, model, nats := [], batch_invariant), nats, model

    def theirs(self, tokenizer: Any, batch_size: int) -> tuple[Callable[[], float], list[float]]:
        backend: Any = importlib.import_module("lm_eval.models.huggingface").HFLM
        model = GPT2LMHeadModel.from_pretrained(self.folder)
        lm = backend(pretrained=model, tokenizer=tokenizer, device="cpu", batch_size=batch_size)
        return partial(_seconds_of_theirs, lm, self.requests, nats := []), nats


class _NoTokenizer:
    vocabulary_size, end_of_text = VOCABULARY, VOCABULARY - 1

    def encode(self, text: str) -> list[int]:
        raise NotImplementedError

    def decode(self, tokens: Sequence[int]) -> str:
        raise NotImplementedError

    def byte_lengths(self) -> np.ndarray:
        raise NotImplementedError


def _seconds_of_ours(prepared: Prepared, model: Any, nats: list[float], batch_invariant: bool) -> float:
    store, begun = AnswerStore(), time.process_time()
    prepared.run(model, store, batch_invariant=batch_invariant)
    seconds = time.process_time() - begun
    nats[:] = prepared.scored(store).scores["nll"]
    return seconds


def _seconds_of_theirs(lm: Any, requests: Requests, nats: list[float]) -> float:
    given = [((str(each.context), str(each.continuation)), each.context, each.continuation) for each in requests]
    begun = time.process_time()
    found = lm._loglikelihood_tokens(given, disable_tqdm=True)
    seconds = time.process_time() - begun
    nats[:] = [-logarithm for logarithm, _ in found]
    return seconds


def lambada(data: Path, tokenizer: Any, count: int) -> Requests:
    with lzma.open(data / "lambada" / "lambada_test.jsonl.xz", "rt") as file:
        passages = [json.loads(line)["text"] for line, _ in zip(file, range(count), strict=False)]
    split = [passage.rpartition(" ") for passage in passages]
    return [Likelihood(tokenizer.encode(start), tokenizer.encode(f" {word}")) for start, _, word in split]


def mmlu(data: Path, tokenizer: Any, count: int) -> Requests:
    """The four letters, of questions of the first subject."""
    with (data / "mmlu" / "mmlu_dev.jsonl").open() as file:
        examples = _by_subject(map(json.loads, file))
    with lzma.open(data / "mmlu" / "mmlu_test.jsonl.xz", "rt") as file:
        asked = _by_subject(map(json.loads, file))
    letters = [tokenizer.encode(f" {letter}") for letter in "ABCD"]
    subject = next(iter(asked))
    title = f"The following are multiple choice questions (with answers) about {subject.replace('_', ' ')}.\n\n"
    shots = "".join(f"{_question(each)} {'ABCD'[each['answer']]}\n\n" for each in examples[subject][:5])
    prompts = [tokenizer.encode(f"{title}{shots}{_question(each)}") for each in asked[subject][:count]]
    return [Likelihood(prompt, letter) for prompt in prompts for letter in letters]


def _by_subject(rows: Iterator[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    subjects: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        subjects[row["subject"]].append(row)
    return subjects


def _question(row: Mapping[str, Any]) -> str:
    choices = "".join(f"\n{letter}. {choice}" for letter, choice in zip("ABCD", row["choices"], strict=True))
    return f"{row['question'].strip()}{choices}\nAnswer:"


def floor(model: Any, read: int, scored: int) -> float:
    """Processor seconds of the matrix products for so many tokens, and of the head for so many positions."""
    width, layers = model.config.hidden_size, model.config.num_hidden_layers
    shapes = [(width, 3 * width), (width, width), (width, 4 * width), (4 * width, width)]
    weights = [torch.randn(shape) for shape in shapes]
    head_DV = torch.randn(width, VOCABULARY)
    begun = time.process_time()
    for rows, matrices, repeats in ((read, weights, layers), (scored, [head_DV], 1)):
        for start in range(0, rows, ROWS):
            for matrix in matrices:
                x = torch.ones(min(ROWS, rows - start), len(matrix))
                for _ in range(repeats):
                    torch.mm(x, matrix)
    return time.process_time() - begun


def tokens_read(measure: Callable[[], float], model: Any) -> int:
    counts: list[int] = []
    handle = model.register_forward_pre_hook(lambda _module, given: counts.append(given[0].numel()))
    measure()
    handle.remove()
    return sum(counts)


def written(folder: Path, sizes: Mapping[str, int]) -> Path:
    torch.manual_seed(0)
    shape: dict[str, Any] = dict(sizes)
    config = GPT2Config(vocab_size=VOCABULARY, n_positions=POSITIONS, **shape)
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def gpt2_tokenizer(data: Path, folder: Path) -> Any:
    for name, file in (("gpt2_vocab.json", "vocab.json"), ("gpt2_merges.txt", "merges.txt")):
        (folder / file).write_bytes(lzma.decompress((data / "tokenizers" / f"{name}.xz").read_bytes()))
    return GPT2Tokenizer.from_pretrained(folder)


def compared(work: Work, tokenizer: Any, repeats: int) -> dict[str, Any]:
    """Median processor seconds of ours and of theirs at its best; raises AssertionError for unequal answers."""
    ours, nats, model = work.ours()
    invariant, *_ = work.ours(batch_invariant=True)
    cases, answers = {"ours": ours, "batch-invariant": invariant}, {}
    for size in BATCHES:
        cases[f"lm-eval, {size}"], answers[size] = work.theirs(tokenizer, size)
    with torch.inference_mode():
        seconds = medians(cases, rounds=repeats, warmup=0)
        for theirs in answers.values():
            assert np.abs(np.subtract(nats, theirs)).max() < 1e-4
            assert abs(np.mean(nats) / np.mean(theirs) - 1) < 1e-6
        read = tokens_read(ours, model)
        scored = sum(map(len, {tuple(each.context): each.continuation for each in work.requests}.values()))
        least = floor(model, read, scored)
    best = min((f"lm-eval, {size}" for size in BATCHES), key=seconds.__getitem__)
    given = sum(len(each.context) + len(each.continuation) - 1 for each in work.requests)
    return {
        "requests": len(work.requests),
        "tokens": given,
        "read": read,
        **{f"{name} s": value for name, value in seconds.items()},
        "floor s": least,
        "ratio": seconds[best] / seconds["ours"],
    }


@click.command()
@json_option
@rounds(1)
@click.option("--share", default=1.0, show_default=True, help="Share of the questions that are asked.")
@click.option("--data", envvar="PENSTOCK_DATA", required=True, type=click.Path(path_type=Path, exists=True))
def main(as_json: bool, rounds: int, share: float, data: Path) -> None:
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    rows, bars = [], []
    with tempfile.TemporaryDirectory() as name:
        tokenizer = gpt2_tokenizer(data, Path(name))
        for (size, task), count in QUESTIONS.items():
            requests = {"lambada": lambada, "mmlu": mmlu}[task](data, tokenizer, max(2, int(count * share)))
            folder = written(Path(name) / size, SIZES[size])
            figures = compared(Work(folder, requests), tokenizer, rounds)
            rows.append({"model": size, "task": task, **figures})
            bars.append(Bar(f"{size}, {task}", figures["ratio"], BARS[size, task]))
    harness = importlib.import_module("lm_eval").__version__
    finish("evaluation_speed", rows, bars, as_json, lm_eval=harness, torch=torch.__version__, threads=1)


if __name__ == "__main__":
    main()
