"""A folder of files that is complete or absent.

Files are written to a hidden sibling folder, flushed to disk, and renamed into place; an interrupted or failed export
leaves the previous folder unchanged. A list of the files stays in the folder, so that a later export replaces only an
earlier export: a note or a fine-tuned adapter that somebody put next to the weights stops it.
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from penstock.hooks.atomic import sync, sync_files
from penstock.hooks.json_text import parse_json
from penstock.hooks.problems import ExitCode, Problem, ProblemError

LISTING = "penstock_export.json"
_FORMAT = 1


@contextmanager
def replaced_folder(folder: Path) -> Iterator[Path]:
    """Yields an empty folder to write files into; on leaving without an error it becomes `folder`.

    Raises `ProblemError` if `folder` contains anything that no earlier export wrote, or if the file system refuses.
    Replacing an earlier export takes two renames: a crash between them leaves the old one in a hidden sibling folder.
    """
    folder = folder.resolve()
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}")
    _refuse_foreign(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
        yield temporary
        _list_files(temporary)
        sync_files(temporary)
        _refuse_foreign(folder)
        _move(temporary, folder)
    except OSError as error:
        fix = "check free space and permissions; a mount point cannot be replaced, use a folder inside it"
        problem = Problem("cannot-write", f"writing failed ({error})", str(folder), fix)
        raise ProblemError(problem, ExitCode.FAILED) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _refuse_foreign(folder: Path) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ProblemError(Problem("not-a-folder", "this is a file", str(folder), "choose another folder"))
    foreign = sorted({path.name for path in folder.iterdir()} - _listed(folder))
    if foreign:
        shown = ", ".join(foreign[:5]) + (f" and {len(foreign) - 5} more" if len(foreign) > 5 else "")
        what = f"the folder contains files that no export wrote: {shown}"
        raise ProblemError(Problem("folder-not-empty", what, str(folder), "choose another folder or move them away"))


def _listed(folder: Path) -> set[str]:
    try:
        listing = parse_json((folder / LISTING).read_bytes())
        return {LISTING, *listing["files"]} if listing["format"] == _FORMAT else set()
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def _list_files(folder: Path) -> None:
    files = sorted(path.name for path in folder.iterdir())
    (folder / LISTING).write_text(json.dumps({"format": _FORMAT, "files": files}, indent=2) + "\n", encoding="utf-8")


def _move(temporary: Path, folder: Path) -> None:
    retired = temporary.with_name(f"{temporary.name}.old")
    replacing = folder.exists()
    if replacing:
        folder.rename(retired)
    try:
        temporary.rename(folder)
    except OSError:
        if replacing:
            retired.rename(folder)
        raise
    sync(folder.parent)
    shutil.rmtree(retired, ignore_errors=True)
