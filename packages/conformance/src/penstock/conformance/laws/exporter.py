# pyright: basic
"""Laws of exporters, from a trained model to a folder or a file: `RunExporter`, and `Exporter` of contract 1."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from penstock.conformance.law import NotApplicable, Subject, Violation, expect, law, laws_in
from penstock.conformance.parts import TinyModel, random_state, write_tokenizer
from penstock.hooks.contracts import SharingPlan, StoragePlan, TrainedModel
from penstock.hooks.problems import ProblemError

EXPORTER = "exporter"


@law(EXPORTER)
def files_are_returned(subject: Subject) -> None:
    """An export returns a non-empty list of paths to the files it wrote.

    Return the written files, not folders.
    """
    files = _export(subject)
    expect(isinstance(files, list) and files, f"the export returned {files!r}")
    for file in files:
        expect(isinstance(file, Path) and file.is_file(), f"{file!r} is not a file")


FILES = (files_are_returned,)


@law(EXPORTER, needs=FILES)
def every_file_is_in_the_folder(subject: Subject) -> None:
    """Every returned file is in the folder, and every file in the folder is returned; a single file is the path.

    Uploads use the list: return paths below the given folder.
    """
    target = _target(subject)
    returned = {file.resolve() for file in _export(subject, target)}
    found = {file.resolve() for file in (target, *target.rglob("*")) if file.is_file()}
    outside, unnamed = returned - found, found - returned
    expect(not outside, f"returned but not in the folder: {_names(outside)}")
    expect(not unnamed, f"in the folder but not returned: {_names(unnamed)}")


@law(EXPORTER, needs=FILES)
def nothing_else_is_written(subject: Subject) -> None:
    """Nothing is left next to the folder, and the tokenizer's file is unchanged.

    Remove temporary folders, even if the export fails.
    """
    target, tokenizer = _target(subject), write_tokenizer(subject.folder)
    before = tokenizer.read_bytes()
    _export(subject, target)
    ours = {tokenizer, target, target.parent}
    beside = {path for path in {*subject.folder.iterdir(), *target.parent.iterdir()} if path not in ours}
    expect(not beside, f"left next to the folder: {_names(beside)}")
    expect(tokenizer.read_bytes() == before, "the tokenizer's file has changed")


@law(EXPORTER, needs=FILES)
def documents_are_json(subject: Subject) -> None:
    """Every `.json` file of the export is strict JSON: no NaN, no Infinity.

    Write with `json.dumps(..., allow_nan=False)`.
    """
    documents = [file for file in _export(subject) if file.suffix == ".json"]
    if not documents:
        raise NotApplicable("the export has no JSON files")
    for file in documents:
        try:
            json.loads(file.read_text(encoding="utf-8"), parse_constant=_refuse)
        except ValueError as error:
            raise Violation(f"{file.name} is not JSON: {error}") from error


@law(EXPORTER, needs=(documents_are_json,))
def the_config_is_that_of_the_model(subject: Subject) -> None:
    """If there is a `config.json`, it contains everything from the model's `export_config()`.

    Add what the format needs, and change or drop nothing.
    """
    config = next((file for file in _export(subject) if file.name == "config.json"), None)
    if config is None:
        raise NotApplicable("the export has no config.json")
    written = json.loads(config.read_text(encoding="utf-8"))
    other = [name for name, value in TinyModel().export_config().items() if written.get(name) != value]
    expect(not other, f"config.json lacks or changes {', '.join(other)}")


@law(EXPORTER, needs=FILES)
def weights_are_those_that_the_model_computes_with(subject: Subject) -> None:
    """Safetensors files hold `export_state(materialize=True)`, every tensor once, in the stored precision.

    Other software does not know our quantizers: store the materialised state, not the master weights.
    """
    weights = [file for file in _export(subject) if file.suffix == ".safetensors"]
    if not weights:
        raise NotApplicable("the export has no safetensors files")
    if importlib.util.find_spec("safetensors") is None:
        raise NotApplicable("safetensors is not installed")
    load_file: Any = importlib.import_module("safetensors.torch").load_file
    stored = [(name, tensor) for file in weights for name, tensor in load_file(file).items()]
    found, expected = dict(stored), TinyModel().export_state(materialize=True)
    expect(len(stored) == len(found), "a tensor is in two files")
    expect(found.keys() == expected.keys(), f"missing or unknown: {', '.join(sorted(found.keys() ^ expected.keys()))}")
    for name, tensor in expected.items():
        same = torch.equal(found[name], tensor.to(found[name].dtype))
        expect(same, f"'{name}' has different values")


@law(EXPORTER, needs=FILES)
def the_model_stays(subject: Subject) -> None:
    """The model is unchanged: parameters, their dtype, `requires_grad`, training mode.

    Cast and copy tensors one by one instead of casting the model.
    """
    model = TinyModel().train()
    before = _description(model)
    _export(subject, model=model)
    expect(_description(model) == before, "the model has changed after the export")


@law(EXPORTER, needs=FILES)
def equal_models_give_equal_files(subject: Subject) -> None:
    """Two exports of one model have identical files, without drawing from global generators.

    Do not write times, paths or sets in hash order.
    """
    before = random_state()
    first, second = (_contents(_export(subject, _target(subject, name))) for name in ("one", "two"))
    expect(random_state() == before, "a global random generator was drawn from")
    other = sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name))
    expect(not other, f"two exports differ in {', '.join(other)}")


@law(EXPORTER, needs=(equal_models_give_equal_files,))
def an_export_over_an_earlier_one_is_the_same_or_refused(subject: Subject) -> None:
    """A second export into the folder of the first gives the same files, or a `ProblemError`.

    Replace what an earlier export wrote, or refuse a non-empty folder; never mix.
    """
    target = _target(subject)
    first = _contents(_export(subject, target))
    try:
        second = _contents(_export(subject, target))
    except ProblemError:
        return
    other = sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name))
    expect(not other, f"the second export differs in {', '.join(other)}")


@law(EXPORTER, needs=FILES)
def files_of_others_are_kept(subject: Subject) -> None:
    """A file that no export wrote survives an export to its place, or the export raises a `ProblemError`.

    A wrong path must not delete a user's files: never empty a folder that you did not fill, nor replace a file that is
    not of your format.
    """
    target = _target(subject)
    foreign = target if target.suffix else target / "thesis.txt"
    foreign.parent.mkdir(exist_ok=True)
    foreign.write_text("years of work", encoding="utf-8")
    with contextlib.suppress(ProblemError):
        _export(subject, target)
    kept = foreign.is_file() and foreign.read_text(encoding="utf-8") == "years of work"
    expect(kept, "a file that was in the folder before is gone")


@law(EXPORTER, needs=FILES)
def an_export_that_is_stopped_leaves_what_was_there(subject: Subject) -> None:
    """An export of contract 2 that is stopped while it reads the model leaves no file, and an earlier export as it was.

    Write to a hidden neighbour, and rename that once it is whole.
    """
    if subject.component.contract < 2:
        raise NotApplicable("the component is of contract 1")
    target = _target(subject)
    for earlier in (False, True):
        before = _contents(_export(subject, target)) if earlier else {}
        expect(not _stopped(subject, target), "an export reads neither the state nor `export_state` of its model")
        left = {path.name for path in target.parent.rglob("*") if path.is_file()} - {"tokenizer.json"}
        stray = ", ".join(sorted(left)) or "nothing"
        expect(left == before.keys() - {"tokenizer.json"}, f"left after a stopped export: {stray}")
        after = _contents([file for file in (target, *target.rglob("*")) if file.is_file()])
        expect(after == before, "a stopped export changed the one before it")


@law(EXPORTER, needs=FILES)
def progress_ends_at_its_total(subject: Subject) -> None:
    """An exporter that tells its progress counts up to the total that it named, and keeps to that.

    Sum the work before you start.
    """
    told: list[tuple[int, int]] = []
    _export(subject, progress=lambda done, total: told.append((done, total)))
    if not told:
        raise NotApplicable("the export tells no progress")
    done = [each for each, _ in told]
    expect(len({total for _, total in told}) == 1, f"it named the totals {sorted({total for _, total in told})}")
    expect(done == sorted(done) and done[-1] == told[-1][1], f"it ended at {done[-1]} of {told[-1][1]}")


class _StoppedError(Exception):
    """Stands for Ctrl-C."""


class _Stopping(dict[str, Any]):
    """The state of a model whose reader is stopped at the second tensor."""

    def __getitem__(self, name: str) -> Any:
        if name != next(iter(self)):
            raise _StoppedError
        return super().__getitem__(name)

    def items(self) -> Any:
        return ((name, self[name]) for name in self)

    def values(self) -> Any:
        return (self[name] for name in self)


class _StoppingModel(TinyModel):
    def export_state(self, *, materialize: bool = False) -> dict[str, Any]:
        return _Stopping(super().export_state(materialize=materialize))


def _stopped(subject: Subject, target: Path) -> bool:
    """Whether an export that should be stopped comes to its end."""
    try:
        _export(subject, target, model=_StoppingModel(), state=_Stopping)
    except _StoppedError:
        return False
    return True


def _suffix(subject: Subject) -> str:
    return subject.build().suffix if subject.component.contract >= 2 else ""


def _target(subject: Subject, name: str = "out") -> Path:
    """A place for the export: a folder of this name, or a file of one name in it."""
    if not _suffix(subject):
        return subject.folder / name
    (subject.folder / name).mkdir(exist_ok=True)
    return subject.folder / name / f"model{_suffix(subject)}"


def _export(
    subject: Subject,
    target: Path | None = None,
    *,
    model: TinyModel | None = None,
    state: Callable[[dict[str, Any]], Mapping[str, Any]] = dict,
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    target, model, tokenizer = target or _target(subject), model or TinyModel(), write_tokenizer(subject.folder)
    exporter = subject.build()
    if subject.component.contract < 2:
        try:
            return exporter.export(model, tokenizer, target)
        except ProblemError as error:
            if {problem.code for problem in error.problems} == {"not-exportable"}:
                raise NotApplicable(f"the format holds no such model: {error.problems[0].what}") from error
            raise
    trained = TrainedModel(
        model=model,
        state=state(model.state_dict()),
        storage=StoragePlan(),
        sharing=SharingPlan(),
        architecture="penstock-conformance:tiny",
        config={"name": "tiny", "seed": 0, "model": {"use": "tiny"}},
        step=3,
        tokens=96,
        sha256="0" * 64,
        files={"tokenizer.json": tokenizer},
    )
    return exporter.export(trained, target, progress)


def _contents(files: list[Path]) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in files}


def _description(model: TinyModel) -> Any:
    tensors = {name: (str(tensor.dtype), tensor.tolist()) for name, tensor in model.state_dict().items()}
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    return tensors, trained, [module.training for module in model.modules()]


def _names(paths: set[Path]) -> str:
    return ", ".join(sorted(path.name for path in paths))


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is not a JSON number")


LAWS = laws_in(globals())
