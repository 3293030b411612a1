"""`penstock data clean`: a file that is checked, and the folder that comes of it."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

from penstock.cli import output
from penstock.cli.stage_progress import StageProgress
from penstock.data.config import CleanConfig
from penstock.data_prep.cleaning.clean import Cleaned, clean
from penstock.data_prep.cleaning.cleaned import without_undone
from penstock.data_prep.cleaning.decisions import StageCounts, read_counts
from penstock.data_prep.cleaning.memory import workers_within
from penstock.data_prep.cleaning.stages import DECISIONS, Stage, stages_of
from penstock.data_prep.cleaning.urls import WITHOUT_URL
from penstock.data_prep.files import find_files
from penstock.data_prep.prepare import Fingerprinted
from penstock.hooks.config import ConfigDocument, read_config, validate
from penstock.hooks.contracts.launching import Launcher
from penstock.hooks.inputs import inputs_of
from penstock.hooks.problems import ExitCode, Problem, ProblemError
from penstock.hooks.registry import Choice, Registry
from penstock.run.launchers.local import LocalLauncher
from penstock.run.plugin_lock import content_hash, require_importable
from penstock.run.records.record import Record


@dataclass(frozen=True, slots=True)
class StageResult(Record):
    """What one stage did; the counts are None until it is done."""

    stage: str
    did: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class CleanResult(Record):
    """What a folder holds, without what was undone. `documents` and `left` are None before the corpus is read, `left`
    until all is done. `back` documents were taken back, and later stages never judged `unjudged` of them."""

    folder: str
    documents: int | None
    left: int | None
    stages: list[StageResult]
    back: int = 0
    unjudged: int = 0


@dataclass(frozen=True)
class Cleaning:
    """A file of `penstock data clean` whose components can be imported."""

    settings: CleanConfig
    registry: Registry

    @classmethod
    def load(cls, path: Path, overrides: tuple[str, ...], registry: Registry) -> Cleaning:
        document = read_config(path, overrides)
        settings = validate(CleanConfig, document, registry)
        require_importable(settings)
        _require_buildable(settings.stages, document)
        cleaning = cls(settings, registry)
        if settings.max_ram is not None:
            workers_within(settings.max_ram, cleaning.shard_bytes)
        return cleaning

    def cleaners(self) -> list[tuple[dict[str, Any], str]]:
        """What the file says of each stage, and a hash of its code and of the files that it reads."""
        written = self.settings.model_dump(mode="json", include={"stages"})["stages"]
        return [(each, _hash(choice)) for each, choice in zip(written, self.settings.stages, strict=True)]

    def describe(self, corpus: Any) -> dict[str, Any]:
        """What the corpus is: its settings, and a fingerprint if it has one."""
        written = self.settings.model_dump(mode="json", include={"corpus"})["corpus"]
        return {**written, "fingerprint": corpus.fingerprint() if isinstance(corpus, Fingerprinted) else None}

    @property
    def shard_bytes(self) -> int:
        return round(self.settings.shard_mb * 1e6)

    def launcher(self, logs: Path) -> Launcher:
        """Who works on the shards, with as many workers as memory allows."""
        choice = self.settings.launcher or self.registry.choose("launcher", "local")
        launcher = choice.build(folder=logs)
        if self.settings.max_ram is not None:
            if not isinstance(launcher, LocalLauncher):
                what = f"counts the processes of this machine, not those of `{choice.entry.component.name}`"
                raise ProblemError(Problem("bad-value", what, "max_ram", "use the launcher `local`, or leave it out"))
            launcher.workers = min(launcher.workers, workers_within(self.settings.max_ram, self.shard_bytes))
        return launcher

    def run(self, folder: Path) -> Cleaned:
        launcher = self.launcher(folder / ".logs")
        corpus = self.settings.corpus.build()
        with StageProgress() as progress:
            return clean(
                corpus,
                self.cleaners(),
                folder,
                self.registry,
                describe=self.describe(corpus),
                launcher=launcher,
                shard_bytes=self.shard_bytes,
                max_ram=self.settings.max_ram,
                longest_bytes=round(self.settings.longest_mb * 1e6),
                progress=progress,
            )

    def planned(self, folder: Path) -> list[tuple[Stage, StageCounts | None]]:
        """The stages, with the counts of those that are done."""
        corpus = self.settings.corpus.build()
        stages = stages_of({**self.describe(corpus), "shard_bytes": self.shard_bytes}, self.cleaners())
        found = [(stage, read_counts(folder / DECISIONS / stage.name)) for stage in stages]
        done = [(stage, counts) for stage, counts in takewhile(lambda each: each[1] is not None, found) if counts]
        return [*(without_undone(folder, done).stages if done else ()), *found[len(done) :]]


def _require_buildable(stages: list[Choice], document: ConfigDocument) -> None:
    """Builds every stage, because some settings are refused only by its target: a language that the model does not
    know, a file that is no classifier. Raises one `ProblemError` for all of them, with their lines of the file."""
    problems: list[Problem] = []
    exit_code = ExitCode.USAGE
    for number, choice in enumerate(stages):
        try:
            choice.build()
        except ProblemError as error:
            exit_code = max(exit_code, error.exit_code)
            problems += [_located(problem, document, number, choice) for problem in error.problems]
    if problems:
        raise ProblemError(problems, exit_code)


def _located(problem: Problem, document: ConfigDocument, number: int, choice: Choice) -> Problem:
    """A problem of a stage, at the line of its setting, or else of the stage."""
    if problem.where in choice.arguments():
        return replace(problem, where=document.where(("stages", number, problem.where)))
    place = document.where(("stages", number))
    return replace(problem, where=f"{place}: {problem.where}" if problem.where else place)


def _hash(choice: Choice) -> str:
    digest = hashlib.sha256(content_hash(choice.entry.component.target).encode())
    for _, path in inputs_of(choice.settings):
        for file in find_files([path], "**/*"):
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def result_of(cleaned: Cleaned) -> CleanResult:
    kept = without_undone(cleaned.folder, cleaned.stages)
    cleaned = replace(cleaned, stages=kept.stages)
    stages = [StageResult(stage.name, asdict(counts)) for stage, counts in cleaned.stages]
    return CleanResult(str(cleaned.folder), cleaned.documents, cleaned.left, stages, kept.back, kept.unjudged)


def text_of(result: CleanResult) -> str:
    head = ("stage", "documents", "removed", "changed", "removed text", "by rule")
    rows = [(each.stage, *_cells(each.did)) for each in result.stages]
    lines = [output.table(head, rows)]
    told = [
        f"{each.stage}: {count:,} {what}"
        for each in result.stages
        if each.did
        for what, count in sorted(each.did["told"].items())
    ]
    lines += ["\n".join(told)] if told else []
    if result.documents is not None and result.left is not None:
        share = result.left / result.documents
        lines.append(f"{result.left:,} of {result.documents:,} documents are left ({share:.1%})")
    if result.back:
        unjudged = f"; later stages never judged {result.unjudged:,} of them" if result.unjudged else ""
        lines.append(f"{result.back:,} documents were taken back{unjudged}")
    return "\n\n".join([*lines, f"folder: {result.folder}"])


def warn_of_missing_urls(result: CleanResult) -> None:
    for each in result.stages:
        if each.did and 0 < each.did["documents"] == each.did["told"].get(WITHOUT_URL):
            fix = "name the field of the URL in the corpus, such as `url: link`"
            output.warn(f"{each.stage} found no URL that can be read in any document: {fix}")


def _cells(did: dict[str, Any] | None) -> tuple[str, ...]:
    if did is None:
        return ("not done", "", "", "", "")
    most = sorted(did["rules"].items(), key=lambda rule: (-rule[1], rule[0]))
    shown = ", ".join(f"{rule} {count:,}" for rule, count in most[:3]) + (", ..." if len(most) > 3 else "")
    size = output.human_bytes(did["removed_bytes"])
    return (f"{did['documents']:,}", f"{did['removed']:,}", f"{did['changed']:,}", size, shown)
