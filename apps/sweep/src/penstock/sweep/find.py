"""What a worker of a sweep does to find the learning rates of a cell."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from penstock.hooks.discovery import Selection
from penstock.hooks.registry import Registry
from penstock.run.config import load_run_config
from penstock.run.records.sweep import CellRates
from penstock.train.rate_finder import find_rates
from penstock.train.training import prepare_run


def find_job(argument: dict[str, Any]) -> dict[str, Any]:
    """The rates (`CellRates`) of the model that `config` and `overrides` describe, from `seeds` ramps of `steps` steps.
    Its data is prepared under `runs`; `selection` says which plugins are loaded."""
    registry = Registry.discover(Selection.from_json(argument["selection"]))
    config = load_run_config(Path(argument["config"]), argument["overrides"], registry)[0]
    data = Path(prepare_run(config, Path(argument["runs"]))["data"])
    begun = time.perf_counter()
    found = find_rates(config, data, seeds=argument["seeds"], steps=argument["steps"])
    return CellRates(found, time.perf_counter() - begun).to_json()
