"""Paths of models on a command line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from penstock.hooks.problems import ProblemError
from penstock.run.directory import RunDirectory

FIX = "give a run, such as runs/quickstart, an artifact, or a folder of transformers with its config.json"


def open_run(path: Path) -> RunDirectory:
    """The run at a path that is neither an artifact nor a folder of transformers; raises `ProblemError` that names all
    three if it is no run either."""
    try:
        return RunDirectory.open(path)
    except ProblemError as error:
        what = "not a run, an artifact or a folder of transformers" if path.exists() else "model not found"
        raise ProblemError(
            [replace(each, what=what, fix=FIX) if each.code == "not-a-run" else each for each in error.problems],
            error.exit_code,
        ) from None
