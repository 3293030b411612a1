"""The `config.json` of a folder in the Hugging Face layout, as far as all architectures read it alike. Imports no
torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from penstock.hooks.json_text import parse_json
from penstock.hooks.problems import Problem, ProblemError

CONFIG_FILE = "config.json"


def read_config(folder: Path, family: str, reads: str) -> dict[str, Any]:
    """The document of a `model_type`; raises `ProblemError` for a missing or damaged file, for another type (`reads`
    says what the architecture can start from), and for quantized weights."""
    path = folder / CONFIG_FILE
    document = _mapping(path, family)
    if (found := document.get("model_type")) != family:
        raise ProblemError(Problem("unsupported-model", f"is a model of type '{found}'", str(path), reads))
    require_supported({"quantization_config": (document.get("quantization_config"), [None])}, path)
    return document


def require_supported(asked: Mapping[str, tuple[Any, Sequence[Any]]], path: Path) -> None:
    """Raises `ProblemError` that names every field with a value that the architecture does not compute; `asked` has the
    value of each field and the values that are supported."""
    problems = [
        Problem("unsupported-model", f"asks for {name} = {json.dumps(value)}", str(path), "which is not supported")
        for name, (value, supported) in asked.items()
        if value not in supported
    ]
    if problems:
        raise ProblemError(problems)


def require_whole_numbers(values: Mapping[str, Any], names: Sequence[str], path: Path) -> None:
    """Raises `ProblemError` that names every field that is missing or no integer."""
    problems = [
        Problem("damaged-file", f"has no '{name}'", str(path))
        if name not in values
        else Problem("damaged-file", f"'{name}' is {json.dumps(values[name])}, not an integer", str(path))
        for name in names
        if type(values.get(name)) is not int
    ]
    if problems:
        raise ProblemError(problems)


def _mapping(path: Path, family: str) -> dict[str, Any]:
    try:
        document = parse_json(path.read_bytes())
    except OSError as error:
        fix = f"give the folder of a Hugging Face {family} checkpoint"
        raise ProblemError(Problem("missing-file", f"cannot be read ({error.strerror})", str(path), fix)) from error
    except (ValueError, RecursionError) as error:
        what = f"not JSON ({error})"
        raise ProblemError(Problem("damaged-file", what, str(path), "download it again")) from error
    if not isinstance(document, dict):
        raise ProblemError(Problem("damaged-file", "not a mapping", str(path), "download it again"))
    return cast("dict[str, Any]", document)
