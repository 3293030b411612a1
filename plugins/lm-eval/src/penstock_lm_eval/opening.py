"""From `--model_args run=RUN` to a model with its tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

import torch
from torch import nn

from penstock.eval_suite.runner import BATCH_SIZE
from penstock.evaluate.model_folder import ModelFolder, is_model_folder
from penstock.evaluate.options import Dtype
from penstock.hooks.architecture import architecture_settings
from penstock.hooks.contracts import LanguageModel, Tokenizer
from penstock.hooks.problems import Problem, ProblemError, did_you_mean
from penstock.hooks.registry import Registry
from penstock.train.restore import restore

ARGUMENTS = ("run", "dtype", "max_length")
"""What a user may write in --model_args."""
OPTIONS = ("batch_size", "max_batch_size", "device")
"""What the harness adds from options of its own."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A model that answers, the most tokens that it reads at once, the dtype that it computes in, and what results of
    the harness say of it."""

    model: LanguageModel
    tokenizer: Tokenizer
    sequence_length: int
    batch_size: int
    dtype: Dtype
    info: Mapping[str, Any]


def opened(arguments: Mapping[str, Any]) -> Opened:
    """Raises `ProblemError` for unknown arguments, for a path that is no model, and for more tokens than it reads."""
    given = {name: value for name, value in arguments.items() if value is not None}
    if unknown := [name for name in given if name not in (*ARGUMENTS, *OPTIONS)]:
        fix = did_you_mean(unknown[0], ARGUMENTS) or f"the arguments are {', '.join(ARGUMENTS)}"
        raise ProblemError(Problem("unknown-field", f"unknown argument '{unknown[0]}'", "--model_args", fix))
    if "run" not in given:
        what, fix = (
            "no model is named",
            "write --model_args run=PATH, of a run, an artifact or a folder of transformers",
        )
        raise ProblemError(Problem("missing-value", what, "--model_args", fix))
    batch_size = _batch_size(given.get("batch_size"))
    dtype = None if "dtype" not in given else _dtype(given["dtype"])
    length = None if "max_length" not in given else _length(given["max_length"])
    device = None if "device" not in given else _device(given["device"])
    path = Path(str(given["run"]))
    found = (_of_folder if is_model_folder(path) else _of_run)(path, batch_size, length, dtype)
    if device is not None and _exists(device):
        cast(nn.Module, found.model).to(device)
    return found


def _exists(device: torch.device) -> bool:
    """The harness's command asks for cuda:0 where nobody has said anything."""
    return device.type != "cuda" or torch.cuda.is_available()


def _of_run(path: Path, batch_size: int, length: int | None, dtype: Dtype | None) -> Opened:
    restored = restore(path, Registry.discover())
    config, info = restored.config, {"model_sha256": dict(restored.digests()), "checkpoint": restored.checkpoint_name}
    _require_positions(length, architecture_settings(config.model).max_positions)
    most = length or config.data.sequence_length
    return Opened(restored.model, restored.tokenizer, most, batch_size, dtype or config.train.dtype, info)


def _of_folder(path: Path, batch_size: int, length: int | None, dtype: Dtype | None) -> Opened:
    folder = ModelFolder.open(path, Registry.discover())
    _require_positions(length, folder.positions)
    most = length or folder.positions
    if most is None:
        what = "the config does not say how many positions the model reads"
        raise ProblemError(Problem("missing-value", what, str(path), "write --model_args run=PATH,max_length=TOKENS"))
    info = {"model_sha256": dict(folder.digests)}
    return Opened(folder.load(), folder.tokenizer, most, batch_size, dtype or "fp32", info)


def _dtype(name: Any) -> Dtype:
    if name not in get_args(Dtype):
        what, fix = f"unknown dtype '{name}'", f"use {', '.join(get_args(Dtype))}"
        raise ProblemError(Problem("bad-value", what, "--model_args", fix))
    return name


def _length(asked: Any) -> int:
    length = int(asked) if str(asked).isdecimal() else 0
    if length < 2:
        what = f"max_length is {asked}, not a number of tokens"
        raise ProblemError(Problem("bad-value", what, "--model_args", "use at least 2"))
    return length


def _require_positions(length: int | None, positions: int | None) -> None:
    if length is not None and positions is not None and length > positions:
        what = f"max_length is {length}, but the model reads at most {positions} tokens"
        raise ProblemError(Problem("bad-value", what, "--model_args", "leave it out, or set a smaller one"))


def _device(name: Any) -> torch.device:
    try:
        return torch.device(name)
    except (RuntimeError, TypeError) as error:
        fix = "use cpu, or cuda:0"
        raise ProblemError(Problem("bad-value", f"unknown device '{name}'", "--device", fix)) from error


def _batch_size(asked: Any) -> int:
    """The harness gives text, such as `auto`, which means the runner's own number here."""
    if asked is None or str(asked).startswith("auto"):
        return BATCH_SIZE
    size = int(asked) if str(asked).isdecimal() else 0
    if size < 1:
        raise ProblemError(Problem("bad-value", f"a batch of {asked} texts", "--batch_size", "use at least 1, or auto"))
    return size
