"""From a path to a model that generates: an artifact without torch where that is possible, all else with it."""

from __future__ import annotations

from pathlib import Path

from penstock.generate.model import TextModel
from penstock.hooks.inputs import expanded
from penstock.hooks.problems import ProblemError
from penstock.hooks.registry import Registry
from penstock.quant158.artifact.reader import is_artifact
from penstock.run import messages


def open_model(path: Path, registry: Registry) -> TextModel:
    """See `penstock.generate.load`. An artifact that the decoder cannot run is run by torch, and a note says why."""
    path = expanded(path)
    if is_artifact(path):
        from penstock.generate.decoding import decoded
        from penstock.quant158.decoder import NotDecodableError
        from penstock.quant158.native import MISSING

        try:
            return decoded(path, registry)
        except NotDecodableError as reason:
            messages.note(f"{path} is run by torch: {reason}")
        except ProblemError as error:
            if error.problems[0].code != MISSING:
                raise
            messages.note(f"{path} is run by torch: {error}")
    from penstock.generate.loading import load_model

    return load_model(path, registry)
