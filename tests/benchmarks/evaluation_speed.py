"""Processor seconds of an evaluation vs lm-evaluation-harness at its best batch size of 1, 8 and 32, on one thread.

Both read the same folder: random weights of GPT-2's shape that transformers wrote, ours as `gpt`, theirs by the `hf`
backend. The tasks `lambada` and `mmlu` make the requests for both, in tokens, before the clock starts, and answers are
compared. MMLU has its five examples, and the subjects are two whose prompts fit GPT-2's 1,024 tokens and whose examples
are about as long as the median of the 30 that fit: with 16M parameters all of their questions, with 64M half of them.

Which batch is best for lm-evaluation-harness is found on a sample first; the whole is then timed with that one.

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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import click
import numpy as np
import torch
from measure import Bar, finish, json_option, medians, rounds
from transformers import GPT2Config, GPT2LMHeadModel, GPT2Tokenizer

from penstock.data_prep.hub_tokenizer import HubTokenizer
from penstock.eval_suite.answers import AnswerStore
from penstock.eval_suite.lambada import Lambada
from penstock.eval_suite.mmlu import Mmlu
from penstock.eval_suite.runner import Asked, Prepared, prepare
from penstock.hooks.contracts import Likelihood, LikelihoodAnswer, TaskContext
from penstock.moe_core.gpt.model import gpt

VOCABULARY, POSITIONS = 50_257, 1024
SIZES = {"16M": {"n_embd": 256, "n_layer": 4, "n_head": 4}, "64M": {"n_embd": 512, "n_layer": 12, "n_head": 8}}
SUBJECTS = ("abstract_algebra", "college_mathematics")
QUESTIONS = {("16M", "lambada"): 100, ("16M", "mmlu"): 200, ("64M", "lambada"): 32, ("64M", "mmlu"): 100}
BARS = {("16M", "lambada"): 4.0, ("16M", "mmlu"): 10.0, ("64M", "lambada"): 1.5, ("64M", "mmlu"): 6.0}
BATCHES = (1, 8, 32)
ROWS = 1024  # of a matrix product of the floor


@dataclass(frozen=True, slots=True)
class Work:
    """What both are given: a model's folder, and a task with all of its requests."""

    folder: Path
    prepared: Prepared

    def requests(self, asked: Sequence[Asked] | None = None) -> list[Likelihood]:
        found = [request for each in asked or self.prepared.asked for request, _ in each.requests]
        assert all(isinstance(request, Likelihood) for request in found)
        return cast("list[Likelihood]", found)

    def ours(self, *, batch_invariant: bool = False) -> tuple[Callable[[], float], list[float], Any]:
        """What measures its own processor seconds; the nats, filled when it runs; and the model."""
        model = gpt(pretrained=self.folder)
        return partial(_seconds_of_ours, self.prepared, model, nats := [], batch_invariant), nats, model

    def theirs(self, tokenizer: Any, batch_size: int) -> tuple[Callable[[], float], list[float]]:
        lm = self._harness(tokenizer, batch_size)
        return partial(_seconds_of_theirs, lm, self.requests(), nats := []), nats

    def best_batch(self, tokenizer: Any) -> int:
        """Of the sizes that there are questions for, the fastest by token, on at least eight questions from all over
        the task, and on as many as the batch has."""
        sizes = [size for size in BATCHES if size <= len(self.prepared.asked)]
        return min(sizes, key=lambda size: self._seconds_a_token(tokenizer, size))

    def _seconds_a_token(self, tokenizer: Any, batch_size: int) -> float:
        asked = self.prepared.asked
        sample = self.requests(asked[:: max(1, len(asked) // max(8, batch_size))][: max(8, batch_size)])
        seconds = _seconds_of_theirs(self._harness(tokenizer, batch_size), sample, [])
        return seconds / sum(len(each.context) for each in sample)

    def _harness(self, tokenizer: Any, batch_size: int) -> Any:
        backend: Any = importlib.import_module("lm_eval.models.huggingface").HFLM
        model = GPT2LMHeadModel.from_pretrained(self.folder)
        return backend(pretrained=model, tokenizer=tokenizer, device="cpu", batch_size=batch_size)


def _seconds_of_ours(prepared: Prepared, model: Any, nats: list[float], batch_invariant: bool) -> float:
    store, begun = AnswerStore(), time.process_time()
    prepared.run(model, store, batch_invariant=batch_invariant)
    seconds = time.process_time() - begun
    answers = [answer for each in prepared.answered(store) for answer in each.answers]
    nats[:] = [answer.nll for answer in answers if isinstance(answer, LikelihoodAnswer)]
    return seconds


def _seconds_of_theirs(lm: Any, requests: Sequence[Likelihood], nats: list[float]) -> float:
    given = [((str(each.context), str(each.continuation)), each.context, each.continuation) for each in requests]
    begun = time.process_time()
    found = lm._loglikelihood_tokens(given, disable_tqdm=True)
    seconds = time.process_time() - begun
    nats[:] = [-logarithm for logarithm, _ in found]
    return seconds


def lambada(data: Path, tokens: HubTokenizer, count: int, folder: Path) -> Prepared:
    return prepare(Lambada(), TaskContext(tokens, None, POSITIONS, data=data, limit=count))


def mmlu(data: Path, tokens: HubTokenizer, count: int, folder: Path) -> Prepared:
    """The first questions of each of the subjects, with five examples. `folder` is where their files are written."""
    folder.mkdir()
    with (data / "mmlu" / "mmlu_dev.jsonl").open() as examples:
        (folder / "mmlu_dev.jsonl").write_text("".join(_of_subjects(examples)))
    with lzma.open(data / "mmlu" / "mmlu_test.jsonl.xz", "rt") as questions:
        (folder / "mmlu_test.jsonl").write_text("".join(_of_subjects(questions)))
    return prepare(Mmlu(folder), TaskContext(tokens, None, POSITIONS, limit=count))


def _of_subjects(lines: Iterable[str]) -> Iterator[str]:
    return (line for line in lines if json.loads(line)["subject"] in SUBJECTS)


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


def gpt2_tokenizer(data: Path, folder: Path) -> tuple[HubTokenizer, Any]:
    """GPT-2's tokenizer, as ours and as that of transformers."""
    for name, file in (("gpt2_vocab.json", "vocab.json"), ("gpt2_merges.txt", "merges.txt")):
        (folder / file).write_bytes(lzma.decompress((data / "tokenizers" / f"{name}.xz").read_bytes()))
    theirs = GPT2Tokenizer.from_pretrained(folder)
    theirs.save_pretrained(folder)
    return HubTokenizer.load(folder, VOCABULARY - 1), theirs


def compared(work: Work, tokenizer: Any, repeats: int) -> dict[str, Any]:
    """Median processor seconds of ours and of theirs at its best; raises AssertionError for unequal answers."""
    ours, nats, model = work.ours()
    invariant, *_ = work.ours(batch_invariant=True)
    with torch.inference_mode():
        batch = work.best_batch(tokenizer)
        harness, theirs = work.theirs(tokenizer, batch)
        cases = {"ours": ours, "batch-invariant": invariant, "lm-eval": harness}
        seconds = medians(cases, rounds=repeats, warmup=0)
        assert np.abs(np.subtract(nats, theirs)).max() < 1e-4
        assert abs(np.mean(nats) / np.mean(theirs) - 1) < 1e-6
        read = tokens_read(ours, model)
        requests = work.requests()
        scored = sum(map(len, {tuple(each.context): each.continuation for each in requests}.values()))
        least = floor(model, read, scored)
    return {
        "questions": len(work.prepared.asked),
        "tokens": sum(len(each.context) + len(each.continuation) - 1 for each in requests),
        "read": read,
        **{f"{name} s": value for name, value in seconds.items()},
        "lm-eval batch": batch,
        "floor s": least,
        "ratio": seconds["lm-eval"] / seconds["ours"],
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
        ours, theirs = gpt2_tokenizer(data, Path(name))
        for (size, task), count in QUESTIONS.items():
            made = {"lambada": lambada, "mmlu": mmlu}[task]
            asked = max(2, int(count * share))
            prepared = made(data, ours, asked, Path(name) / f"{task} of {size}")
            folder = written(Path(name) / size, SIZES[size])
            figures = compared(Work(folder, prepared), theirs, rounds)
            rows.append({"model": size, "task": task, **figures})
            bars.append(Bar(f"{size}, {task}", figures["ratio"], BARS[size, task]))
    harness = importlib.import_module("lm_eval").__version__
    finish("evaluation_speed", rows, bars, as_json, lm_eval=harness, torch=torch.__version__, threads=1)


if __name__ == "__main__":
    main()
