"""HumanEval (https://arxiv.org/abs/2107.03374): functions to be written from their signature and docstring. Tests say
whether one is right, and run in a sandbox (`penstock.sandbox`), whose level is part of every metric's name:
`humaneval.pass_1@full-sandbox-1-samples-512-tokens-temperature-0`.

A program is prompt, answer and tests, and then `check(ENTRY_POINT)`, as in the paper's `human-eval`; an answer ends
before the first of the stops of the paper. Any problems in the same layout can be asked.
"""

from __future__ import annotations

import functools
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np

from penstock.eval_suite.examples import prompt_tokens, require_room
from penstock.eval_suite.official.pass_at_k import pass_at_k
from penstock.eval_suite.prompts import refuse_shots, sample_seed
from penstock.eval_suite.sources import DataSet, other_size, text_of
from penstock.hooks.contracts import Answer, Array, Estimate, Generate, GenerateAnswer, Item, TaskContext, TaskResult
from penstock.hooks.inputs import expanded
from penstock.sandbox.sandbox import Sandbox
from penstock.sandbox.verdict import Level, Limits, Outcome, Verdict

PUBLISHED = DataSet("openai/openai_humaneval", None, "test", "humaneval/HumanEval.jsonl")
PROBLEMS = 164
STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
SECONDS = 3.0
"""What `human-eval` gives a program."""
OUTCOMES: tuple[str, ...] = get_args(Outcome)


@dataclass(frozen=True, slots=True)
class CodingProblem:
    """A row of the data set."""

    prompt: str
    test: str
    entry_point: str

    def program(self, answer: str) -> str:
        return f"{self.prompt}{answer}\n{self.test}\ncheck({self.entry_point})"


class HumanEval:
    """The share of problems that one of k answers solves."""

    def __init__(
        self,
        path: str | Path | None = None,
        samples: int = 1,
        k: Sequence[int] = (1,),
        tokens: int = 512,
        temperature: float = 0.0,
        seconds: float = SECONDS,
    ) -> None:
        self._path = None if path is None else expanded(path)
        self._samples = samples
        self._k = k
        self._tokens = tokens
        self._temperature = temperature
        self._seconds = seconds

    def items(self, context: TaskContext) -> Iterator[Item]:
        """Raises `ProblemError` for missing files and columns, and if this machine does not give the sandbox that the
        context asks for."""
        refuse_shots(context, "humaneval")
        require_room(context, self._tokens, "humaneval")
        self._sandbox(context)
        rows = list(PUBLISHED.rows(self._path, context))
        for number, (where, row) in enumerate(rows, 1):
            yield Item(str(row.get("task_id", number)), _problem(where, row), len(rows))

    def requests(self, item: Item, context: TaskContext) -> Sequence[Generate]:
        prompt = prompt_tokens(item.document.prompt, context)
        seeds = [sample_seed(context.seed, item.id, sample) for sample in range(self._samples)]
        return [Generate(prompt, self._tokens, STOPS, self._temperature, seed) for seed in seeds]

    def score(self, item: Item, answers: Sequence[Answer], context: TaskContext) -> Sequence[Mapping[str, float]]:
        outcomes = Counter(verdict.outcome for verdict in self.verdicts(item, answers, context))
        solved = outcomes["passed"]
        return [
            {
                **{f"pass_{k}": pass_at_k(len(answers), solved, k) for k in self._k},
                **{outcome: float(outcomes[outcome]) for outcome in OUTCOMES},
                "problems": float(item.gold),
            }
        ]

    def verdicts(self, item: Item, answers: Sequence[Answer], context: TaskContext) -> list[Verdict]:
        """On each answer, with the reason why it does not pass."""
        problem = cast("CodingProblem", item.document)
        if not problem.test.strip():
            return [Verdict("failed", "the problem has no tests")] * len(answers)
        texts = [answer.text for answer in cast("Sequence[GenerateAnswer]", answers)]
        return list(self._sandbox(context).run_all(map(problem.program, texts)))

    def total(self, scores: Mapping[str, Array], context: TaskContext) -> TaskResult:
        other = other_size(int(scores["problems"][0]), PROBLEMS, "problems")
        how = f"{self._samples}-samples-{self._tokens}-tokens-temperature-{self._temperature:g}"
        convention = "-".join(filter(None, [f"{context.sandbox}-sandbox", other, how]))
        columns = {f"humaneval.pass_{k}@{convention}": f"pass_{k}" for k in self._k}
        return TaskResult(
            {name: float(np.mean(scores[column])) for name, column in columns.items()},
            {"sandbox": context.sandbox, "outcomes": {name: int(scores[name].sum()) for name in OUTCOMES}},
            estimates={name: Estimate(column) for name, column in columns.items()},
        )

    def _sandbox(self, context: TaskContext) -> Sandbox:
        return _sandbox(context.sandbox, self._seconds, min(self._samples, os.cpu_count() or 1))


@functools.lru_cache(maxsize=1)
def _sandbox(level: Level, seconds: float, workers: int) -> Sandbox:
    """One for all tasks alike: starting it takes as long as a hundred programs."""
    return Sandbox(level, limits=Limits(seconds=seconds), workers=workers)


def _problem(where: str, row: Mapping[str, Any]) -> CodingProblem:
    test = row.get("test") or ""  # without tests, no answer passes
    return CodingProblem(
        text_of(where, row, "prompt"), text_of(where, {"test": test}, "test"), text_of(where, row, "entry_point")
    )
