"""The tensors of a folder in the Hugging Face layout, and whether they are those of a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from penstock.hooks.contracts import LanguageModel
from penstock.hooks.json_text import parse_json
from penstock.hooks.problems import Problem, ProblemError, did_you_mean

INDEX = "model.safetensors.index.json"

_MISSING = {"lm_head.weight": "set tie_word_embeddings to true if the embedding is the head, else use whole weights"}


def load_tensors(model: LanguageModel, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Puts the tensors read at `path` into a model of their sizes; raises `ProblemError` with every tensor that only
    the model or only the files have."""
    with with_place(path):
        model.load_export_state(tensors)


@contextmanager
def with_place(path: Path) -> Iterator[None]:
    """Problems without a place are those of this path."""
    try:
        yield
    except ProblemError as error:
        problems = [problem if problem.where else replace(problem, where=str(path)) for problem in error.problems]
        raise ProblemError(problems) from error


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a folder in the dtype it is stored as; raises `ProblemError` for a missing or damaged file."""
    tensors: dict[str, Tensor] = {}
    for file in _files(folder):
        try:
            tensors.update(load_file(file))
        except OSError as error:
            what = f"cannot be read ({error.strerror or error})"
            raise ProblemError(Problem("missing-file", what, str(file), "download it")) from error
        except SafetensorError as error:
            raise ProblemError(Problem("damaged-file", f"damaged ({error})", str(file), "download it again")) from error
    return tensors


def check_names(loaded: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Raises `ProblemError` with every missing, unknown and wrongly shaped tensor."""
    problems = [
        Problem(
            "bad-checkpoint", f"tensor '{name}' is missing", "", _MISSING.get(name, "use the weights of this model")
        )
        for name in own
        if name not in loaded
    ]
    for name, tensor in loaded.items():
        if name not in own:
            problems.append(
                Problem("bad-checkpoint", f"tensor '{name}' is not part of the model", "", did_you_mean(name, own))
            )
        elif tensor.shape != own[name].shape:
            problems.append(
                Problem(
                    "bad-checkpoint",
                    f"tensor '{name}' has shape {list(tensor.shape)}, but the model's has {list(own[name].shape)}",
                    fix="use weights of the sizes that the config names",
                )
            )
        elif not tensor.is_floating_point():
            what = f"tensor '{name}' holds {tensor.dtype}, not floating-point numbers"
            problems.append(Problem("bad-checkpoint", what, "", "use weights that are not quantized"))
    if problems:
        raise ProblemError(problems)


def check_one_tensor(embedding_VD: Tensor, head_VD: Tensor, name: str = "embed_tokens.weight") -> None:
    """Raises `ProblemError` if a model that ties its head is given another head: one of the two would be lost."""
    if head_VD is not embedding_VD and not torch.equal(head_VD, embedding_VD):
        what = f"the config ties the head to the embedding, but 'lm_head.weight' differs from '{name}'"
        fix = "set tie_word_embeddings to false in config.json if both belong to the model, else remove lm_head.weight"
        raise ProblemError(Problem("not-shared", what, "", fix))


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
