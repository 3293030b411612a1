"""What each server is started with, and what it refuses before anything starts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from safetensors.numpy import save_file

from penstock.hooks import Registry
from penstock.hooks.contracts.serving import Profile, Server, ServerProcess, Serving
from penstock.serve.servers.running import shown
from penstock.serve.servers.vllm import MODULE, PYTHON

GLM = {
    "architectures": ["Glm4MoeForCausalLM"],
    "model_type": "glm4_moe",
    "tie_word_embeddings": True,
    "num_hidden_layers": 2,
    "first_k_dense_replace": 1,
    "n_routed_experts": 4,
    "max_position_embeddings": 512,
    "dtype": "float32",
}
HEADS = ("model.embed_tokens.weight", "lm_head.weight")


def server(name: str, **settings: Any) -> Server:
    return Registry.discover().build("server", {"use": name, **settings})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return exported(tmp_path / "model", GLM, HEADS)


def exported(folder: Path, config: Mapping[str, Any], tensors: tuple[str, ...]) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_file({name: np.zeros(1, np.float32) for name in tensors}, folder / "model.safetensors")
    return folder


def flags(process: ServerProcess) -> dict[str, str]:
    return {name: value for name, value in pairwise(process.arguments) if name.startswith("--")}


def told(found: Server, serving: Serving) -> str:
    return "\n".join(map(str, found.problems(serving)))


@pytest.mark.parametrize("name", ["vllm", "sglang"])
def test_a_folder_without_the_head_that_the_engine_reads_is_refused_with_the_export_to_write(tmp_path, name):
    tied = exported(tmp_path / "tied", GLM, HEADS[:1])
    (problem,) = server(name).problems(Serving(tied))
    assert problem.code == "misread-model"
    assert f"penstock export RUN --for {name}" in problem.fix
    assert server("transformers").problems(Serving(tied)) == []
    whole = exported(tmp_path / "whole", GLM, HEADS)
    assert server(name).problems(Serving(whole)) == []


@pytest.mark.parametrize("name", ["vllm", "sglang", "transformers", "llama-cpp"])
def test_runs_and_artifacts_are_refused_with_the_server_that_can(tmp_path, name):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.resolved.yaml").write_text("")
    artifact = tmp_path / "model.penstock"
    artifact.write_bytes(b"packed")
    for path in (run, artifact):
        assert "`--server penstock` reads it" in told(server(name), Serving(path))
    assert "penstock export" in told(server(name), Serving(run))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["BertForMaskedLM"], "model_type": "bert"}, "does not say what comes next"),
        ({"architectures": ["PenstockGlmMoe"], "model_type": "penstock_glm_moe"}, "serve its run or its artifact"),
        ({"architectures": None}, "names no architecture"),
        ({"first_k_dense_replace": 2}, "without a layer of experts, serve it with `--server penstock`"),
        ({"quantization_config": {"quant_method": "compressed-tensors"}}, "no kernels for quantized experts on a CPU"),
    ],
)
def test_what_vllm_cannot_run_is_told_with_the_reason(tmp_path, changes, message):
    model = exported(tmp_path / "other", {**GLM, **changes}, HEADS)
    assert message in told(server("vllm", device="cpu"), Serving(model))


def test_a_gguf_file_is_for_llama_cpp_and_nothing_else_is(tmp_path, folder):
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF\x03")
    assert server("llama-cpp").problems(Serving(file)) == []
    assert "--for llama-cpp" in told(server("llama-cpp"), Serving(folder))
    assert "`--server llama-cpp` reads it" in told(server("vllm"), Serving(file))


def test_a_context_beyond_the_model_is_refused(folder):
    assert "at most 512" in told(server("vllm"), Serving(folder, context=513))
    assert server("vllm").problems(Serving(folder, context=512)) == []


def test_options_that_a_server_lacks_are_refused_and_not_ignored(tmp_path, folder):
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF\x03")
    refused: tuple[tuple[str, dict[str, Any]], ...] = (
        ("transformers", {"keys": ("secret",)}),
        ("transformers", {"name": "mine"}),
        ("sglang", {"keys": ("secret",)}),
        ("vllm", {"keys": ("one", "two")}),
        ("vllm", {"dtype": "int8"}),
    )
    for name, changes in refused:
        assert len(server(name).problems(Serving(folder, **changes))) == 1, (name, changes)
    for serving in (Serving(file, keys=("a,b",)), Serving(file, dtype="float32")):
        assert len(server("llama-cpp").problems(serving)) == 1, serving


def test_vllm_is_told_the_dtype_because_it_would_round_fp32(folder):
    assert flags(server("vllm").process(Serving(folder)))["--dtype"] == "float32"
    assert flags(server("vllm").process(Serving(folder, dtype="bfloat16")))["--dtype"] == "bfloat16"


def test_a_number_that_is_given_counts_more_than_the_profile_s(folder):
    numbers: dict[Profile, tuple[str, str]] = {
        "latency": ("8", "512"),
        "balanced": ("32", "2048"),
        "throughput": ("256", "8192"),
    }
    for profile, expected in numbers.items():
        said = flags(server("vllm").process(Serving(folder, profile=profile)))
        assert (said["--max-num-seqs"], said["--max-num-batched-tokens"]) == expected
    said = flags(server("vllm").process(Serving(folder, profile="latency", slots=600)))
    assert (said["--max-num-seqs"], said["--max-num-batched-tokens"]) == ("600", "600")


def test_a_key_is_a_variable_that_is_not_shown(tmp_path, folder):
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF\x03")
    for name, model in (("vllm", folder), ("llama-cpp", file)):
        process = server(name).process(Serving(model, keys=("sk-123",)))
        assert "sk-123" in process.environment.values()
        assert "sk-123" not in shown(process)
        assert "***" in shown(process)


@pytest.mark.parametrize("name", ["vllm", "sglang", "transformers"])
def test_a_missing_engine_has_the_line_that_installs_it(name):
    problem, *_ = server(name, python="/nowhere/bin/python").missing()
    assert problem.code == "missing-engine"
    assert "/nowhere/bin/python" in problem.what
    assert f"uv venv --python 3.11 ~/.venvs/{name} && uv pip install" in problem.fix
    assert f"python: ~/.venvs/{name}/bin/python" in problem.fix


def test_the_python_of_an_engine_is_the_setting_then_the_variable_then_this_one(folder, monkeypatch):
    monkeypatch.delenv(PYTHON, raising=False)
    assert server("vllm").process(Serving(folder)).arguments[0] == sys.executable
    monkeypatch.setenv(PYTHON, "/of/the/variable")
    assert server("vllm").process(Serving(folder)).arguments[0] == "/of/the/variable"
    assert server("vllm", python="/of/the/setting").process(Serving(folder)).arguments[0] == "/of/the/setting"


PARSE = """
import json, sys
from vllm.entrypoints.openai.cli_args import make_arg_parser, validate_parsed_serve_args
from vllm.utils.argparse_utils import FlexibleArgumentParser
for arguments in json.load(sys.stdin):
    parsed = make_arg_parser(FlexibleArgumentParser()).parse_args(arguments)
    validate_parsed_serve_args(parsed)
    print(json.dumps([parsed.model, parsed.port, parsed.max_num_seqs, parsed.max_num_batched_tokens, parsed.dtype]))
"""


def test_vllm_s_own_parser_takes_every_flag_of_every_profile(folder):
    python = os.environ.get(PYTHON)
    if python is None:
        pytest.skip(f"vLLM is not installed here: {PYTHON} names no Python")
    processes = [
        server("vllm", eager=eager).process(Serving(folder, profile=profile, context=256))
        for profile in get_args(Profile)
        for eager in (False, True)
    ]
    lines = json.dumps([list(process.arguments[3:]) for process in processes])
    done = subprocess.run([python, "-c", PARSE], input=lines, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    parsed = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    assert [(each[0], each[1], each[4]) for each in parsed] == [(str(folder), 8000, "float32")] * 6
    assert [tuple(each[2:4]) for each in parsed[::2]] == [(8, 512), (32, 2048), (256, 8192)]
    assert all(process.arguments[1:3] == ["-m", MODULE] for process in processes)
