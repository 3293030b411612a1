"""Runs of a config that exist already: the commands that train many models do not train one again."""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path

from penstock.hooks.atomic import read_json
from penstock.hooks.config import OnResume
from penstock.run.config import RunConfig
from penstock.run.directory import RunDirectory
from penstock.run.plugin_lock import LOCK, lock_changes, plugin_lock
from penstock.train.resume import changes


def run_of(runs: Path, config: RunConfig, *, without: Container[str] = ()) -> RunDirectory | None:
    """The run of exactly this config and this code: a finished one if there is one, else the newest unfinished one,
    else None. Run directories whose names are in `without` are not looked at."""
    lock = plugin_lock(config)
    found: list[RunDirectory] = []
    for path in sorted((runs / config.name).glob("[!.]*/config.resolved.yaml"), reverse=True):
        if path.parent.name in without:
            continue
        run = RunDirectory(path.parent)
        same_config = {change.rule for change in changes(run, config)} <= {OnResume.FREE}
        if same_config and not lock_changes(read_json(run.path / LOCK)["components"], lock):
            found.append(run)
    return next((run for run in found if finished(run)), found[0] if found else None)


def finished(run: RunDirectory) -> bool:
    return run.status().state == "finished"
