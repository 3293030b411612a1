"""Our own server as a component: what `penstock serve MODEL` starts, for whoever starts servers by name."""

from __future__ import annotations

import sys

from penstock.hooks.contracts.serving import ServerProcess, Serving
from penstock.hooks.problems import Problem, ProblemError
from penstock.serve.servers.model import Format, ServedModel, folder_problems
from penstock.server.profiles import CONTEXT, TUNINGS

KEYS = "PENSTOCK_API_KEY"


class PenstockServer:
    """A `penstock.hooks.contracts.Server`."""

    def problems(self, serving: Serving) -> list[Problem]:
        found: list[Problem] = []
        try:
            if ServedModel.of(serving.model).format in (Format.HUGGING_FACE, Format.GGUF):
                found += folder_problems(serving, "penstock")
        except ProblemError as error:
            found += error.problems
        if serving.dtype is not None:
            what = "our server computes in the dtype of the model"
            found.append(Problem("unsupported", what, "--dtype", "leave it out, or export in that dtype"))
        if any(len(key.split()) != 1 for key in serving.keys):
            what, fix = "a key that is empty or has white space", "write one word"
            found.append(Problem("bad-value", what, "--api-key", fix))
        return found

    def process(self, serving: Serving) -> ServerProcess:
        tuning = TUNINGS[serving.profile]
        name = serving.name or serving.model.resolve().name
        arguments = [sys.executable, "-m", "penstock.cli", "serve", str(serving.model), "--name", name]
        arguments += ["--host", serving.host, "--port", str(serving.port)]
        arguments += ["--slots", str(serving.slots or tuning.slots), "--chunk", str(tuning.chunk)]
        arguments += ["--context", str(serving.context or CONTEXT)]
        arguments += [] if serving.threads is None else ["--threads", str(serving.threads)]
        keys = {KEYS: " ".join(serving.keys)} if serving.keys else {}
        return ServerProcess(arguments, keys, frozenset(keys), "/ready", name)

    def missing(self) -> list[Problem]:
        return []
