"""llama.cpp's `llama-server`, which reads GGUF files."""

from __future__ import annotations

import os
import shutil
from typing import Literal

from penstock.hooks.contracts.serving import ServerProcess, Serving
from penstock.hooks.problems import Problem, ProblemError
from penstock.serve.servers import environment
from penstock.serve.servers.model import NOT_SERVABLE, READ_BY, Format, ServedModel
from penstock.serve.servers.profiles import tuning_of

PROGRAM = "PENSTOCK_LLAMA_SERVER"
CONTEXT = 2048
"""Tokens of a text where none are given; llama-server takes fewer where the model reads fewer."""


class LlamaCppServer:
    """A `penstock.hooks.contracts.Server`."""

    def __init__(self, program: str | None = None, cache: Literal["f32", "f16", "bf16", "q8_0"] = "f16") -> None:
        self.program = os.path.expanduser(program or os.environ.get(PROGRAM) or "llama-server")
        self.cache = cache

    def problems(self, serving: Serving) -> list[Problem]:
        found: list[Problem] = []
        try:
            found += _of_format(ServedModel.of(serving.model))
        except ProblemError as error:
            found += error.problems
        if serving.dtype is not None:
            what = "llama.cpp computes in the types of the file"
            found.append(Problem("unsupported", what, "--dtype", "leave it out, or export in that type"))
        if any("," in key for key in serving.keys):
            what = "llama.cpp separates keys by commas"
            found.append(Problem("unsupported", what, "--api-key", "take a key without a comma"))
        return found

    def process(self, serving: Serving) -> ServerProcess:
        model, tuning = ServedModel.of(serving.model).path, tuning_of(serving)
        name = serving.name or serving.model.resolve().stem
        context = str(tuning.slots * (serving.context or CONTEXT))
        arguments = [self.program, "--model", str(model), "--alias", name]
        arguments += ["--host", serving.host, "--port", str(serving.port), "--metrics", "--no-webui"]
        arguments += ["--parallel", str(tuning.slots), "--ctx-size", context, "--batch-size", str(tuning.step_tokens)]
        arguments += ["--cache-type-k", self.cache, "--cache-type-v", self.cache]
        arguments += [] if serving.threads is None else ["--threads", str(serving.threads)]
        keys = {"LLAMA_API_KEY": ",".join(serving.keys)} if serving.keys else {}
        return ServerProcess(arguments, keys, frozenset(keys), "/health", name)

    def missing(self) -> list[Problem]:
        if shutil.which(self.program):
            return []
        fix = "install llama.cpp, and name its program in `--server '{use: llama-cpp, program: PATH}'`"
        return [Problem(environment.MISSING, f"no program '{self.program}'", "--server", fix)]


def _of_format(model: ServedModel) -> list[Problem]:
    if model.format == Format.GGUF:
        return []
    what = f"llama-cpp does not read {model.format.value}"
    run = model.path if model.format == Format.RUN else "RUN"
    fix = f"write `penstock export {run} --for llama-cpp --out FOLDER` and serve FOLDER, or {READ_BY[model.format]}"
    return [Problem(NOT_SERVABLE, what, str(model.path), fix)]
