"""From a path to a model that generates: an artifact without torch where that is possible, all else with it."""

from __future__ import annotations

from pathlib import Path

from penstock.generate.model import TextModel
from penstock.hooks.inputs import expanded
from penstock.hooks.problems import ProblemError
from penstock.hooks.registry import Registry
from penstock.quant158 import native
from penstock.quant158.artifact.reader import is_artifact
from penstock.run import messages


def open_model(path: Path, registry: Registry) -> TextModel:
    """See `penstock.generate.load`. An artifact that the decoder cannot run is run by torch, and a note says why, and
    what multiplies."""
    path = expanded(path)
    if is_artifact(path):
        from penstock.generate.decoding import decoded
        from penstock.quant158.decoder import NotDecodableError

        try:
            return decoded(path, registry)
        except NotDecodableError as error:
            reason = str(error)
        except ProblemError as error:
            if error.problems[0].code != native.MISSING:
                raise
            reason = str(error)
        from penstock.generate.loading import load_artifact

        model, by = load_artifact(path, registry)
        messages.note(f"{path} is run by {by}: {reason}{_how_to_build(reason)}")
        return model
    from penstock.generate.loading import load_model

    return load_model(path, registry)


def _how_to_build(reason: str) -> str:
    """The command, if the library is missing and the reason does not say so."""
    return "" if native.usable() or native.BUILD in reason else f"; its kernel was not built: {native.BUILD}"
