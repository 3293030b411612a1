"""`penstock profile` of a run or a model, whose routing it records, or of a trace file."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from penstock.cli import output
from penstock.cli.choices import choose
from penstock.hooks.architecture import require_next_token
from penstock.hooks.problems import Problem, ProblemError, failed
from penstock.hooks.registry import Registry
from penstock.quant158.artifact.reader import is_artifact
from penstock.run.config import RunConfig
from penstock.run.directory import RunDirectory, is_run, stage
from penstock.run.records.profile import Atlas, Profile
from penstock.run.records.record import Record, write_record
from penstock.simulate.config import SimulateSettings

if TYPE_CHECKING:
    from penstock.profile.subject import Subject

_TRACE_SUFFIXES = (".npz", ".json", ".jsonl", ".pt", ".gz", ".bz2", ".xz", ".zst")
_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


@click.command()
@click.argument("path", metavar="MODEL", type=click.Path(path_type=Path))
@click.option(
    "--corpus",
    "texts",
    multiple=True,
    metavar="[NAME=]TEXT",
    help="Text to read instead of a run's held-out text: a file, a folder, or {use: CORPUS, ...}. Repeatable.",
)
@click.option(
    "--domains",
    is_flag=True,
    help="Profile per domain: each --corpus is a domain, or each file and folder inside a single --corpus.",
)
@click.option(
    "--max-tokens", type=click.IntRange(min=1), help="Read only the first N tokens (of each domain, with --domains)."
)
@click.option(
    "--sequence-length",
    type=click.IntRange(min=1),
    help="Tokens per window (default: the run's sequence length, or 512 for a model).",
)
@click.option("--report", type=click.Path(path_type=Path), help="Write an HTML page with heat maps to this file.")
@click.option(
    "--trace",
    "trace_file",
    type=click.Path(path_type=Path),
    help="Write the trace to this .npz file, for `penstock simulate`; a run always keeps one in its folder.",
)
@click.option(
    "--modify",
    metavar="STRATEGY,...",
    help="Measure other expert assignments: all, or some of balanced, round-robin, random, topk-filtered, temperature.",
)
@click.option("--fraction", default=None, help="Fractions of tokens that --modify changes (default: 0,0.25,0.5,1).")
@click.option(
    "--temperature",
    type=click.FloatRange(min=0, min_open=True),
    help="Sampling temperature of the strategies topk-filtered and temperature (default: 1).",
)
@output.json_option
@click.pass_obj
def profile(
    registry: Registry,
    path: Path,
    texts: tuple[str, ...],
    domains: bool,
    max_tokens: int | None,
    sequence_length: int | None,
    report: Path | None,
    trace_file: Path | None,
    modify: str | None,
    fraction: str | None,
    temperature: float | None,
    as_json: bool,
) -> dict[str, Any]:
    """Show which experts MODEL chooses, how evenly, in which combinations and for which domains.

    MODEL is a run or its packed file (.penstock), whose held-out text is read unless --corpus gives another; a
    transformers mixture of experts (a folder with config.json, or a hub name), read with its own tokenizer on the text
    of --corpus; or a trace: .npz, a .json table of counts, a vLLM .jsonl log (each also xz-compressed), or an SGLang
    .pt recording.

    A run keeps trace/heldout.npz and profile.json, or with --corpus trace/corpus.npz and profile-corpus.json. With
    --modify, perplexity, balance and predicted communication are measured for assignments other than the routers' and
    kept in modified.json and modified.html."""
    if modify is None and (fraction is not None or temperature is not None):
        option = "--temperature" if fraction is None else "--fraction"
        raise ProblemError(
            Problem("bad-value", "this option only applies with --modify", option, "add --modify STRATEGY")
        )
    _require_files(report, trace_file)
    text = Text(registry, texts, domains, max_tokens, sequence_length, scored=modify is not None)
    if os.path.isfile(path) and not is_artifact(path):
        options = {"--modify": modify, "--trace": trace_file, **text.options}
        _refuse(options, "a trace file is always read whole and unchanged", "leave it out, or profile a run or model")
        return _of_trace(path, report, as_json)
    if modify is not None:
        _refuse({"--trace": trace_file}, "--modify writes no trace", "leave it out")
        _refuse({"--domains": domains}, "--modify measures all text together", "leave it out")
        modification = Modification.parse(modify, fraction, temperature)
        with _opened(path, text, "modify") as (subject, run):
            return _modified(registry, subject, run, modification, report, as_json)
    from penstock.profile.text import model_text

    with _opened(path, text, "profile") as (subject, run):
        result, written = _profiled(subject, run, report, trace_file)
    output.print_result(result, as_json, lambda: "\n".join([model_text(result), *written]))
    return result.to_json()


@dataclass(frozen=True, slots=True)
class Text:
    """The command line's text options, and whether tokens are predicted."""

    registry: Registry
    texts: tuple[str, ...]
    domains: bool
    max_tokens: int | None
    sequence_length: int | None
    scored: bool

    @property
    def options(self) -> dict[str, Any]:
        return {
            "--corpus": self.texts,
            "--domains": self.domains,
            "--max-tokens": self.max_tokens,
            "--sequence-length": self.sequence_length,
        }

    def of_trained(self, path: Path) -> Subject:
        """Of a run or an artifact."""
        from penstock.profile.subject import subject_of_run
        from penstock.profile.text_sources import text_sources
        from penstock.train.restore import restore

        if self.domains and not self.texts:
            what = "the run's data does not record the domain of its documents"
            raise ProblemError(Problem("bad-value", what, "--domains", "give each domain's text with --corpus"))
        require_next_token(_trained_config(path, self.registry).model, "a profile", str(path))
        sources = text_sources(self.registry, self.texts, self.domains)
        restored = restore(path, self.registry)
        return subject_of_run(restored, sources, **self._extent)

    def of_model(self, name: str) -> Subject:
        from penstock.profile.subject import subject_of_model
        from penstock.profile.text_sources import text_sources

        sources = text_sources(self.registry, self.texts, self.domains)
        return subject_of_model(self.registry, name, sources, **self._extent)

    @property
    def _extent(self) -> dict[str, Any]:
        return {"max_tokens": self.max_tokens, "sequence_length": self.sequence_length, "scored": self.scored}


def _trained_config(path: Path, registry: Registry) -> RunConfig:
    """The config of a run or an artifact, of which no weight is read."""
    from penstock.train.artifact import OpenedArtifact

    return OpenedArtifact.open(path, registry).config if is_artifact(path) else RunDirectory.open(path).config(registry)


@dataclass(frozen=True, slots=True)
class Modification:
    """The command line's options for other assignments."""

    strategies: Sequence[str]
    fractions: Sequence[float]
    temperature: float

    @classmethod
    def parse(cls, strategies: str, fractions: str | None, temperature: float | None) -> Modification:
        from penstock.profile.modification import fractions_of, strategies_of

        return cls(
            strategies_of(strategies),
            fractions_of("0,0.25,0.5,1" if fractions is None else fractions),
            1.0 if temperature is None else temperature,
        )


def _refuse(options: Mapping[str, Any], what: str, fix: str) -> None:
    """Raises `ProblemError` for the first of these options that is given."""
    for name, value in options.items():
        if value not in (None, False, ()):
            raise ProblemError(Problem("bad-value", what, name, fix))


def _require_files(report: Path | None, trace_file: Path | None) -> None:
    """Refuses unusable output files before the work starts."""
    given = {option: path for option, path in (("--report", report), ("--trace", trace_file)) if path is not None}
    for option, path in given.items():
        if os.path.isdir(path):
            raise ProblemError(Problem("bad-value", f"'{path}' is a folder", option, "give a file name"))
    if trace_file is not None and trace_file.suffix != ".npz":
        raise ProblemError(
            Problem("bad-value", f"'{trace_file}' is not an .npz file", "--trace", "use a name ending in .npz")
        )
    for path in given.values():
        with _writing(path):
            _require_room(path)


def _require_room(path: Path) -> None:
    """Raises OSError if a file of that name cannot be created. Tries it in the nearest existing folder, because
    permissions alone do not tell, and leaves nothing behind."""
    with suppress(FileNotFoundError):
        path.lstat()  # raises if the name is too long or lies below a file
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    with tempfile.TemporaryFile(dir=folder):
        pass


@contextmanager
def _opened(path: Path, text: Text, work: str) -> Iterator[tuple[Subject, RunDirectory | None]]:
    """The subject at `path`, and its locked run directory if it is a run; `work` is recorded as a stage of the run."""
    if is_run(path):
        run = RunDirectory.open(path)
        with run.lock(), stage(run, work):
            yield text.of_trained(run.path), run
    elif is_artifact(path):
        yield text.of_trained(path), None
    else:
        name = _model_name(path)
        if not text.texts:
            raise ProblemError(_without_text(path))
        yield text.of_model(name), None


def _without_text(path: Path) -> Problem:
    if os.path.isdir(path):
        what, fix = "no text to read: a model has no held-out text", "give files or folders of text with --corpus"
        return Problem("missing-value", what, str(path), fix)
    fix = "check the path; for a hub model, give text with --corpus"
    return Problem("missing-file", "run, model or trace not found", str(path), fix)


def _model_name(path: Path) -> str:
    """A transformers folder, or a possible hub name; raises `ProblemError` for anything else."""
    if os.path.isdir(path):
        run = path.resolve().parent.parent
        if path.resolve().parent.name == "checkpoints" and (run / "config.resolved.yaml").is_file():
            what = "this is a checkpoint, but only its run knows the routers"
            raise ProblemError(Problem("not-a-run", what, str(path), f"profile the run: {run}"))
        if not (path / "config.json").is_file():
            what = "neither a run (no config.resolved.yaml) nor a model (no config.json)"
            raise ProblemError(Problem("not-a-run", what, str(path), "give a run, a model or a trace"))
    elif not _may_be_on_the_hub(path):
        what = "run, model or trace not found"
        raise ProblemError(Problem("missing-file", what, str(path), "check the path"))
    return str(path)


def _may_be_on_the_hub(path: Path) -> bool:
    """Whether to look the name up on the hub: a misspelt trace, or a name in an existing folder, is not looked up."""
    in_a_folder = len(path.parts) > 1 and os.path.isdir(path.parent)
    return bool(_HUB_NAME.fullmatch(str(path))) and path.suffix not in _TRACE_SUFFIXES and not in_a_folder


def _of_trace(path: Path, report: Path | None, as_json: bool) -> dict[str, Any]:
    from penstock.profile.atlas import atlas, tables_of
    from penstock.profile.atlas_page import write_atlas
    from penstock.profile.text import model_text
    from penstock.traces.reader import read_traces

    tables = {name: tables_of(trace) for name, trace in read_traces(path).items()}
    result = atlas(tables)
    with _writing(report):
        page = [f"page: {write_atlas(path.name, tables, result, report)}"] if report else []
    output.print_result(result, as_json, lambda: "\n\n".join([*map(model_text, result.models), *page]))
    return result.to_json()


def profile_run(run: RunDirectory, registry: Registry) -> Profile:
    """Profiles the newest checkpoint on the run's held-out text and keeps trace and figures in the run directory."""
    text = Text(registry, (), domains=False, max_tokens=None, sequence_length=None, scored=True)
    with _opened(run.path, text, "profile") as (subject, _):
        return _profiled(subject, run, None, None)[0]


def _profiled(
    subject: Subject, run: RunDirectory | None, report: Path | None, trace_file: Path | None
) -> tuple[Profile, list[str]]:
    """The figures, and a line for each file written."""
    from penstock.cli.stage_progress import StageProgress
    from penstock.profile.atlas import tables_of
    from penstock.profile.atlas_page import write_atlas
    from penstock.profile.profiling import profile_figures, record_trace

    with StageProgress() as progress:
        trace = record_trace(subject, lambda read: progress("tokens", read, subject.tokens))
    tables = tables_of(trace)
    result = profile_figures(tables)
    if report is not None:
        with _writing(report):
            write_atlas(subject.name, {subject.name: tables}, Atlas([result]), report)
    kept = [] if run is None else [run.trace(trace.header["split"])]
    places = [*([] if trace_file is None else [trace_file]), *kept]
    for place in places:
        with _writing(place):
            trace.save(place)
    if run is not None:
        _keep(run, "profile", trace.header["split"], result)
    return result, [f"trace: {place}" for place in places] + ([] if report is None else [f"page: {report}"])


def _modified(
    registry: Registry,
    subject: Subject,
    run: RunDirectory | None,
    asked: Modification,
    report: Path | None,
    as_json: bool,
) -> dict[str, Any]:
    from penstock.cli.stage_progress import StageProgress
    from penstock.profile import modification

    network = run.section("simulate", SimulateSettings, registry) if run else SimulateSettings()
    hidden_size = network.hidden_size or subject.header["hidden_size"]
    if hidden_size is None:
        what = "the model's config does not give its hidden size, so communication cannot be predicted"
        raise ProblemError(Problem("missing-value", what, "--modify", "profile it without --modify"))
    wire = modification.Wire(
        network.topology or choose(registry, "topology", "two-level"),
        network.placement or choose(registry, "placement", "contiguous"),
        network.tokens_per_gpu,
        hidden_size,
    )
    with StageProgress() as progress:
        result = modification.modification_result(
            subject,
            wire,
            asked.strategies,
            asked.fractions,
            temperature=asked.temperature,
            progress=lambda done, total: progress("assignments", done, total),
        )
    if run is not None:
        report = report or run.path / _file_name("modified", result.split, "html")
    with _writing(report):
        page = [f"page: {modification.write_modification_page(subject.name, result, report)}"] if report else []
    if run is not None:
        _keep(run, "modified", result.split, result)
    table = output.table(modification.COLUMNS, map(modification.line, result.rows))
    output.print_result(result, as_json, lambda: "\n".join([table, "", modification.HELP, *page]))
    return result.to_json()


def _keep(run: RunDirectory, name: str, split: str, result: Record) -> None:
    """Written last: if the page or trace cannot be written, the run directory stays unchanged."""
    path = run.path / _file_name(name, split, "json")
    with _writing(path):
        write_record(path, result)


def _file_name(name: str, split: str, kind: str) -> str:
    """Results for --corpus text get their own file name, next to the held-out results."""
    return f"{name}.{kind}" if split == "heldout" else f"{name}-{split}.{kind}"


@contextmanager
def _writing(path: Path | None) -> Iterator[None]:
    """Turns an OSError while `path` is written into a `ProblemError`."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # a library's own subclass of OSError, such as a missing template
            raise
        what = f"cannot write the file ({error.strerror})"
        raise failed("cannot-write", what, str(path), "free space, or choose another place") from error
