"""Ranks that do not run the same code do not begin; real processes that speak gloo."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from forked import side_by_side

from penstock.hooks import ExitCode
from penstock.train.ranks import require_same_plugins

RANK = """
import json, sys

import torch.distributed as dist

from penstock.hooks import ProblemError
from penstock.train.ranks import require_same_plugins

store, rank, ranks, plugins = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4])
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=ranks)


def gather(value):
    values = [None] * ranks
    dist.all_gather_object(values, value)
    return values


try:
    require_same_plugins(plugins, gather)
except ProblemError as error:
    print(json.dumps([error.exit_code, str(error)]))
else:
    print(json.dumps([0, ""]))
finally:
    dist.destroy_process_group()
"""


def locked(name: str, version: str = "1.0") -> dict[str, Any]:
    return {
        "kind": "router",
        "name": name,
        "distribution": "acme",
        "version": version,
        "contract": 1,
        "hash": version[-1] * 64,
    }


def answers(folder: Path, *locks: list[dict[str, Any]]) -> list[tuple[int, str]]:
    """What each rank says of its lock."""
    calls = [[str(folder / "store"), str(rank), str(len(locks)), json.dumps(lock)] for rank, lock in enumerate(locks)]
    return [tuple(json.loads(answer)) for answer in side_by_side(RANK, calls)]


def test_ranks_with_the_same_code_begin(tmp_path):
    assert answers(tmp_path, [locked("mine")], [locked("mine")]) == [(0, ""), (0, "")]


def test_ranks_that_differ_all_stop_and_name_the_rank_and_the_components(tmp_path):
    ours, theirs = [locked("mine"), locked("same")], [locked("mine", "1.1"), locked("same"), locked("own")]
    said = answers(tmp_path, ours, theirs)
    assert said[0] == said[1]
    code, message = said[0]
    assert code == ExitCode.PLUGIN
    fix = "install the same packages on every machine"
    assert message.splitlines() == [
        "rank 1: router acme:mine: has 1.1, contract 1, hash 111111111111, "
        f"rank 0 has 1.0, contract 1, hash 000000000000, {fix}",
        f"rank 1: router acme:own: has 1.0, contract 1, hash 000000000000, rank 0 does not have it, {fix}",
    ]


@pytest.mark.parametrize("plugins", [[], [locked("mine")]], ids=["none", "one"])
def test_one_process_has_nobody_to_differ_from(plugins):
    require_same_plugins(plugins, lambda value: [value])
