"""Cleans a corpus: copies it into a folder, asks one stage after the other, and keeps what each decided.

Nothing is removed from the copy. A folder can be cleaned again: with the same settings it is only read, with other ones
the stages up to the first changed one are kept. What was killed goes on where it was.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any

from penstock.data_prep.atomic import locked
from penstock.data_prep.cleaning.decisions import (
    StageCounts,
    added,
    digest,
    read_counts,
    write_counts,
)
from penstock.data_prep.cleaning.documents import LONGEST_BYTES, SHARD_BYTES, Documents, Progress, copy_corpus
from penstock.data_prep.cleaning.stages import (
    DECISIONS,
    DOCUMENTS,
    SKETCHES,
    Seen,
    Stage,
    compare_all,
    counts_of_shard,
    decisions_file,
    stages_of,
)
from penstock.hooks.atomic import read_json, write_json
from penstock.hooks.contracts import Corpus
from penstock.hooks.contracts.launching import Job, Launcher, Outcome
from penstock.hooks.jobs import outcome_of
from penstock.hooks.problems import ExitCode, Problem, ProblemError
from penstock.hooks.registry import Choice, Registry

MANIFEST, FORMAT = "manifest.json", 1
JOBS = "penstock.data_prep.cleaning.stages"


@dataclass(frozen=True, slots=True)
class Cleaned:
    """What a folder holds: its stages in their order, and what each did."""

    folder: Path
    documents: int
    bytes: int
    stages: tuple[tuple[Stage, StageCounts], ...]

    @property
    def left(self) -> int:
        """Documents that no stage removed."""
        return self.documents - sum(counts.removed for _, counts in self.stages)


class InThisProcess:
    """A launcher for corpora that are small."""

    def run(self, function: str, jobs: Iterable[Job]) -> Iterator[Outcome]:
        return (outcome_of(function, job) for job in jobs)


def clean(
    corpus: Corpus,
    cleaners: Sequence[tuple[Mapping[str, Any], str]],
    folder: str | Path,
    registry: Registry,
    *,
    describe: Mapping[str, Any],
    launcher: Launcher | None = None,
    shard_bytes: int = SHARD_BYTES,
    max_ram: int | None = None,
    longest_bytes: int = LONGEST_BYTES,
    progress: Progress = lambda stage, done, total: None,
) -> Cleaned:
    """Cleans `corpus`, which `describe` names (JSON), by stages in their order: each what a config says of a cleaner,
    and the hash of its code. `progress(stage, done, total)` counts bytes of "read" and shards of stages. `max_ram`
    takes the place of that of stages which have one.

    Raises `ProblemError` for a folder of another corpus, a document of more than `longest_bytes`, a stage that fails,
    and a disk that is full; what is done is kept.
    """
    folder = Path(folder).resolve()
    describe = {**describe, "shard_bytes": shard_bytes}
    stages = stages_of(describe, cleaners)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / ".lock"):
            documents = _documents(corpus, folder, describe, progress, shard_bytes, longest_bytes)
            counts = [
                _done(folder, stages, number, registry, launcher or InThisProcess(), max_ram, progress)
                for number in range(len(stages))
            ]
            return _published(folder, documents, stages, counts)
    except OSError as error:
        place = str(error.filename or folder)
        what = f"cannot be written ({error.strerror or error})"
        fix = "free space and give the same command again: it goes on where it stopped"
        raise ProblemError(Problem("disk", what, place, fix), ExitCode.FAILED) from error


def _documents(
    corpus: Corpus,
    folder: Path,
    describe: Mapping[str, Any],
    progress: Progress,
    shard_bytes: int,
    longest_bytes: int,
) -> Documents:
    if not (folder / DOCUMENTS).exists():
        strange = [path.name for path in folder.iterdir() if not path.name.startswith(".")]
        if strange:
            what = f"contains other files, such as {strange[0]}; it was left unchanged"
            raise ProblemError(Problem("folder-in-use", what, str(folder), "choose another folder"))
        return copy_corpus(corpus, folder / DOCUMENTS, describe, progress, shard_bytes, longest_bytes)
    documents = Documents.open(folder / DOCUMENTS)
    if documents.corpus != describe:
        what = "contains documents of another corpus, or of files that have changed since"
        fix = "choose another folder, or delete this one to clean the corpus anew"
        raise ProblemError(Problem("prepared-otherwise", what, str(folder), fix))
    return documents


def _done(
    folder: Path,
    stages: Sequence[Stage],
    number: int,
    registry: Registry,
    launcher: Launcher,
    max_ram: int | None,
    progress: Progress,
) -> StageCounts:
    """What a stage did, after it has done what was left."""
    stage = stages[number]
    decisions = folder / DECISIONS / stage.name
    if (known := read_counts(decisions)) is not None:
        return known
    seen = Seen(folder, tuple(each.name for each in stages[:number]))
    decisions.mkdir(parents=True, exist_ok=True)
    cleaner = _within(max_ram, registry.choose("cleaner", stage.cleaner), registry).build()
    judges = hasattr(cleaner, "judge")
    if not judges:
        (folder / SKETCHES / stage.name).mkdir(parents=True, exist_ok=True)
    function = f"{JOBS}:{'judge' if judges else 'sketch'}_shard"
    values = _run(function, seen, stage, registry, launcher, progress)
    shards = range(len(seen.documents.shards))
    if judges:
        of_shards = [StageCounts(**value) for value in values]
    else:
        compare_all(cleaner, seen, stage.name)
        of_shards = [counts_of_shard(seen, stage.name, shard) for shard in shards]
    counts = replace(
        reduce(added, of_shards),
        sha256=digest(decisions_file(seen, stage.name, shard) for shard in shards),
        told=dict(getattr(cleaner, "told", {})),
    )
    write_counts(decisions, counts)
    shutil.rmtree(folder / SKETCHES / stage.name, ignore_errors=True)
    return counts


def _within(max_ram: int | None, choice: Choice, registry: Registry) -> Choice:
    """A stage with this limit, if it has one. The workers have ended when it compares, so it may take all."""
    settings = choice.settings
    if max_ram is None or not hasattr(settings, "max_ram"):
        return choice
    return registry.choose("cleaner", {"use": choice.entry.id, **settings.model_dump(), "max_ram": max_ram})


def _run(
    function: str, seen: Seen, stage: Stage, registry: Registry, launcher: Launcher, progress: Progress
) -> list[dict[str, Any]]:
    """Runs a job a shard, and returns what the jobs return, in any order. Raises `ProblemError` with why one failed,
    once all others are done."""
    selection, total = asdict(registry.selection), len(seen.documents.shards)
    jobs = [
        Job(
            f"{stage.name}/{shard:05d}",
            {
                "folder": str(seen.folder),
                "before": list(seen.before),
                "stage": stage.name,
                "cleaner": dict(stage.cleaner),
                "selection": selection,
                "shard": shard,
            },
        )
        for shard in range(total)
    ]
    failed: Outcome | None = None
    values: list[dict[str, Any]] = []
    for done, outcome in enumerate(launcher.run(function, jobs), 1):
        progress(stage.name, done, total)
        if outcome.value is None:
            failed = failed or outcome
        else:
            values.append(outcome.value)
    if failed is not None:
        raise ProblemError(_problems_of(failed), ExitCode.FAILED)
    return values


def _problems_of(failed: Outcome) -> list[Problem]:
    """Why a job of a stage failed: with the document and the advice that the stage gave, if it gave some."""
    fix = "mend the cause and give the same command again: the other shards are kept"
    problems = [Problem(**each) for each in failed.problems] or [Problem("stage-failed", failed.reason)]
    return [
        replace(each, where=f"{failed.name}: {each.where}" if each.where else failed.name, fix=each.fix or fix)
        for each in problems
    ]


def _published(folder: Path, documents: Documents, stages: Sequence[Stage], counts: Sequence[StageCounts]) -> Cleaned:
    size = sum(shard.bytes for shard in documents.shards)
    cleaned = Cleaned(folder, len(documents), size, tuple(zip(stages, counts, strict=True)))
    manifest = {
        "format": FORMAT,
        "documents": cleaned.documents,
        "bytes": size,
        "stages": [{**asdict(stage), "did": asdict(each)} for stage, each in cleaned.stages],
    }
    if not (folder / MANIFEST).exists() or read_json(folder / MANIFEST) != manifest:
        write_json(folder / MANIFEST, manifest)
    for old in (folder / DECISIONS).glob("*") if stages else ():
        if old.name not in {stage.name for stage in stages}:
            shutil.rmtree(old)
    shutil.rmtree(folder / SKETCHES, ignore_errors=True)
    return cleaned


def read_cleaned(folder: Path) -> Cleaned:
    """What a folder holds whose cleaning has ended. Raises `ProblemError` where it has not."""
    try:
        manifest = read_json(folder / MANIFEST)
    except FileNotFoundError:
        what = "holds no cleaned corpus" if not (folder / DOCUMENTS).exists() else "holds a cleaning that has not ended"
        raise ProblemError(Problem("not-cleaned", what, str(folder), "run `penstock data clean` first")) from None
    except ValueError as error:
        raise ProblemError(Problem("damaged-file", f"is damaged ({error})", str(folder / MANIFEST))) from error
    if manifest.get("format") != FORMAT:
        what = f"has format {manifest.get('format')}, and this release reads {FORMAT}"
        raise ProblemError(Problem("other-format", what, str(folder / MANIFEST), "clean the corpus again"))
    stages = tuple(
        (Stage(each["name"], each["cleaner"], each["code"]), StageCounts(**each["did"])) for each in manifest["stages"]
    )
    return Cleaned(folder, manifest["documents"], manifest["bytes"], stages)
