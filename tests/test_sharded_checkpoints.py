"""Whichever engine and number of ranks wrote a checkpoint, any other reads every bit of it, and goes on alike."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sharded_checkpoints as ask
import torch

from penstock.conformance.ranks import told_by_ranks
from penstock.hooks import Registry

LIMIT = 120.0  # seconds that ranks have: a hang is a failure
CHOICE: Any = Registry.discover().choose("engine", "fsdp2")
KINDS = ["local", "ddp", "fsdp2"]


def folder_of_tokenizer(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_text("{}")
    return folder / "checkpoints"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("checkpoints")
    for path in (path for kind in KINDS for path in ask.roots(root, kind).values()):
        folder_of_tokenizer(path.parent)
    return root


@pytest.fixture(scope="module")
def trained(folder: Path) -> dict[str, Any]:
    """What each engine has at its checkpoint and a step later, with two micro-batches or two ranks."""
    torch.set_num_threads(1)
    by_ranks = {
        kind: told_by_ranks(partial(ask.train, folder=folder, kind=kind), CHOICE, 2, LIMIT) for kind in KINDS[1:]
    }
    return {"local": [ask.train(CHOICE, folder, "local")], **by_ranks}


@pytest.fixture(scope="module")
def continued(folder: Path, trained: dict[str, Any]) -> dict[str, Any]:
    """The same of each engine that reads each other's checkpoint."""
    everyone = tuple(KINDS)
    by_ranks = {
        kind: told_by_ranks(partial(ask.go_on, folder=folder, kind=kind, wrote=everyone), CHOICE, 2, LIMIT)
        for kind in KINDS[1:]
    }
    return {"local": [ask.go_on(CHOICE, folder, "local", everyone)], **by_ranks}


@pytest.mark.parametrize("case", ask.CASES)
@pytest.mark.parametrize("writer", KINDS)
@pytest.mark.parametrize("reader", KINDS)
def test_every_engine_continues_from_every_other_to_the_same_bits(trained, continued, reader, writer, case):
    """Weights, buffers, and the state of the optimizer by the name of the parameter."""
    unbroken = trained["local"][0][case]
    for rank in continued[reader]:
        found = rank[case, writer]
        for when in ("saved", "ended"):
            assert found[when].keys() == unbroken[when].keys()
            assert [name for name, digest in unbroken[when].items() if found[when][name] != digest] == []
