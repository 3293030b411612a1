"""One small trained run that the tests across packages share, and a config to make others from."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock

from penstock.cli.main import run as run_command

sys.path.append(str(Path(__file__).parent))  # for `crash`, which the benchmark of kills uses too
import crash

Once = Callable[[str, Callable[[Path], None]], Path]

CONFIG = """\
name: quickstart
data:
  corpus: {{use: text, paths: ["{corpus}"]}}
  tokenizer: {{vocab_size: 400}}
  sequence_length: 32
  heldout_share: 0.3
model:
  use: glm-moe
  preset: quickstart
  hidden_size: 32
  num_hidden_layers: 3
  num_attention_heads: 2
  num_key_value_heads: 1
  head_dim: 16
  intermediate_size: 32
  moe_intermediate_size: 16
  router: {{use: sigmoid-topk, k: 2}}
  balance:
    - {{use: loss-free, rate: 0.01}}
    - {{use: switch-loss, weight: 0.001}}
  sharing: [{{use: tied-embeddings}}]
train:
  tokens: 1536
  batch_size: 4
  micro_batch_size: 2
  evaluate_every: 4
  checkpoint_every: 5
evaluate:
  prompts: ["def "]
  sample_tokens: 8
"""


@pytest.fixture(scope="session", autouse=True)
def _few_threads() -> None:
    """Small models run faster on one thread, and the same bits need the same number of threads."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `configs/quickstart.yaml`, a small version of the real one."""
    folder = tmp_path_factory.mktemp("workplace")
    corpus = crash.write_corpus(folder / "corpus")
    (folder / "configs").mkdir()
    (folder / "configs" / "quickstart.yaml").write_text(CONFIG.format(corpus=corpus))
    return folder


@pytest.fixture(scope="session")
def config_file(workplace: Path) -> Path:
    return workplace / "configs" / "quickstart.yaml"


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """A folder by name that is filled once for all workers; who is later waits, and no test may write there."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", uuid.uuid4().hex)
    own = tmp_path_factory.getbasetemp()
    root = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own

    def filled(name: str, fill: Callable[[Path], None]) -> Path:
        folder = root / f"{name}-{run}"
        with FileLock(f"{folder}.lock"):
            done = Path(f"{folder}.done")
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)  # of a worker that failed
                folder.mkdir()
                fill(folder)
                done.touch()
        return folder

    return filled


@pytest.fixture(scope="session")
def wheelhouse(once: Once) -> Path:
    """A folder with a wheel of every member, built now. Its name is new every time: uv keeps the wheels of a folder by
    name and version, and would install last week's 0.1.0 in the place of this one."""

    def build(folder: Path) -> None:
        command = ["uv", "build", "--quiet", "--all-packages", "--wheel", "--out-dir", str(folder)]
        subprocess.run(command, cwd=Path(__file__).parents[1], check=True)

    return once("wheelhouse", build)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[crash.CrashServer]:
    with crash.CrashServer(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture(scope="session")
def tiny(workplace: Path) -> Path:
    """The config of the runs that are killed."""
    path = workplace / "configs" / "tiny.yaml"
    path.write_text(crash.CONFIG.format(corpus=workplace / "corpus"))
    return path


@pytest.fixture(scope="session")
def unkilled(server: crash.CrashServer, tiny: Path, workplace: Path) -> crash.Life:
    """The run of `tiny` that nothing happened to. What it compares with is never written to."""
    crash.kill_and_resume(server, tiny, workplace / "first")  # of which the first pays for imports
    return crash.kill_and_resume(server, tiny, workplace / "unkilled")


@pytest.fixture
def command(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Runs `penstock ...` in this process, in the workplace; returns what the command returns."""
    monkeypatch.chdir(workplace)
    return lambda *arguments: run_command([str(argument) for argument in arguments])


@pytest.fixture(scope="session")
def trained(workplace: Path, config_file: Path) -> Path:
    """The run directory of a finished run."""
    before = Path.cwd()
    os.chdir(workplace)
    try:
        result = run_command(["train", str(config_file), "--runs", str(workplace / "shared-runs"), "--json"])
    finally:
        os.chdir(before)
    return Path(result["run_dir"])


@pytest.fixture
def read_json() -> Callable[[Path], Any]:
    return lambda path: json.loads(path.read_text())
