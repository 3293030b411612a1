"""Finds a task of the harness and loads it with its data, before any model is loaded."""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from penstock.eval_suite.hub import offline_if_unreachable
from penstock.hooks.inputs import expanded
from penstock.hooks.problems import Problem, ProblemError, did_you_mean

LOCAL_FORMATS = frozenset({"arrow", "csv", "json", "pandas", "parquet", "text", "xml"})
"""What a task's `dataset_path` may be, beside a folder, where its files are its own."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """The tasks of the harness by name, and the group that they were asked for as, if it has metrics of its own."""

    name: str
    tasks: Mapping[str, Any]
    group: Any = None


@cache
def harness_version() -> str:
    return version("lm_eval")


def load(name: str, include_path: Path | None, dataset: Path | None, data: Path | None) -> Loaded:
    """The task, group or tag `name`. Raises `ProblemError` if the name is unknown, if the task shows images or runs
    code, and if its data cannot be loaded. `dataset` and `data` are folders that replace the hub."""
    manager, name = _manager(name, include_path)
    leaves = list(_leaves(manager.task_index, name))
    for leaf in leaves:
        _read_locally(manager.task_index, leaf, dataset, data)
    remote = [leaf for leaf in leaves if not _is_local(leaf.dataset)]
    try:
        with _quietly(), offline_if_unreachable() if remote else nullcontext():
            found = manager.load(name)
    except Exception as error:  # the code of a task and the readers of its data raise anything
        raise ProblemError(_not_loaded(name, remote, error)) from error
    tasks = found["tasks"]
    _require_text(tasks)
    return Loaded(name, tasks, _with_metrics(found["groups"].get(name)))


@dataclass(frozen=True, slots=True)
class _Leaf:
    """A task of the index, and the data set that its YAML names."""

    name: str
    dataset: str


def _manager(name: str, include_path: Path | None) -> tuple[Any, str]:
    """An index of tasks that has the name. It lists the 14,000 built-in tasks, which takes 10 s, only if the user's own
    tasks lack the name."""
    from lm_eval.tasks import TaskManager

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    if name.endswith((".yaml", ".yml")):
        name, include_path = _named_by_file(expanded(name))
    folder = None if include_path is None else expanded(include_path)
    if folder is not None and not folder.is_dir():
        raise ProblemError(Problem("missing-file", "folder not found", str(folder), "check include_path"))
    own = TaskManager(include_defaults=False, include_path=folder)
    if _names_are_known(own.task_index, name):
        return own, name
    every = TaskManager(include_path=folder)
    if name not in every.task_index:
        near = did_you_mean(name, every.all_tasks)
        fix = near or "`lm-eval ls tasks` lists the tasks; include_path names a folder with your own"
        raise ProblemError(Problem("unknown-task", f"unknown task '{name}' of lm-evaluation-harness", "--task", fix))
    return every, name


def _named_by_file(path: Path) -> tuple[str, Path]:
    """The task that a YAML file defines, and the folder that it is in."""
    from lm_eval.tasks import TaskManager

    if not path.is_file():
        raise ProblemError(Problem("missing-file", "file not found", str(path), "check the path of the task's YAML"))
    index = TaskManager(include_defaults=False, include_path=path.parent).task_index
    named = [entry.name for entry in index.values() if entry.yaml_path is not None and path.samefile(entry.yaml_path)]
    if not named:
        what, fix = "the file defines no task of lm-evaluation-harness", "give it `task: NAME` and valid YAML"
        raise ProblemError(Problem("bad-task", what, str(path), fix))
    return named[0], path.parent


def _names_are_known(index: Mapping[str, Any], name: str) -> bool:
    """Whether an index has the name and, for a group, all of its members."""
    if name not in index:
        return False
    return all(each in index for each in _members(index[name]))


def _members(entry: Any) -> Iterator[str]:
    """Names of the tasks and groups in a group or under a tag. Members that a group itself defines are left out: they
    are loaded, and have no data of the user's own."""
    listed: Any = entry.tags if entry.yaml_path is None else (entry.cfg or {}).get("task")
    for each in listed if isinstance(listed, (list, set)) else ():
        reference = each if isinstance(each, str) else (each.get("group") or each.get("task"))
        inline = isinstance(each, dict) and (isinstance(each.get("task"), list) or "dataset_path" in each)
        if isinstance(reference, str) and not inline:
            yield reference


def _leaves(index: Mapping[str, Any], name: str) -> Iterator[_Leaf]:
    entry = index[name]
    members = sorted(each for each in _members(entry) if each in index and each != name)
    for each in members:
        yield from _leaves(index, each)
    config = entry.cfg or {}
    if not members and "dataset_path" in config:
        yield _Leaf(name, str(config["dataset_path"]))


def _read_locally(index: Any, leaf: _Leaf, dataset: Path | None, data: Path | None) -> None:
    """Makes the entry of a task read a folder instead of the hub, if there is one."""
    from lm_eval.tasks._yaml_loader import load_yaml

    if _is_local(leaf.dataset):
        return
    folder = _folder_of(leaf.dataset, dataset, data)
    if folder is not None:
        entry = index[leaf.name]
        config = {**load_yaml(entry.yaml_path, resolve_func=True), "dataset_path": str(folder)}
        index[leaf.name] = replace(entry, yaml_path=None, cfg=config)


def _folder_of(repository: str, dataset: Path | None, data: Path | None) -> Path | None:
    if dataset is not None:
        folder = expanded(dataset)
        if not folder.is_dir():
            what = f"folder not found, in the place of the data set {repository}"
            raise ProblemError(Problem("missing-file", what, str(folder), "check the setting dataset"))
        return folder
    candidates = [] if data is None else [data / repository, data / repository.rpartition("/")[2]]
    return next((folder for folder in candidates if folder.is_dir()), None)


def _is_local(dataset: str) -> bool:
    return dataset in LOCAL_FORMATS or os.path.isdir(dataset)


def _not_loaded(name: str, remote: Sequence[_Leaf], error: Exception) -> Problem:
    cause = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    if not remote:
        what = f"the task '{name}' cannot be loaded ({cause})"
        return Problem("bad-task", what, "--task", "check its YAML, and the files and columns that it names")
    named = ", ".join(dict.fromkeys(each.dataset for each in remote))
    repository = remote[0].dataset
    what = f"the task '{name}' reads {named} from the Hugging Face hub, which cannot be loaded ({cause})"
    fix = (
        f"set `dataset` to a folder with the files of {repository}, or put it at {repository} in the folder of --data, "
        "or name them in a YAML of your own (`dataset_path: json`, `dataset_kwargs: {data_files: ...}`) in include_path"
    )
    return Problem("hub-unreachable", what, repository, fix)


def _require_text(tasks: Mapping[str, Any]) -> None:
    """Raises `ProblemError` for tasks that ask for more than a model of text, or that run what the model writes."""
    for name, task in tasks.items():
        if getattr(task, "MULTIMODAL", False):
            what, fix = f"the task '{name}' shows images or plays audio", "evaluate it with a model that takes them"
            raise ProblemError(Problem("bad-task", what, "--task", fix))
        if getattr(task, "UNSAFE_CODE", False):
            what = f"the task '{name}' runs the code that the model writes, without a sandbox"
            fix = "run it in a container with `penstock-lm-eval run --confirm_run_unsafe_code`"
            raise ProblemError(Problem("bad-task", what, "--task", fix))


@contextmanager
def _quietly() -> Iterator[None]:
    """Without bars of the reader of data sets, and with the random numbers as they were: the harness draws names."""
    import datasets

    drawn, shown = random.getstate(), datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        random.setstate(drawn)
        if shown:
            datasets.enable_progress_bars()


def _with_metrics(group: Any) -> Any:
    return group if group is not None and group.has_aggregation else None
