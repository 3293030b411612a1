"""Each wheel installs beside what it declares and nothing else, and offers all its components there."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from members import module_of
from packaging.requirements import Requirement

from penstock.quant158 import native

ROOT = Path(__file__).parents[1]
WORKSPACE = tomllib.loads((ROOT / "pyproject.toml").read_text())
MEMBERS: dict[str, dict[str, Any]] = {
    member["project"]["name"]: member
    for pattern in WORKSPACE["tool"]["uv"]["workspace"]["members"]
    for path in sorted(ROOT.glob(f"{pattern}/pyproject.toml"))
    for member in [tomllib.loads(path.read_text())]
}


def declares_torch(distribution: str) -> bool:
    """Whether it or a member that it requires names torch; what else it requires has to come without."""
    names = {Requirement(line).name for line in MEMBERS[distribution]["project"]["dependencies"]}
    return "torch" in names or any(declares_torch(name) for name in names & MEMBERS.keys())


@pytest.mark.wheels
@pytest.mark.parametrize("distribution", MEMBERS)
def test_a_wheel_stands_alone(distribution: str, wheelhouse: Path) -> None:
    (wheel,) = wheelhouse.glob(f"{distribution.replace('-', '_')}-[0-9]*.whl")
    module = module_of(MEMBERS[distribution])
    alone = ["uv", "run", "--quiet", "--isolated", "--no-project", "--python", sys.executable, "--with", str(wheel)]
    check = ["python", str(ROOT / "tests" / "stands_alone.py"), str(wheel), distribution, module]
    light = [] if declares_torch(distribution) else ["--light"]
    links = ",".join(filter(None, [str(wheelhouse), os.environ.get("UV_FIND_LINKS")]))
    environment = {**os.environ, "UV_FIND_LINKS": links}
    result = subprocess.run([*alone, *check, *light], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.wheels
@pytest.mark.parametrize("compiler", ["works", "false"])
@pytest.mark.parametrize("distribution", ["penstock-quant158", "penstock-data-prep"])
def test_a_wheel_is_for_one_platform_where_it_is_compiled_and_for_any_without_a_compiler(
    distribution: str, compiler: str, tmp_path: Path
) -> None:
    if compiler == "works" and not native.built():
        pytest.skip("no compiler built the kernel here")
    command = ["uv", "build", "--quiet", "--wheel", "--package", distribution, "--out-dir", str(tmp_path)]
    broken = {} if compiler == "works" else {"CC": compiler, "CXX": compiler}
    subprocess.run(command, cwd=ROOT, env={**os.environ, **broken}, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    library = f"lib{distribution.replace('-', '_')}"
    has_library = any(library in name for name in zipfile.ZipFile(wheel).namelist())
    assert has_library == (compiler == "works")
    assert wheel.name.endswith("-py3-none-any.whl") != has_library
    assert "-py3-none-" in wheel.name
