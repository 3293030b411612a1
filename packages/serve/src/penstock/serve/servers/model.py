"""What a path holds that is to be served, read without loading it, and what all servers have to say about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from penstock.hooks.architecture import promised_positions
from penstock.hooks.contracts.serving import Serving
from penstock.hooks.inputs import expanded
from penstock.hooks.json_text import parse_json
from penstock.hooks.problems import Problem, ProblemError

NOT_SERVABLE = "not-servable"
CAUSAL = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
"""How the names of classes end that say what comes next."""
RUN_FILE = "config.resolved.yaml"


class Format(StrEnum):
    """What a model is stored as."""

    HUGGING_FACE = "a folder in the Hugging Face layout"
    GGUF = "a GGUF file"
    ARTIFACT = "an artifact"
    RUN = "a run"


READ_BY = {
    Format.HUGGING_FACE: "penstock, transformers, vllm and sglang read it",
    Format.GGUF: "`--server llama-cpp` reads it",
    Format.ARTIFACT: "`--server penstock` reads it",
    Format.RUN: "`--server penstock` reads it",
}


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model to be served. `path` is the file where the format is one. `config` is its `config.json` and `tensors` are
    the names of its weights, both empty but for the Hugging Face layout."""

    path: Path
    format: Format
    config: Mapping[str, Any] = field(default_factory=lambda: dict[str, Any]())
    tensors: frozenset[str] = frozenset()

    @classmethod
    def of(cls, path: Path) -> ServedModel:
        """Looks at a path. Raises `ProblemError` if nothing is there, or nothing that a server reads."""
        path = expanded(path)
        if path.is_file():
            return cls(path, _format_of_file(path))
        if not path.is_dir():
            raise ProblemError(Problem("missing-file", "no such file or folder", str(path), "check the path"))
        if (path / "config.json").is_file():
            return cls(path, Format.HUGGING_FACE, _config(path / "config.json"), _tensors(path))
        if len(files := sorted(path.glob("*.gguf"))) == 1:
            return cls(files[0], _format_of_file(files[0]))
        if any(path.glob(RUN_FILE)) or any(path.glob(f"*/{RUN_FILE}")):
            return cls(path, Format.RUN)
        fix = "give a run, an artifact, a GGUF file, or a folder in the Hugging Face layout"
        raise ProblemError(Problem(NOT_SERVABLE, "holds no model", str(path), fix))

    @property
    def architecture(self) -> str:
        """The class that computes the model; empty if its config names none."""
        classes = self.config.get("architectures")
        return str(classes[0]) if isinstance(classes, list) and classes else ""

    @property
    def dtype(self) -> str | None:
        """What the weights are stored as, such as "bfloat16"; None if the config does not say."""
        stated = self.config.get("dtype", self.config.get("torch_dtype"))
        return stated if isinstance(stated, str) else None

    @property
    def positions(self) -> int | None:
        """The most tokens that the model reads; None if the config does not say."""
        return promised_positions(self.config)

    @property
    def experts(self) -> int:
        """The most routed experts of a layer; 0 for a dense model."""
        names = ("n_routed_experts", "num_local_experts", "num_experts")
        given = (self.config.get(name) for name in names)
        return next((count for count in given if isinstance(count, int)), 0)


def folder_problems(serving: Serving, server: str) -> list[Problem]:
    """Why a server that reads the Hugging Face layout cannot serve a model as it is asked to, whatever its classes."""
    try:
        model = ServedModel.of(serving.model)
    except ProblemError as error:
        return list(error.problems)
    if model.format != Format.HUGGING_FACE:
        return [_wrong_format(model, server)]
    where = str(model.path)
    if not model.architecture:
        what, fix = "config.json names no architecture", "export the model again, or complete `architectures`"
        return [Problem(NOT_SERVABLE, what, where, fix)]
    if str(model.config.get("model_type")).startswith("penstock_"):
        what = f"{server} has no architecture that computes what {model.architecture} does"
        return [Problem(NOT_SERVABLE, what, where, "serve its run or its artifact with `--server penstock`")]
    if not model.architecture.endswith(CAUSAL):
        what = f"{model.architecture} does not say what comes next"
        return [Problem(NOT_SERVABLE, what, where, "serve a causal model")]
    return context_problems(serving, model)


def context_problems(serving: Serving, model: ServedModel) -> list[Problem]:
    """A context beyond what the model reads."""
    if serving.context is None or model.positions is None or serving.context <= model.positions:
        return []
    what = f"texts of {serving.context} tokens, but the model reads at most {model.positions}"
    return [Problem("bad-value", what, "--context", f"use at most {model.positions}")]


def _wrong_format(model: ServedModel, server: str) -> Problem:
    what, can = f"{server} does not read {model.format.value}", READ_BY[model.format]
    match model.format:
        case Format.RUN:
            fix = f"write `penstock export {model.path} --for {server} --out FOLDER` and serve FOLDER, or {can}"
        case Format.ARTIFACT:
            fix = f"{can}, or export its run with `penstock export RUN --for {server}`"
        case _:
            fix = can
    return Problem(NOT_SERVABLE, what, str(model.path), fix)


def _format_of_file(path: Path) -> Format:
    try:
        with path.open("rb") as file:
            begins = file.read(4)
    except OSError as error:
        problem = Problem("unreadable-file", f"cannot be read ({error.strerror})", str(path), "make it readable")
        raise ProblemError(problem) from error
    if begins == b"GGUF":
        return Format.GGUF
    if path.suffix == ".penstock":
        return Format.ARTIFACT
    fix = "give a run, an artifact, a GGUF file, or a folder in the Hugging Face layout"
    raise ProblemError(Problem(NOT_SERVABLE, "is no model that a server reads", str(path), fix))


def _config(file: Path) -> Mapping[str, Any]:
    try:
        document = parse_json(file.read_bytes())
    except (OSError, ValueError) as error:
        problem = Problem("unreadable-file", f"not JSON ({error})", str(file), "export the model again")
        raise ProblemError(problem) from error
    return document if isinstance(document, dict) else {}


def _tensors(folder: Path) -> frozenset[str]:
    """The names of the weights in safetensors files; empty where there are none."""
    names: set[str] = set()
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="np") as weights:
                names |= set(weights.keys())
        except (SafetensorError, OSError) as error:
            problem = Problem("unreadable-file", f"not safetensors ({error})", str(file), "export the model again")
            raise ProblemError(problem) from error
    return frozenset(names)
