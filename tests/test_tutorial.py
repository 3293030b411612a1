"""The tutorial for writers of plugins, word for word: in an empty folder, with a fresh environment and built wheels."""

from __future__ import annotations

import doctest
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

TUTORIAL = Path(__file__).parents[1] / "packages" / "hooks" / "docs" / "tutorial.md"
FENCE = re.compile(r"^```(\w+)(?: title=(\S+))?\n(.*?)^```$", re.M | re.S)
NOT_A_READERS = {"PYTHONPATH", "VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT", "UV_PYTHON"}


@dataclass(frozen=True)
class Step:
    """What a reader does at one place, and what the tutorial says comes of it: "..." stands for anything, and numbers
    may be others, because the kit grows."""

    line: int
    script: str
    expected: str | None = None


def steps(page: str) -> list[Step]:
    found: list[Step] = []
    for fence in FENCE.finditer(page):
        language, title, body = fence.groups()
        line = page[: fence.start()].count("\n") + 1
        match language:
            case "sh":
                found.append(Step(line, body))
            case "text":
                found[-1] = Step(found[-1].line, found[-1].script, body)
            case "diff":
                found.append(Step(line, f"patch --quiet --posix -p0 <<'END_OF_FENCE'\n{body}END_OF_FENCE\n"))
            case _ if title:
                found.append(Step(line, f"cat > {title} <<'END_OF_FENCE'\n{body}END_OF_FENCE\n"))
            case _:
                raise ValueError(f"line {line}: nobody can tell what to do with this {language}")
    return found


def test_a_reader_does_what_the_fences_say_in_their_order():
    page = "```sh\nls\n```\nprints\n```text\na\n```\n```yaml title=run.yaml\nname: x\n```\n"
    listing, file = steps(page)
    assert (listing.script, listing.expected, file.line) == ("ls\n", "a\n", 8)
    assert file.script.splitlines()[:2] == ["cat > run.yaml <<'END_OF_FENCE'", "name: x"]


@pytest.mark.wheels
def test_the_tutorial_does_what_it_says(tmp_path, wheelhouse):
    """`nox -s wheels` runs it: it builds every wheel and trains less than a reader does."""
    place, printed = tmp_path / "reader", tmp_path / "printed"
    place.mkdir()
    printed.mkdir()
    (place / ".python-version").write_text(f"{sys.version_info.major}.{sys.version_info.minor}")
    shorter = TUTORIAL.read_text().replace("150_000", "8_000").replace("20_000", "4_000")
    todo = steps(shorter)
    script = "set -euo pipefail\n" + "".join(
        f"echo 'line {step.line}' >&2\n{{\n{step.script}}} > {printed / str(number)}\n"
        for number, step in enumerate(todo)
    )
    constraints = [f"{wheel.name.split('-')[0]} @ {wheel.as_uri()}" for wheel in sorted(wheelhouse.glob("*.whl"))]
    # uv takes a build of a local folder, such as torch for CPUs, only where the version is exact
    (tmp_path / "constraints.txt").write_text(
        "\n".join([*constraints, f"torch=={torch.__version__.partition('+')[0]}"])
    )
    environment = {name: value for name, value in os.environ.items() if name not in NOT_A_READERS}
    environment["UV_CONSTRAINT"] = str(tmp_path / "constraints.txt")
    result = subprocess.run(["bash", "-c", script], cwd=place, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, f"{result.stderr[-3000:]}\n{_last(printed)}"
    got = [(step, (printed / str(number)).read_text()) for number, step in enumerate(todo)]
    other = [f"line {step.line} prints\n{text}" for step, text in got if not _same(step.expected, text)]
    assert not other, "\n".join(other)


def _same(expected: str | None, got: str) -> bool:
    """Whether a step printed what the tutorial says, numbers aside; a step without a word may print anything."""
    if expected is None:
        return True
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    want, have = (re.sub(r"\d+", "0", text) for text in (expected, got))
    return doctest.OutputChecker().check_output(want, have, flags)


def _last(printed: Path) -> str:
    """What the step that failed had printed."""
    return max(printed.iterdir(), key=lambda file: int(file.name)).read_text()[-3000:]
