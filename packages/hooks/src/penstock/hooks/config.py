"""Configuration: YAML with source positions, `key.sub=value` overrides, validation in two phases.

This module re-exports the public names of its neighbours. All problems are found at once, each with its position:

    run.yaml:7:3: model.router.kk: unknown field, did you mean 'k'?
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from penstock.hooks.document import ConfigDocument, Location, dotted, dump_config, parse_config
from penstock.hooks.explanation import Setting, explain
from penstock.hooks.json_schema import json_schema
from penstock.hooks.overrides import apply_overrides
from penstock.hooks.problems import Problem, ProblemError
from penstock.hooks.schema import OfKind, OnResume, Schema, choice_of, schema_at
from penstock.hooks.validation import validate, validate_settings

__all__ = [
    "ConfigDocument",
    "Location",
    "OfKind",
    "OnResume",
    "Schema",
    "Setting",
    "apply_overrides",
    "choice_of",
    "dotted",
    "dump_config",
    "explain",
    "json_schema",
    "parse_config",
    "read_config",
    "schema_at",
    "validate",
    "validate_settings",
]


def read_config(path: Path, overrides: Sequence[str] = ()) -> ConfigDocument:
    """Reads a YAML file and applies `key.sub=value` overrides; raises `ProblemError` if the file is missing, not
    text, or not a config, or with every override that cannot be applied."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ProblemError(Problem("missing-file", "config file not found", str(path))) from None
    except IsADirectoryError:
        fix = "name a YAML file; a run is continued with `--resume RUN`, and its config is RUN/config.resolved.yaml"
        raise ProblemError(Problem("unreadable-file", "a folder is not a config", str(path), fix)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ProblemError(Problem("unreadable-file", f"cannot be read as text ({error})", str(path))) from error
    return apply_overrides(parse_config(text, str(path)), overrides)
