"""The code of every README and of the docs runs as it stands: Python fences together with the others of their file, in
an empty folder; the root's commands one after another, on a small config in the place of the real one."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
READMES = sorted(path.relative_to(ROOT) for path in (ROOT / "README.md", *ROOT.glob("[!.]*/*/README.md")))
DOCS = sorted(path.relative_to(ROOT) for path in ROOT.glob("packages/*/docs/*.md"))


def python_of(readme: str) -> str:
    """The Python fences of a README, each on the lines that it has there, so that a traceback points into the file."""
    inside = False
    code: list[str] = []
    for line in readme.splitlines():
        if line.startswith("```"):
            inside = line.removeprefix("```").strip() == "python"
            code.append("")
        else:
            code.append(line if inside else "")
    return "\n".join(code) + "\n"


def test_code_keeps_its_lines_and_nothing_else_stays() -> None:
    readme = "Text.\n```bash\npython\n```\n\n```python\nvalue = 1\n```\nMore.\n"
    assert python_of(readme).splitlines() == ["", "", "", "", "", "", "value = 1", "", ""]


@pytest.mark.parametrize("readme", [path for path in READMES if path.parts[0] == "packages"], ids=str)
def test_a_package_shows_a_python_example(readme: Path) -> None:
    assert python_of((ROOT / readme).read_text()).strip(), f"{readme} has no ```python fence"


READER = """
import os, sys, traceback
import torch
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.chdir(line.strip())
            sys.path.insert(0, line.strip())
            log = os.open("said", os.O_WRONLY | os.O_CREAT)
            os.dup2(log, 1)
            os.dup2(log, 2)
            code = compile(open("README.py").read(), "README.py", "exec")
            main = type(sys)("__main__")
            main.__file__ = "README.py"
            sys.modules["__main__"] = main
            exec(code, main.__dict__)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(status)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def reader() -> Iterator[Callable[[Path], int]]:
    """Runs the `README.py` of a folder, there, in a process of its own: a fork of one that has imported torch, which
    would take longer than most examples. Returns the exit status; what was printed is in the file `said`."""
    command = [sys.executable, "-c", READER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        ask, answer = process.stdin, process.stdout

        def read(folder: Path) -> int:
            print(folder, file=ask, flush=True)
            return int(answer.readline())

        yield read


@pytest.mark.parametrize("readme", READMES + DOCS, ids=str)
def test_python_examples_run(readme: Path, tmp_path: Path, reader: Callable[[Path], int]) -> None:
    code = python_of((ROOT / readme).read_text())
    if not code.strip():
        pytest.skip("no Python in this README")
    (tmp_path / "README.py").write_text(code)
    status = reader(tmp_path)
    assert status == 0, f"{readme}:\n{(tmp_path / 'said').read_text()}"


def test_an_example_that_fails_says_where(tmp_path: Path, reader: Callable[[Path], int]) -> None:
    (tmp_path / "README.py").write_text("import os\nassert os.listdir() == ['wrong']\n")
    assert reader(tmp_path) == 1
    assert "line 2" in (tmp_path / "said").read_text()


def test_the_readmes_agree_on_the_speed_of_the_simulator() -> None:
    (row,) = [line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("| `netsim.py` |")]
    whole, fluid = row.split("|")[3].strip().split("; ")
    seconds, memory = whole.split(", ")
    own = " ".join((ROOT / "packages" / "netsim" / "README.md").read_text().split())
    assert f"on 8,192 GPUs take {seconds} and {memory}" in own
    assert f"messages of 256 GPUs take {fluid} (fluid)" in own


def in_shell(commands: str, folder: Path) -> str:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    arguments = ["bash", "-c", f"set -euo pipefail\n{commands}"]
    result = subprocess.run(arguments, cwd=folder, capture_output=True, text=True, timeout=1200, env=environment)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_commands_for_ternary_models_run_as_they_stand(workplace, tmp_path):
    (block,) = re.findall(r"```bash title=\"ternary\"\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    model = yaml.safe_load((ROOT / "configs" / "ternary.yaml").read_text())["model"]
    small = yaml.safe_load((workplace / "configs" / "quickstart.yaml").read_text())
    small["model"] |= {name: model[name] for name in ("quantizer", "sharing", "sub_norm")}
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "ternary.yaml").write_text(yaml.safe_dump({**small, "name": "ternary"}))
    assert "first token, ms" in in_shell(block, tmp_path)
    assert (tmp_path / "model.penstock").read_bytes().startswith(b"PENSTOCK")


def test_the_readme_commands_run_as_they_stand(workplace, tmp_path):
    readme = (ROOT / "README.md").read_text()
    (block,) = [fence for fence in re.findall(r"```bash\n(.*?)```", readme, re.S) if "penstock prepare" in fence]
    (tmp_path / "README.md").write_text(readme)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "quickstart.yaml").write_text((workplace / "configs" / "quickstart.yaml").read_text())
    python = re.findall(r"```python title=\"after a run\"\n(.*?)```", readme, re.S)
    assert len(python) == 1
    block += f"python - <<'END'\n{python[0]}END\n"
    in_shell(block.replace("train.tokens=500_000", "train.tokens=512"), tmp_path)
    (run,) = (tmp_path / "runs" / "quickstart").glob("2*")
    for name in (
        "config.input.yaml",
        "config.resolved.yaml",
        "overrides.txt",
        "environment.json",
        "plugins.lock.json",
        "status.json",
        "metrics.jsonl",
        "evaluation.json",
        "profile.json",
        "profile-corpus.json",
        "modified.json",
        "simulation.json",
        "report.html",
        "trace/train.npz",
        "trace/heldout.npz",
        "checkpoints/latest",
        "export-hf/config.json",
    ):
        assert (run / name).is_file(), name
    assert (run / "overrides.txt").read_text() == "train.tokens=512\n"
    assert json.loads((tmp_path / "run.schema.json").read_text())["properties"]["model"]
