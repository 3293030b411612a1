"""`penstock profile`: of a run or a model, which are recorded, or of a trace file."""

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
from penstock.hooks.problems import Problem, ProblemError, failed
from penstock.hooks.registry import Registry
from penstock.run.directory import RunDirectory, stage
from penstock.run.records.profile import Atlas, Profile
from penstock.run.records.record import Record, write_record
from penstock.simulate.config import SimulateSettings

if TYPE_CHECKING:
    from penstock.profile.subject import Subject

_TRACE_SUFFIXES = (".npz", ".json", ".jsonl", ".xz", ".pt")
_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


@click.command()
@click.argument("path", metavar="MODEL", type=click.Path(path_type=Path))
@click.option(
    "--corpus",
    "texts",
    multiple=True,
    metavar="[NAME=]TEXT",
    help="A text file, a folder of them, or {use: CORPUS, ...}; repeatable. In the place of a run's held-out text.",
)
@click.option(
    "--domains",
    is_flag=True,
    help="Tell domains apart: each --corpus is one, or each file and folder in the only one.",
)
@click.option("--max-tokens", type=click.IntRange(min=1), help="Read only the first so many tokens, of each domain.")
@click.option(
    "--sequence-length",
    type=click.IntRange(min=1),
    help="Tokens of a window; the run's own, or 512 for a model, if not given.",
)
@click.option("--report", type=click.Path(path_type=Path), help="Write an HTML page with heat maps here.")
@click.option(
    "--trace",
    "trace_file",
    type=click.Path(path_type=Path),
    help="Write the trace to this .npz, for `penstock simulate`; a run keeps one in its folder anyway.",
)
@click.option(
    "--modify",
    metavar="STRATEGY,...",
    help="Measure other assignments: all, or of balanced, round-robin, random, topk-filtered, temperature.",
)
@click.option("--fraction", default=None, help="Shares of the tokens that --modify changes; 0,0.25,0.5,1 if not given.")
@click.option(
    "--temperature",
    type=click.FloatRange(min=0, min_open=True),
    help="Of the draws of topk-filtered and temperature; 1 if not given.",
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
    """Show which experts MODEL chooses, how evenly, with which others and for which domains.

    MODEL is a run, whose held-out text is read unless --corpus gives another; a mixture of experts of transformers, as
    a folder with config.json or a name on the hub, with its own tokenizer and the text of --corpus; or a trace: an
    .npz, a table of counts .json or a log of vLLM .jsonl, also packed with xz, or a recording of SGLang .pt.

    A run keeps trace/heldout.npz and profile.json, or with --corpus trace/corpus.npz and profile-corpus.json. With
    --modify, perplexity is measured against balance and predicted communication for other assignments than the
    routers': modified.json and modified.html."""
    if modify is None and (fraction is not None or temperature is not None):
        option = "--temperature" if fraction is None else "--fraction"
        raise ProblemError(Problem("bad-value", "nothing is to be modified", option, "add --modify STRATEGY"))
    _require_files(report, trace_file)
    text = Text(registry, texts, domains, max_tokens, sequence_length, scored=modify is not None)
    if os.path.isfile(path):
        options = {"--modify": modify, "--trace": trace_file, **text.options}
        _refuse(options, "a trace is read as a whole and as it is", "leave it out, or profile a run or model")
        return _of_trace(path, report, as_json)
    if modify is not None:
        _refuse({"--trace": trace_file}, "what is modified leaves no trace", "leave it out")
        _refuse({"--domains": domains}, "modifications are measured over all of the text", "leave it out")
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
    """What the command line says of the text to read, and whether its tokens are predicted."""

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

    def of_run(self, run: RunDirectory) -> Subject:
        from penstock.profile.subject import subject_of_run
        from penstock.profile.text_sources import text_sources
        from penstock.train.restore import restore

        if self.domains and not self.texts:
            what = "the run's data does not say where each document came from"
            raise ProblemError(Problem("bad-value", what, "--domains", "give the text of each domain with --corpus"))
        sources = text_sources(self.registry, self.texts, self.domains)
        restored = restore(run.path, self.registry)
        return subject_of_run(restored, sources, **self._extent)

    def of_model(self, name: str) -> Subject:
        from penstock.profile.subject import subject_of_model
        from penstock.profile.text_sources import text_sources

        sources = text_sources(self.registry, self.texts, self.domains)
        return subject_of_model(self.registry, name, sources, **self._extent)

    @property
    def _extent(self) -> dict[str, Any]:
        return {"max_tokens": self.max_tokens, "sequence_length": self.sequence_length, "scored": self.scored}


@dataclass(frozen=True, slots=True)
class Modification:
    """What the command line says of other assignments."""

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
    """Said before the work, and not when its result has nowhere to go."""
    given = {option: path for option, path in (("--report", report), ("--trace", trace_file)) if path is not None}
    for option, path in given.items():
        if os.path.isdir(path):
            raise ProblemError(Problem("bad-value", f"'{path}' is a folder", option, "name a file"))
    if trace_file is not None and trace_file.suffix != ".npz":
        raise ProblemError(Problem("bad-value", f"'{trace_file}' is no .npz", "--trace", "let its name end with .npz"))
    for path in given.values():
        with _writing(path):
            _require_room(path)


def _require_room(path: Path) -> None:
    """Raises OSError where no file of that name can be made. It is tried in the nearest folder that is there, of which
    rights alone say too little, and nothing is left of it."""
    with suppress(FileNotFoundError):
        path.lstat()  # which a name that is too long does not survive, nor one below a file
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    with tempfile.TemporaryFile(dir=folder):
        pass


@contextmanager
def _opened(path: Path, text: Text, work: str) -> Iterator[tuple[Subject, RunDirectory | None]]:
    """What `path` stands for, and the run directory, where it is one, locked; `work` is recorded as a stage of it."""
    if os.path.isfile(path / "config.resolved.yaml"):
        run = RunDirectory.open(path)
        with run.lock(), stage(run, work):
            yield text.of_run(run), run
    else:
        name = _model_name(path)
        if not text.texts:
            raise ProblemError(_without_text(path))
        yield text.of_model(name), None


def _without_text(path: Path) -> Problem:
    if os.path.isdir(path):
        what, fix = "a model has no text of its own", "give files or folders of text with --corpus"
        return Problem("missing-value", what, str(path), fix)
    fix = "check the path; a model of the hub needs text, with --corpus"
    return Problem("missing-file", "there is no such run, model or trace", str(path), fix)


def _model_name(path: Path) -> str:
    """A folder of transformers, or what may be a name on the hub; raises `ProblemError` for anything else."""
    if os.path.isdir(path):
        run = path.resolve().parent.parent
        if path.resolve().parent.name == "checkpoints" and (run / "config.resolved.yaml").is_file():
            what = "this is a checkpoint of a run, and only the run knows its routers"
            raise ProblemError(Problem("not-a-run", what, str(path), f"profile {run}"))
        if not (path / "config.json").is_file():
            what = "this is neither a run, which has config.resolved.yaml, nor a model, which has config.json"
            raise ProblemError(Problem("not-a-run", what, str(path), "name a run, a model or a trace"))
    elif not _may_be_on_the_hub(path):
        what = "there is no such run, model or trace"
        raise ProblemError(Problem("missing-file", what, str(path), "check the path"))
    return str(path)


def _may_be_on_the_hub(path: Path) -> bool:
    """A slip in the name of a trace, or of something in a folder that is here, is not looked up there."""
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
    """Profiles the newest checkpoint on the run's held-out text; the run directory keeps trace and figures."""
    text = Text(registry, (), domains=False, max_tokens=None, sequence_length=None, scored=True)
    with _opened(run.path, text, "profile") as (subject, _):
        return _profiled(subject, run, None, None)[0]


def _profiled(
    subject: Subject, run: RunDirectory | None, report: Path | None, trace_file: Path | None
) -> tuple[Profile, list[str]]:
    """The figures, and lines that say what was written."""
    from penstock.profile.atlas import tables_of
    from penstock.profile.atlas_page import write_atlas
    from penstock.profile.profiling import profile_figures, record_trace
    from penstock.train.progress import StageProgress

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
    from penstock.profile import modification
    from penstock.train.progress import StageProgress

    network = run.section("simulate", SimulateSettings, registry) if run else SimulateSettings()
    hidden_size = network.hidden_size or subject.header["hidden_size"]
    if hidden_size is None:
        what = "the model's config does not say how wide a token is, so that its exchange cannot be predicted"
        raise ProblemError(Problem("missing-value", what, "--modify", "profile it without"))
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
    """Written last: if the page or trace cannot be written, the run directory says nothing new."""
    path = run.path / _file_name(name, split, "json")
    with _writing(path):
        write_record(path, result)


def _file_name(name: str, split: str, kind: str) -> str:
    """What is said of a text that was given stands beside what is said of the held-out one."""
    return f"{name}.{kind}" if split == "heldout" else f"{name}-{split}.{kind}"


@contextmanager
def _writing(path: Path | None) -> Iterator[None]:
    """Turns what goes wrong while `path` is written into a `ProblemError`."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # raised by a library that names its own errors OSError, such as a missing template
            raise
        what = f"the file cannot be written ({error.strerror})"
        raise failed("cannot-write", what, str(path), "free space, or choose another place") from error
