"""What a contributor runs: `uv run nox` for everything, `nox -l` for the list, `nox -s tests -- packages/routers` for
the tests of one member, `nox -s light -- packages/netsim -k ring` for some of one without torch.

Tests run on every core, in two environments: one has every member, the other only those that need no torch. That a
member declares what it imports is proven from the source by `tests/test_declarations.py`, and by `wheels`, which
installs each wheel alone.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nox
from packaging.requirements import Requirement

nox.options.default_venv_backend = "uv"
nox.options.reuse_venv = "yes"

ROOT = Path(__file__).parent
WORKSPACE = nox.project.load_toml(ROOT / "pyproject.toml")
OLDEST_PYTHON, NEWEST_PYTHON = "3.11", "3.13"
# A worker a core with one thread each: more threads would fight over the cores, and small models run faster on one.
# CI: that an example of hypothesis is slow on a busy machine is no defect.
SIDE_BY_SIDE = ["-n", "logical", "--maxprocesses", "8", "--dist", "worksteal", "--durations", "20"]
QUIET = {"OMP_NUM_THREADS": "1", "CI": "true"}
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # images set it, and every process would compile torch's modules again


@dataclass(frozen=True, slots=True)
class Member:
    """An installable of the workspace."""

    folder: Path
    settings: dict[str, Any]

    @property
    def distribution(self) -> str:
        return self.settings["project"]["name"]

    def requires(self, extra: str = "", group: str = "") -> list[Requirement]:
        """What it declares: what it always needs, or what an extra or a dependency group adds."""
        project = self.settings["project"]
        if group:
            lines = self.settings["dependency-groups"][group]
        elif extra:
            lines = project["optional-dependencies"][extra]
        else:
            lines = project["dependencies"]
        return [Requirement(line) for line in lines]


MEMBERS = {
    member.distribution: member
    for pattern in WORKSPACE["tool"]["uv"]["workspace"]["members"]
    for pyproject in sorted(ROOT.glob(f"{pattern}/pyproject.toml"))
    for member in [Member(pyproject.parent.relative_to(ROOT), nox.project.load_toml(pyproject))]
}


def needs_torch(requirements: list[Requirement]) -> bool:
    """Whether one of them is torch, or a member that needs it."""
    return any(
        requirement.name == "torch" or (requirement.name in MEMBERS and needs_torch(of_member(requirement)))
        for requirement in requirements
    )


def of_member(requirement: Requirement) -> list[Requirement]:
    member = MEMBERS[requirement.name]
    return [*member.requires(), *(each for extra in requirement.extras for each in member.requires(extra))]


LIGHT = [each for each in MEMBERS.values() if not needs_torch([*each.requires(), *each.requires(group="dev")])]
HEAVY = [each for each in MEMBERS.values() if each not in LIGHT]


@nox.session
def lint(session: nox.Session) -> None:
    """Style and format."""
    sync(session, "--only-group", "lint")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")


@nox.session
def types(session: nox.Session) -> None:
    """Types, in an environment that has every member, extra and test library."""
    sync(session, "--all-packages", "--all-extras", "--all-groups")
    session.run("pyright", "--threads")


@nox.session
def imports(session: nox.Session) -> None:
    """Who may import whom: the contracts of `tool.importlinter`, read from the source without importing it."""
    sync(session, "--only-group", "imports")
    sources = ":".join(str(ROOT / member.folder / "src") for member in MEMBERS.values())
    session.run("lint-imports", "--no-cache", env={"PYTHONPATH": sources})


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation site, in `site/`: every page and link, and the reference from docstrings."""
    sync(session, "--only-group", "docs")
    calm = {"NO_MKDOCS_2_WARNING": "1"}  # the theme's notice about a successor
    session.run("mkdocs", "build", "--quiet", "--strict", *session.posargs, env=calm)


@nox.session
@nox.parametrize("version", [nox.param(version, id=version) for version in (OLDEST_PYTHON, NEWEST_PYTHON)])
def light(session: nox.Session, version: str) -> None:
    """Tests the members that need no torch, without torch, on the oldest and the newest Python."""
    python = interpreter(version)
    if python is None:
        session.skip(f"this machine has no Python {version}")
    members = [part for member in LIGHT for part in ("--package", member.distribution)]
    sync(session, "--python", python, *members, "--group", "dev")
    run_tests(session, *(str(member.folder) for member in LIGHT))


@nox.session
def tests(session: nox.Session) -> None:
    """The tests of the other members, and what crosses members: the workspace's laws, commands from start to end,
    resume, bad input, the code of every README and of the docs."""
    sync(session, "--all-packages", "--group", "test", "--group", "dev")
    run_tests(session, *(str(member.folder) for member in HEAVY), "tests", "-m", "not wheels")


@nox.session(default=False)
def ray(session: nox.Session) -> None:
    """The launcher of Ray clusters, with Ray and a cluster of this machine. `light` tests it without."""
    sync(session, "--package", "penstock-ray", "--extra", "ray", "--group", "dev")
    session.run("pytest", str(MEMBERS["penstock-ray"].folder), *session.posargs, env=QUIET)


@nox.session
def wheels(session: nox.Session) -> None:
    """Every wheel alone, where it offers all its components beside what it declares; what `plugins new` writes, as
    wheels in a bare environment; and the tutorial, word for word, in another."""
    sync(session, "--group", "test")
    files = [f"tests/test_{subject}.py" for subject in ("wheels", "templates", "tutorial")]
    run_tests(session, *files, "-m", "wheels")


@nox.session
def kernels(session: nox.Session) -> None:
    """The compiled kernels and the decoder give the same bits on x86 and, emulated by QEMU, on ARM."""
    arm = ["aarch64-linux-gnu-g++", "qemu-aarch64-static"]
    if missing := [tool for tool in ("c++", *arm) if shutil.which(tool) is None]:
        session.skip(f"needs {', '.join(missing)} (Debian: g++-aarch64-linux-gnu, qemu-user-static)")
    session.install("cmake>=3.18", "ninja")
    folder = Path(session.create_tmp())
    printed = check_kernels(session, folder / "here", [], [])
    target = ["-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64", f"-DCMAKE_CXX_COMPILER={arm[0]}"]
    printed += check_kernels(session, folder / "arm", target, [arm[1], "-L", "/usr/aarch64-linux-gnu"])
    session.log("\n".join(printed))
    if len({line.split()[-1] for line in printed}) != 1 or not any(line.startswith("neon ") for line in printed):
        session.error("the kernels differ, or the one of ARM did not run")


def check_kernels(session: nox.Session, folder: Path, target: list[str], emulator: list[str]) -> list[str]:
    """What `every_kernel.cpp` prints, built for a target."""
    member = ROOT / "packages" / "quant158"
    build = ["-S", str(member), "-B", str(folder), "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release", "-DCHECK_KERNELS=ON"]
    session.run("cmake", *build, *target, silent=True)
    session.run("cmake", "--build", str(folder), silent=True)
    printed = session.run(*emulator, str(folder / "every_kernel"), silent=True, external=True)
    return str(printed).splitlines()


@nox.session
def lock(session: nox.Session) -> None:
    """requirements.lock is what the pyprojects alone resolve to; `nox -s lock -- --write` renews it."""
    sync(session, "--only-group", "lock")
    copy = Path(session.create_tmp()) / "workspace"
    shutil.rmtree(copy, ignore_errors=True)
    for pyproject in ["pyproject.toml", *(member.folder / "pyproject.toml" for member in MEMBERS.values())]:
        (copy / pyproject).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / pyproject, copy / pyproject)
    of_users = {"UV_FIND_LINKS": None}  # a local wheel would put its hash in the place of the index's
    session.run("uv", "lock", "--quiet", "--directory", str(copy), env=of_users)
    bare = ["--no-emit-workspace", "--no-header", "--no-annotate", "--output-file", "requirements.lock"]
    session.run("uv", "export", "--quiet", "--directory", str(copy), "--all-packages", *bare, env=of_users)
    if "--write" in session.posargs:
        shutil.copy(copy / "requirements.lock", ROOT)
    elif (copy / "requirements.lock").read_text() != (ROOT / "requirements.lock").read_text():
        session.error("requirements.lock is out of date: `uv run nox -s lock -- --write` renews it")


@nox.session(python=OLDEST_PYTHON)
@nox.parametrize("member", [nox.param(member, id=member.folder.name) for member in MEMBERS.values()])
def minimums(session: nox.Session, member: Member) -> None:
    """The tests of one member at the lowest versions that it declares.

    Covers the members without torch. `nox -s minimums -- --all` covers the others too, and downloads the 5 GB CUDA
    build of the oldest torch for it: package indexes have no smaller one for Linux.
    """
    if member in HEAVY and "--all" not in session.posargs:
        session.skip("needs the oldest torch: `nox -s minimums -- --all`")
    # Only a folder's own floors are lowered, never those of a wheel. Without --no-config the workspace's constraint
    # would hold torch at the newest.
    until = WORKSPACE["tool"]["uv"]["exclude-newer"]
    floors = ["--quiet", "--exact", "--no-config", "--exclude-newer", until, "--resolution", "lowest-direct"]
    declared = ["--editable", str(member.folder), "--group", f"{member.folder}/pyproject.toml:dev"]
    session.install(*floors, *declared, "pytest-xdist>=3.6")
    session.run("pytest", *SIDE_BY_SIDE, str(member.folder), env=QUIET)


def run_tests(session: nox.Session, *arguments: str) -> None:
    """Runs pytest on every core, with what follows `--`: paths there take the place of those among the arguments."""
    chosen = any((ROOT / argument.split("::")[0]).exists() for argument in session.posargs)
    kept = [argument for argument in arguments if not (chosen and (ROOT / argument).exists())]
    session.run("pytest", *SIDE_BY_SIDE, *kept, *session.posargs, env=QUIET)


def sync(session: nox.Session, *subject: str) -> None:
    """Makes the session's environment hold the subject's locked dependencies and nothing else."""
    into = {"UV_PROJECT_ENVIRONMENT": session.virtualenv.location}
    session.run_install("uv", "sync", "--quiet", "--no-default-groups", *subject, env=into, external=True)


def interpreter(version: str) -> str | None:
    """A Python of this version: this one, one that uv finds, or one of pyenv's that is installed and not chosen."""
    if version == f"{sys.version_info.major}.{sys.version_info.minor}":
        return sys.executable
    find = ["uv", "python", "find", "--no-project", "--no-python-downloads", version]
    found = subprocess.run(find, capture_output=True, text=True).stdout.strip()
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    return found or next(map(str, sorted(pyenv.glob(f"versions/{version}.*/bin/python"))), None)
