"""Weights to start from: a Hugging Face folder of safetensors, or a llama2.c file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from penstock.hooks.contracts import LanguageModel
from penstock.hooks.json_text import parse_json
from penstock.hooks.problems import Problem, ProblemError
from penstock.moe_core.glm import llama2c

INDEX = "model.safetensors.index.json"


def load_pretrained(model: LanguageModel, path: Path) -> None:
    """Puts the weights at `path` into a model of their sizes; raises `ProblemError` with every missing, damaged or
    incomplete file, and every tensor that only the model or only the files have."""
    try:
        model.load_export_state(read_tensors(path))
    except ProblemError as error:
        problems = [problem if problem.where else replace(problem, where=str(path)) for problem in error.problems]
        raise ProblemError(problems) from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Every tensor of a folder or llama2.c file, in the dtype it is stored as, under the hub's names."""
    if not path.is_dir():
        return {name: torch.from_numpy(array) for name, array in llama2c.read_weights(path).items()}
    tensors: dict[str, Tensor] = {}
    for file in _files(path):
        try:
            tensors.update(load_file(file))
        except OSError as error:
            what = f"cannot be read ({error.strerror or error})"
            raise ProblemError(Problem("missing-file", what, str(file), "download it")) from error
        except SafetensorError as error:
            raise ProblemError(Problem("damaged-file", f"damaged ({error})", str(file), "download it again")) from error
    return tensors


def _files(folder: Path) -> list[Path]:
    """The files of the index, or the only one."""
    index = folder / INDEX
    if not index.exists():
        return [folder / "model.safetensors"]
    try:
        names = set(parse_json(index.read_bytes())["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ProblemError(_not_an_index(index)) from error
    if not names or not all(isinstance(name, str) and name == Path(name).name != "" for name in names):
        raise ProblemError(_not_an_index(index))
    return [folder / name for name in sorted(names)]


def _not_an_index(index: Path) -> Problem:
    return Problem("damaged-file", "not an index of safetensors files", str(index), "download it again")
