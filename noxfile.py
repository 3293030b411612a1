"""What a contributor runs: `uv run nox` for everything, `nox -l` for the list, `nox -s "tests(routers)"` for one.

Every session has an environment of its own that holds exactly what its subject declares. In a shared one a package
could import what only its neighbour declares, and syncing one member into it would remove the others.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import nox

nox.options.default_venv_backend = "uv"
nox.options.reuse_venv = "yes"

ROOT = Path(__file__).parent
WORKSPACE = nox.project.load_toml(ROOT / "pyproject.toml")
OLDEST_PYTHON = WORKSPACE["project"]["requires-python"].removeprefix(">=").split(",")[0]

# Members that promise to install without torch.
LIGHT = {"hooks", "netsim", "data-prep", "run", "pages", "cli", "simulate", "report"}


@dataclass(frozen=True, slots=True)
class Member:
    """An installable of the workspace."""

    folder: Path
    distribution: str
    module: str

    @classmethod
    def read(cls, pyproject: Path) -> Member:
        settings = nox.project.load_toml(pyproject)
        module = settings["tool"]["uv"]["build-backend"]["module-name"]
        return cls(pyproject.parent.relative_to(ROOT), settings["project"]["name"], module)

    @property
    def light(self) -> bool:
        return self.folder.name in LIGHT


MEMBERS = [
    Member.read(pyproject)
    for pattern in WORKSPACE["tool"]["uv"]["workspace"]["members"]
    for pyproject in sorted(ROOT.glob(f"{pattern}/pyproject.toml"))
]

each_member = nox.parametrize("member", [nox.param(member, id=member.folder.name) for member in MEMBERS])


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
    session.run("pyright")


@nox.session
def imports(session: nox.Session) -> None:
    """Who may import whom: the contracts of `tool.importlinter`, read from the source without importing it."""
    sync(session, "--only-group", "imports")
    sources = ":".join(str(ROOT / member.folder / "src") for member in MEMBERS)
    session.run("lint-imports", "--no-cache", env={"PYTHONPATH": sources})


@nox.session
@each_member
def tests(session: nox.Session, member: Member) -> None:
    """The tests of one member, beside nothing but what it declares."""
    sync(session, "--package", member.distribution, "--group", "dev")
    session.run("pytest", str(member.folder), *session.posargs)


@nox.session
def end_to_end(session: nox.Session) -> None:
    """What crosses members: the laws of the workspace, commands from start to end, resume, bad input."""
    sync(session, "--all-packages", "--group", "test")  # plugins are not part of penstock[all]
    session.run("pytest", "tests", "--ignore=tests/test_readmes.py", "-m", "not wheels", *session.posargs)


@nox.session
def readme(session: nox.Session) -> None:
    """The code of every README and of the docs, and the commands of the root's README."""
    sync(session, "--all-packages", "--group", "test")  # plugins are not part of penstock[all]
    session.run("pytest", "tests/test_readmes.py", *session.posargs)


@nox.session
def wheels(session: nox.Session) -> None:
    """Every wheel alone: installs beside what it declares, and offers all its components there."""
    # A folder of its own each time: uv keeps the wheels of a folder that it was pointed to (UV_FIND_LINKS) by name and
    # version, and would install last week's 0.1.0 in the place of this one, `--refresh` or not (uv 0.13.9).
    with tempfile.TemporaryDirectory(dir=session.create_tmp()) as folder:
        check_wheels(session, Path(folder))


def check_wheels(session: nox.Session, folder: Path) -> None:
    session.run("uv", "build", "--quiet", "--all-packages", "--wheel", "--out-dir", str(folder), external=True)
    links = ",".join(filter(None, [str(folder), os.environ.get("UV_FIND_LINKS")]))
    for member in MEMBERS:
        (wheel,) = folder.glob(f"{member.distribution.replace('-', '_')}-[0-9]*.whl")
        alone = ["uv", "run", "--quiet", "--isolated", "--no-project", "--with", str(wheel), "python"]
        check = ["tests/stands_alone.py", str(wheel), member.distribution, member.module]
        session.run(*alone, *check, *(["--light"] if member.light else []), env={"UV_FIND_LINKS": links}, external=True)


@nox.session
def templates(session: nox.Session) -> None:
    """What `plugins new` writes, of every kind: wheels in a bare environment, where they are found and pass; and the
    tutorial, word for word, in another."""
    sync(session, "--group", "test")
    session.run("pytest", "tests/test_templates.py", "tests/test_tutorial.py", "-m", "wheels", *session.posargs)


@nox.session
def lock(session: nox.Session) -> None:
    """requirements.lock is what the pyprojects alone resolve to; `nox -s lock -- --write` renews it."""
    sync(session, "--only-group", "lock")
    copy = Path(session.create_tmp()) / "workspace"
    shutil.rmtree(copy, ignore_errors=True)
    for pyproject in ["pyproject.toml", *(member.folder / "pyproject.toml" for member in MEMBERS)]:
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
@each_member
def minimums(session: nox.Session, member: Member) -> None:
    """The tests of one member at the lowest versions that it declares.

    Covers the members without torch. `nox -s minimums -- --all` covers the others too, and downloads the 5 GB CUDA
    build of the oldest torch for it: package indexes have no smaller one for Linux.
    """
    if not member.light and "--all" not in session.posargs:
        session.skip("needs the oldest torch: `nox -s minimums -- --all`")
    # Only a folder's own floors are lowered, never those of a wheel. Without --no-config the workspace's constraint
    # would hold torch at the newest.
    until = WORKSPACE["tool"]["uv"]["exclude-newer"]
    floors = ["--quiet", "--exact", "--no-config", "--exclude-newer", until, "--resolution", "lowest-direct"]
    session.env["CI"] = "true"
    session.install(*floors, "--editable", str(member.folder), "--group", f"{member.folder}/pyproject.toml:dev")
    session.run("pytest", str(member.folder))


def sync(session: nox.Session, *subject: str) -> None:
    """Makes the session's environment hold the subject's locked dependencies and nothing else."""
    session.env["CI"] = "true"  # hypothesis then has no deadlines: that a machine is busy is no defect
    into = {"UV_PROJECT_ENVIRONMENT": session.virtualenv.location}
    session.run_install("uv", "sync", "--quiet", "--no-default-groups", *subject, env=into, external=True)
