"""What ranks say of each other, and how soon: real processes that speak gloo."""

from __future__ import annotations

import json
import socket
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
from forked import side_by_side
from torch.distributed import TCPStore as Store  # pyright: ignore[reportPrivateImportUsage]

from penstock.conformance.ranks import torchrun_variables
from penstock.hooks.problems import ExitCode, ProblemError
from penstock.train import rendezvous
from penstock.train.rendezvous import ATTEMPT, HOSTED, Place, meet

RANK = """
import json, os, signal, sys, time

import torch

from penstock.hooks import Problem, ProblemError
from penstock.run import messages
from penstock.train.group import RankGroup

variables, trouble, said = json.loads(sys.argv[1]), sys.argv[2], []
os.environ.update(variables)
rank = int(variables["RANK"])
begun = time.monotonic()
with messages.shown(said.append, said.append):
    group = RankGroup(torch.device("cpu"), timeout=0.1, stacks_after=0.03)
    try:
        for step in range(4):
            if step == 2 and trouble == f"kill {rank}":
                os.kill(os.getpid(), signal.SIGKILL)
            if step == 2 and trouble == f"hang {rank}":
                time.sleep(600)
            with group.together():
                torch.distributed.all_reduce(torch.ones(3))
            if step == 2 and trouble == f"refuse {rank}":
                raise ProblemError(Problem("no", "it does not fit"))
            if step == 2 and trouble == f"interrupt {rank}":
                raise KeyboardInterrupt
            if step == 2 and trouble == f"work {rank}":
                time.sleep(8)  # longer than the limit of a call
            group.wait_for_all()
    except ProblemError as error:
        group.close(error)
        print(json.dumps({"said": said, "error": str(error), "code": error.exit_code}))
    except KeyboardInterrupt as error:
        group.close(error)
        print(json.dumps({"said": said, "error": "interrupted", "code": 130}))
    else:
        group.close()
        print(json.dumps({"said": said, "error": None, "code": 0}))
"""


def told(*troubles: str, store: Store | None = None) -> dict[str, list[dict | None]]:
    """What each rank of a pair says of each trouble; None if it ended without a word. They meet in the store of a
    launcher, if there is one, where each pair has keys of its own."""
    calls: list[list[str]] = []
    for number, trouble in enumerate(troubles):
        hosted = {} if store is None else {"MASTER_PORT": str(store.port), HOSTED: "True", ATTEMPT: str(number)}
        calls += [[json.dumps({**each, **hosted}), trouble] for each in torchrun_variables(2)]
    answers = [json.loads(answer) if answer else None for answer in side_by_side(RANK, calls, seconds=90)]
    return {trouble: answers[2 * number : 2 * number + 2] for number, trouble in enumerate(troubles)}


def test_a_rank_says_that_the_one_with_the_store_ended_while_they_met():
    host = Store("localhost", 0, is_master=True, wait_for_workers=False)
    with ThreadPoolExecutor(1) as other:
        met = other.submit(meet, Place(1, 2, 1, "localhost", host.port, 0, hosted=True), 1.0)
        while not host.check(["attempt-0/joined/1"]):
            time.sleep(0.01)
        del host
        with pytest.raises(ProblemError, match="rank 1: another rank exited while the ranks met") as refused:
            met.result(timeout=30)
    assert refused.value.exit_code == ExitCode.FAILED


def test_a_rank_that_dies_between_listening_and_answering_is_noticed(monkeypatch):
    monkeypatch.setattr(rendezvous, "CONNECTING", timedelta(seconds=1))
    with socket.create_server(("localhost", 0)) as listener, ThreadPoolExecutor(1) as other:
        port, begun = listener.getsockname()[1], time.monotonic()
        met = other.submit(meet, Place(1, 2, 1, "localhost", port, 0, hosted=False), 1.0)
        looked, _ = listener.accept()
        asked, _ = listener.accept()
        listener.close()
        for connection in (looked, asked):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closing resets it
            connection.close()
        with pytest.raises(ProblemError, match="rank 1: another rank exited while the ranks met") as refused:
            met.result(timeout=30)
    assert refused.value.exit_code == ExitCode.FAILED
    assert time.monotonic() - begun < 20


STOPPED = """
import json, os, signal, sys

import torch

from penstock.hooks import ProblemError
from penstock.train import group
from penstock.train.group import RankGroup

os.environ.update(json.loads(sys.argv[1]))
group.SILENT = 3
ranks = RankGroup(torch.device("cpu"), timeout=0.05, stacks_after=0.05)
process = torch.tensor([os.getpid()])
torch.distributed.broadcast(process, src=0)
if ranks.rank == 0:
    os.kill(os.getpid(), signal.SIGSTOP)
try:
    with ranks.together():
        torch.distributed.all_reduce(torch.ones(3))
except ProblemError as error:
    ranks.close(error)
    print(json.dumps([error.exit_code, str(error)]))
finally:
    os.kill(int(process), signal.SIGKILL)
"""


def test_a_stopped_process_with_the_store_does_not_hold_the_others_for_ever():
    _, answer = side_by_side(STOPPED, [[json.dumps(each)] for each in torchrun_variables(2)], seconds=90)
    code, said = json.loads(answer)
    assert code == ExitCode.FAILED
    assert said.startswith("rank 1: rank 0, which holds the ranks together, does not answer; it is stopped, or")


def test_ranks_that_cannot_be_one_group_are_told_why():
    host = Store("localhost", 0, is_master=True, wait_for_workers=False)

    def place(rank: int, ranks: int, attempt: int = 0) -> Place:
        return Place(rank, ranks, rank, "localhost", host.port, attempt, hosted=True)

    with ThreadPoolExecutor(1) as other:
        longer = other.submit(meet, place(1, 3), 0.05)
        with pytest.raises(ProblemError, match="WORLD_SIZE is 2, and 3 on rank 1, start all processes with the same"):
            meet(place(0, 2), 1.0)
        assert isinstance(longer.exception(timeout=30), ProblemError)
    host.set("attempt-1/process/1", "process 1 of another machine")
    with pytest.raises(ProblemError, match="two processes are rank 1, give each process a RANK of its own"):
        meet(place(1, 2, attempt=1), 1.0)


def test_the_ranks_that_are_left_say_which_one_is_gone_hangs_or_only_works():
    found = told("kill 0", "kill 1", "hang 1", "work 0", "refuse 0")
    fix = ", fix the error on that rank, then continue from the last checkpoint with --resume"

    assert found["kill 0"][0] is None
    what = "rank 1: another rank exited: rank 0, which held the ranks together, is gone"
    assert found["kill 0"][1] == {"said": [], "error": what + fix, "code": 1}

    what = "rank 0: another rank exited: rank 1 ended without a word (killed, or its machine failed)"
    assert found["kill 1"] == [{"said": [], "error": what + fix, "code": 1}, None]

    first, second = found["hang 1"]
    assert second is None  # its own watchdog ended it
    assert first is not None
    assert first["error"] == "rank 0: rank 1 did not arrive within 0.1 minutes" + fix
    (stacks,) = first["said"]
    begin = "rank 0 waited 1.8 seconds for rank 1; this is said once, and the run fails after 6 seconds "
    assert stacks.startswith(begin + "(train.engine.timeout)\nrank 0:\n  MainThread:\n")
    waits, _, hangs = stacks.partition("\nrank 1:\n  MainThread:\n")
    assert "all_reduce" in waits
    assert "all_reduce" not in hangs
    assert Path(__file__).parent.name not in hangs  # a script without a file: its line stands alone
    assert ", line 21, in <module>" in hangs

    assert found["work 0"] == [{"said": [], "error": None, "code": 0}] * 2
    assert found["refuse 0"][1] == {"said": [], "error": "", "code": 2}  # rank 0 has said it


def test_what_rank_0_can_say_no_other_repeats_and_all_are_interrupted_together():
    store = Store("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    found = told("refuse 0", "refuse 1", "interrupt 0", "interrupt 1", store=store)
    first, second = found["refuse 0"]
    assert first == {"said": [], "error": "it does not fit", "code": 2}
    assert second == {"said": [], "error": "", "code": 2}
    first, second = found["refuse 1"]
    assert first is not None
    assert first["error"].startswith("rank 0: another rank exited (rank 1: it does not fit), ")
    assert second == {"said": [], "error": "it does not fit", "code": 2}  # `joined` keeps it to itself
    for trouble in ("interrupt 0", "interrupt 1"):
        assert found[trouble] == [{"said": [], "error": "interrupted", "code": 130}] * 2


JOINING = """
import json, os, sys
from pathlib import Path

import torch

from penstock.hooks import ExitCode, Problem, ProblemError
from penstock.hooks.registry import Registry
from penstock.run.config import load_run_config
from penstock.train.ranks import joined

os.environ.update(json.loads(sys.argv[1]))
if sys.argv[3] == "other torch" and os.environ["RANK"] == "1":
    torch.__version__ = "1.0"
config, _ = load_run_config(Path(sys.argv[2]), ["train.engine=ddp"], Registry.discover())
try:
    with joined(config):
        raise ProblemError(Problem("no", "it does not fit"), ExitCode.FAILED)
except ProblemError as error:
    print(json.dumps([error.exit_code, str(error)]))
"""


CONFIG = """
name: other
data: {corpus: {use: python-stdlib}}
model: {use: glm-moe, preset: quickstart}
train: {tokens: 1000}
"""


def test_what_both_ranks_find_rank_0_alone_says_and_those_with_another_torch_do_not_begin(tmp_path):
    (tmp_path / "run.yaml").write_text(CONFIG)
    config, troubles = str(tmp_path / "run.yaml"), ["other torch", "refused"]
    calls = [[json.dumps(each), config, trouble] for trouble in troubles for each in torchrun_variables(2)]
    first, second, *refused = map(json.loads, side_by_side(JOINING, calls, seconds=90))
    assert first[0] == second[0] == 2
    assert first[1].startswith("rank 1: torch: has 1.0, rank 0 has ")
    assert second[1] == ""
    assert refused == [[1, "it does not fit"], [1, ""]]
