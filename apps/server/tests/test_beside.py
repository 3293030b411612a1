"""Servers of others by the command line: what is printed, what is refused, and a process that ends with its command."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from penstock.cli.main import run
from penstock.hooks.problems import ProblemError

PENSTOCK = str(Path(sys.executable).with_name("penstock"))
# A third party's server: Python's own of files, and a child of it that ignores SIGTERM.
PLUGIN = '''
import shutil, sys
from penstock.hooks import Component, Problem, hookimpl
from penstock.hooks.contracts import ServerProcess, Serving

SERVE = """
import http.server, pathlib, signal, subprocess, sys
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(600)"
child = subprocess.Popen([sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE, start_new_session=True)
child.stdout.readline()
pathlib.Path(sys.argv[2]).write_text(str(child.pid))
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), http.server.SimpleHTTPRequestHandler).serve_forever()
"""


class Files:
    def problems(self, serving):
        return []

    def process(self, serving):
        arguments = [sys.executable, "-c", SERVE, str(serving.port), str(serving.model / "pid")]
        return ServerProcess(arguments, {}, frozenset(), "/", serving.name or "files")

    def missing(self):
        return []


@hookimpl
def servers():
    return [Component("server", "files", "files_server:Files", "Serves files", contract=2)]
'''


@pytest.fixture(scope="module")
def plugin(workplace: Path) -> Path:
    file = workplace / "files_server.py"
    file.write_text(PLUGIN)
    return file


@pytest.fixture(scope="module")
def exported(trained: Path, workplace: Path) -> Path:
    folder = workplace / "exported"
    run(["export", str(trained), "--for", "vllm", "--format", "{use: hf, dtype: float32}", "--out", str(folder)])
    return folder


def refused(*arguments: object) -> str:
    with pytest.raises(ProblemError) as raised:
        run(["serve", *map(str, arguments)])
    return str(raised.value)


def test_a_command_is_printed_with_its_environment_and_nothing_starts(exported, capsys):
    run(["serve", str(exported), "--server", "vllm", "--print-command", "--api-key", "sk-1", "--profile", "latency"])
    line = capsys.readouterr().out
    assert f"-m vllm.entrypoints.openai.api_server --model {exported} --served-model-name exported" in line
    assert "--dtype float32 --max-num-seqs 8 --max-num-batched-tokens 512" in line
    assert "VLLM_API_KEY='***'" in line or "VLLM_API_KEY=***" in line
    assert "sk-1" not in line


def test_our_own_command_is_printed_with_the_numbers_of_its_profile(trained, capsys):
    run(["serve", str(trained), "--print-command", "--profile", "throughput", "--queue", "7"])
    line = capsys.readouterr().out
    assert f"-m penstock.cli serve {trained}" in line
    assert "--slots 128 --chunk 2048 --context 2048" in line
    assert line.rstrip().endswith("--queue 7")


def test_what_a_server_cannot_run_is_told_before_anything_starts(trained, exported, tmp_path):
    assert f"`penstock export {trained} --for vllm --out FOLDER`" in refused(trained, "--server", "vllm")
    assert "`penstock export RUN --for llama-cpp" in refused(exported, "--server", "llama-cpp", "--print-command")
    assert "'vllm' does not take this option" in refused(exported, "--server", "vllm", "--queue", 5)
    assert "--dtype: our server computes" in refused(trained, "--dtype", "bfloat16")
    assert "unknown server 'vlm', did you mean 'vllm'" in refused(exported, "--server", "vlm")
    missing = refused(exported, "--server", "{use: vllm, python: /nowhere/python}", "--port", 0)
    assert "uv venv --python 3.11 ~/.venvs/vllm && uv pip install" in missing


def test_a_checkpoint_whose_head_is_tied_is_refused_by_vllm(trained, workplace):
    tied = workplace / "tied"
    run(["export", str(trained), "--out", str(tied)])
    config = json.loads((tied / "config.json").read_text())
    if not config["tie_word_embeddings"]:  # the tiny run has a head of its own: take it away
        (tied / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
        _without_head(tied / "model.safetensors")
    assert "would serve noise" in refused(tied, "--server", "vllm", "--print-command")


def _without_head(file: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(file)
    tensors.pop("lm_head.weight")
    save_file(tensors, file, metadata={"format": "pt"})


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_no_process_of_a_server_outlives_its_command(plugin, tmp_path, eventually: Callable[..., None], ending):
    command = [PENSTOCK, "--plugin", str(plugin), "serve", str(tmp_path), "--server", "files", "--port", "0"]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen([*command, "--name", "mine"], stderr=log, start_new_session=True)
    try:
        eventually(lambda: bool(re.search(r"mine: http://127.0.0.1:\d+/v1", (tmp_path / "log").read_text())))
        child = int((tmp_path / "pid").read_text())
        process.send_signal(ending)
        assert process.wait(30) == (-signal.SIGKILL if ending == signal.SIGKILL else 0)
        eventually(lambda: _gone(child))
    finally:
        process.kill()


def test_a_server_that_dies_ends_the_command_with_an_error(plugin, tmp_path, eventually: Callable[..., None]):
    command = [PENSTOCK, "--plugin", str(plugin), "serve", str(tmp_path), "--server", "files", "--port", "0"]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, stderr=log, start_new_session=True)
    try:
        eventually(lambda: "/v1" in (tmp_path / "log").read_text())
        parent = int(Path(f"/proc/{(tmp_path / 'pid').read_text()}/stat").read_text().rpartition(")")[2].split()[1])
        os.kill(parent, signal.SIGKILL)
        assert process.wait(30) == 1
        assert "it ended with exit code 137" in (tmp_path / "log").read_text()
    finally:
        process.kill()


def test_an_export_is_verified_by_our_own_server(trained, workplace):
    folder = workplace / "verified"
    arguments = ["export", str(trained), "--format", "{use: hf, dtype: float32}", "--verify", "penstock"]
    result: Any = run([*arguments, "--out", str(folder)])
    prompts = result["verified"]["prompts"]
    assert len(prompts) == 4
    assert all(each["margin"] is None and each["equal"] == each["tokens"] > 0 for each in prompts), prompts


def _gone(pid: int) -> bool:
    for _ in range(3):
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in ("Z", "X")
        except FileNotFoundError:
            return True
        except ProcessLookupError:
            time.sleep(0.01)
    return True
