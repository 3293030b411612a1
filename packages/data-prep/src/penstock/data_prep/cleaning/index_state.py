"""What an index holds: its settings, its runs, and the documents in them that were removed. `index.json` says it."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.data_prep.cleaning.runs import PLACE
from penstock.hooks.atomic import read_json, replacing, write_json
from penstock.hooks.problems import Problem, ProblemError, failed

MANIFEST, FORMAT = "index.json", 1
_OURS = re.compile(r"run-\d+|removed-\d+\.npy|\.(run-\d+|removed-\d+\.npy|index\.json)\.partial")
AGAIN = "restore it from a copy, or build the index again"


@dataclass(frozen=True, slots=True)
class RunLine:
    """A run: its number, what it counts, and the SHA-256 of its files."""

    number: int
    documents: int
    entries: int
    sha256: Mapping[str, str]


@dataclass(frozen=True)
class IndexState:
    """The state of the index in `folder`. `next` numbers the files that the next change writes, `removed_file` names
    the list of removed documents."""

    folder: Path
    settings: Mapping[str, Any]
    runs: tuple[RunLine, ...] = ()
    next: int = 0
    removed_file: str | None = None

    @classmethod
    def read(cls, folder: Path) -> IndexState:
        """Raises `ProblemError` for a folder without an index, another format, and a file that is damaged."""
        path = folder / MANIFEST
        try:
            found = read_json(path)
        except (FileNotFoundError, NotADirectoryError):
            raise _no_index(folder) from None
        except (OSError, ValueError) as error:
            raise failed("damaged-file", str(error), str(path), AGAIN) from error
        if not isinstance(found, dict) or "settings" not in found:
            raise _no_index(folder)
        if found.get("format") != FORMAT:
            what = f"has format {found.get('format')}, and this release reads {FORMAT}"
            raise ProblemError(Problem("other-format", what, str(path), "build the index again"))
        if found.pop("sha256", None) not in (_hash(found), None):  # None: of an earlier release
            raise failed("damaged-file", "was changed since it was written", str(path), AGAIN)
        try:
            runs = tuple(RunLine(**run) for run in found["runs"])
            return cls(folder, dict(found["settings"]), runs, int(found["next"]), found["removed"])
        except (KeyError, TypeError, ValueError) as error:
            raise failed("damaged-file", f"is damaged ({error!r})", str(path), AGAIN) from error

    @cached_property
    def removed(self) -> NDArray[np.uint32]:
        """(number of the run, place) of all documents that were removed [N, 2]."""
        if self.removed_file is None:
            return np.empty((0, 2), PLACE)
        path = self.folder / self.removed_file
        try:
            return np.load(path).reshape(-1, 2)
        except (OSError, ValueError, EOFError) as error:
            raise failed("damaged-file", str(error), str(path), AGAIN) from error

    def other_settings(self, settings: Mapping[str, Any]) -> list[str]:
        """Names of the settings that differ."""
        return [name for name in {**self.settings, **settings} if self.settings.get(name) != settings.get(name)]

    def require_settings(self, settings: Mapping[str, Any]) -> None:
        """Raises `ProblemError` that names the settings which differ."""
        if names := self.other_settings(settings):
            differ = ", ".join(f"{name} {self.settings.get(name)} instead of {settings.get(name)}" for name in names)
            fix = "take the index's settings, or build another index"
            raise ProblemError(Problem("other-index", f"the index was made with {differ}", str(self.folder), fix))

    def folder_of(self, number: int) -> Path:
        """Of a run."""
        return self.folder / f"run-{number}"

    def bytes(self) -> int:
        """Of the files that count."""
        names = [MANIFEST, *([self.removed_file] if self.removed_file else [])]
        files = [self.folder / name for name in names]
        files += [self.folder_of(run.number) / name for run in self.runs for name in run.sha256]
        return sum(file.stat().st_size for file in files)

    def after(self, runs: Sequence[RunLine], gone: Sequence[tuple[int, int]]) -> IndexState:
        """The state with these runs, in which documents at (number of the run, place) are gone too."""
        removed = np.concatenate((self.removed, np.array(gone, PLACE).reshape(-1, 2)))
        removed = removed[np.isin(removed[:, 0], [run.number for run in runs])]
        name = f"removed-{self.next}.npy" if len(removed) else None
        state = replace(self, runs=tuple(runs), next=self.next + 1, removed_file=name)
        state.__dict__["removed"] = removed
        return state

    def write(self) -> None:
        """Makes this the state of the index, in one step, and deletes what no longer counts."""
        if self.removed_file:
            with replacing(self.folder / self.removed_file) as file:
                np.save(file, self.removed)
        manifest = {
            "format": FORMAT,
            "settings": self.settings,
            "next": self.next,
            "runs": [asdict(run) for run in self.runs],
            "removed": self.removed_file,
        }
        write_json(self.folder / MANIFEST, {**manifest, "sha256": _hash(manifest)})
        self.delete_leftovers()

    def delete_leftovers(self) -> None:
        """Deletes files of the index that do not count; others are not touched."""
        named = {self.removed_file, *(self.folder_of(run.number).name for run in self.runs)}
        for path in self.folder.iterdir():
            if _OURS.fullmatch(path.name) and path.name not in named:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _hash(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True, default=str).encode()).hexdigest()


def _no_index(folder: Path) -> ProblemError:
    fix = "name the folder of one, or begin one in an empty folder with `penstock data index add`"
    return ProblemError(Problem("no-index", "holds no index of near duplicates", str(folder), fix))
