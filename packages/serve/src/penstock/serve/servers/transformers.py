"""The server of transformers, `transformers serve`, with continuous batching.

Without it, requests wait for one another: 154 tokens a second at 8 streams instead of 1,054 (1.7M parameters, two
cores, transformers 5.24).
"""

from __future__ import annotations

from penstock.hooks.contracts.serving import ServerProcess, Serving
from penstock.hooks.problems import Problem
from penstock.serve.servers import environment
from penstock.serve.servers.model import ServedModel, folder_problems
from penstock.serve.servers.profiles import tuning_of

MODULE = "transformers.cli.transformers"
PYTHON = "PENSTOCK_TRANSFORMERS_PYTHON"
INSTALL = "uv pip install --python {python} 'transformers[serving]'"
CONTEXT = 2048
"""Tokens of a text where none are given and the model reads more."""
BLOCK = 256
"""Tokens of a block of the cache, since transformers 5.17."""


class TransformersServer:
    """A `penstock.hooks.contracts.Server`. The cache holds `slots` texts of `context` tokens; by itself transformers
    would take most of the memory of the machine."""

    def __init__(self, python: str | None = None) -> None:
        self.python = environment.python_of(python, PYTHON)

    def problems(self, serving: Serving) -> list[Problem]:
        found = folder_problems(serving, "transformers")
        for given, what, option in (
            (serving.keys, "transformers serve asks for no key", "--api-key"),
            (serving.name, "transformers serve calls a model by its path", "--name"),
        ):
            if given:
                fix = "leave it out, or serve with `--server penstock` or `--server vllm`"
                found.append(Problem("unsupported", what, option, fix))
        return found

    def process(self, serving: Serving) -> ServerProcess:
        model, tuning = ServedModel.of(serving.model), tuning_of(serving)
        context = serving.context or min(model.positions or CONTEXT, CONTEXT)
        blocks = tuning.slots * -(-context // BLOCK)
        arguments = [self.python, "-m", MODULE, "serve", str(serving.model)]
        arguments += ["--host", serving.host, "--port", str(serving.port)]
        arguments += ["--dtype", serving.dtype or model.dtype or "auto"]
        arguments += ["--continuous-batching", "--attn-implementation", "sdpa"]
        arguments += ["--cb-max-batch-tokens", str(tuning.step_tokens), "--cb-num-blocks", str(blocks)]
        offline = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_UPDATE_CHECK": "1"}
        variables = {**offline, **environment.threads_of(serving.threads)}
        return ServerProcess(arguments, variables, frozenset(), "/health", str(serving.model))

    def missing(self) -> list[Problem]:
        modules = ["transformers", "fastapi", "openai", "uvicorn"]
        return environment.lacking(self.python, modules, "transformers[serving]", "transformers", INSTALL)
