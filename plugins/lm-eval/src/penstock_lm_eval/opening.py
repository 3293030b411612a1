"""From `--model_args run=RUN` to a model with its tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from penstock.eval_suite.runner import BATCH_SIZE
from penstock.hooks.problems import Problem, ProblemError, did_you_mean
from penstock.hooks.registry import Registry
from penstock.train.restore import restore

DTYPES = {"fp32": torch.float32, "fp64": torch.float64, "bf16": torch.bfloat16}
ARGUMENTS = ("run", "dtype", "max_length", "batch_size", "max_batch_size", "device")


def opened(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `PenstockModel`. Raises `ProblemError` for unknown ones, and for a path that is no model."""
    given = {name: value for name, value in arguments.items() if value is not None}
    if unknown := [name for name in given if name not in ARGUMENTS]:
        fix = did_you_mean(unknown[0], ARGUMENTS) or f"the arguments are {', '.join(ARGUMENTS[:3])}"
        raise ProblemError(Problem("unknown-field", f"unknown argument '{unknown[0]}'", "--model_args", fix))
    if "run" not in given:
        what, fix = "the model is missing", "write --model_args run=RUN, with a run or an artifact"
        raise ProblemError(Problem("bad-value", what, "--model_args", fix))
    restored = restore(Path(str(given["run"])), Registry.discover())
    module = restored.composition.module
    if "dtype" in given:
        module.to(_dtype(given["dtype"]))
    if "device" in given:
        module.to(given["device"])
    return {
        "model": restored.model,
        "tokenizer": restored.tokenizer,
        "sequence_length": int(given.get("max_length", restored.config.data.sequence_length)),
        "batch_size": _batch_size(given.get("batch_size")),
        "info": {"model_sha256": dict(restored.digests()), "checkpoint": restored.checkpoint_name},
    }


def _dtype(name: Any) -> torch.dtype:
    if name not in DTYPES:
        what, fix = f"unknown dtype '{name}'", did_you_mean(str(name), DTYPES) or f"use {', '.join(DTYPES)}"
        raise ProblemError(Problem("bad-value", what, "--model_args", fix))
    return DTYPES[name]


def _batch_size(asked: Any) -> int:
    """The harness gives text, `auto` among it, which means the runner's own number here."""
    if asked is None or str(asked).startswith("auto"):
        return BATCH_SIZE
    try:
        size = int(asked)
    except ValueError:
        size = 0
    if size < 1:
        raise ProblemError(Problem("bad-value", f"a batch of {asked} texts", "--batch_size", "use at least 1, or auto"))
    return size
