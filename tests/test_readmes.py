"""Every Python fence of a README runs as it stands: together with the others of its file, in an empty folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
READMES = sorted(path.relative_to(ROOT) for path in (ROOT / "README.md", *ROOT.glob("[!.]*/*/README.md")))


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


@pytest.mark.parametrize("readme", READMES, ids=str)
def test_python_examples_run(readme: Path, tmp_path: Path) -> None:
    code = python_of((ROOT / readme).read_text())
    if not code.strip():
        pytest.skip("no Python in this README")
    script = tmp_path / "README.py"
    script.write_text(code)
    result = subprocess.run([sys.executable, script.name], cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, f"{readme}:\n{result.stderr}"
