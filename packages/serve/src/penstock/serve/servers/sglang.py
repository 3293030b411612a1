"""SGLang. Its build for CPUs needs Intel AMX; the command line was never run by Penstock's tests."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from penstock.hooks.contracts.serving import ServerProcess, Serving
from penstock.hooks.problems import Problem
from penstock.serve.servers import environment
from penstock.serve.servers.model import ServedModel, folder_problems
from penstock.serve.servers.profiles import tuning_of
from penstock.serve.servers.vllm import head_problems, option_problems

MODULE = "sglang.launch_server"
PYTHON = "PENSTOCK_SGLANG_PYTHON"
INSTALL = "uv pip install --python {python} sglang"


class SglangServer:
    """A `penstock.hooks.contracts.Server`."""

    def __init__(
        self,
        python: str | None = None,
        device: Literal["auto", "cpu", "cuda"] = "auto",
        config_file: Path | None = None,
    ) -> None:
        self.python = environment.python_of(python, PYTHON)
        self.device = environment.device_of(device)
        self.config_file = config_file

    def problems(self, serving: Serving) -> list[Problem]:
        found = folder_problems(serving, "sglang")
        if not found:
            found += head_problems(ServedModel.of(serving.model), "sglang")
        if serving.keys:
            what = "SGLang takes a key as an argument alone, which everyone on the machine reads"
            fix = "write `api-key: KEY` to a file, and name that in `--server '{use: sglang, config_file: FILE}'`"
            return [*found, Problem("unsupported", what, "--api-key", fix)]
        return found + option_problems(serving, "SGLang")

    def process(self, serving: Serving) -> ServerProcess:
        model, tuning = ServedModel.of(serving.model), tuning_of(serving)
        name = serving.name or model.path.resolve().name
        arguments = [self.python, "-m", MODULE, "--model-path", str(serving.model), "--served-model-name", name]
        arguments += ["--host", serving.host, "--port", str(serving.port), "--device", self.device]
        arguments += ["--dtype", serving.dtype or model.dtype or "auto", "--enable-metrics"]
        arguments += ["--max-running-requests", str(tuning.slots), "--chunked-prefill-size", str(tuning.step_tokens)]
        arguments += [] if serving.context is None else ["--context-length", str(serving.context)]
        arguments += [] if self.config_file is None else ["--config", str(self.config_file)]
        variables = {"HF_HUB_OFFLINE": "1", **environment.threads_of(serving.threads)}
        return ServerProcess(arguments, variables, frozenset(), "/health", name)

    def missing(self) -> list[Problem]:
        found = environment.lacking(self.python, ["sglang"], "SGLang", "sglang", INSTALL)
        if self.device == "cpu" and not environment.has_amx():
            what = "SGLang's build for CPUs needs Intel AMX, which this processor lacks"
            fix = "take `--server penstock` or `--server vllm`, or the line of `--print-command` to another machine"
            found.append(Problem(environment.MISSING, what, "--server", fix))
        return found
