"""`penstock train --ranks`, and how ranks end: together, soon, and with one word about who failed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from crash import differences, outcome

from penstock.cli.main import run as run_command
from penstock.hooks import ProblemError
from penstock.train.launch import launched as launched_ranks
from penstock.train.launch import threads_of
from penstock.train.rendezvous import Place, connected, meet, place

LIMIT = 240  # seconds that ranks have: a hang is a failure
# What goes wrong on rank 1 in the middle of a run; a restarted run is spared, and its rank 1 comes late.
PLUGIN = """
import atexit, os, signal, sys, time

from penstock.hooks import Component, hookimpl

trouble = os.environ.get("TROUBLE") if os.environ.get("RANK") == "1" else None
if trouble == "kill" and os.environ["TORCHELASTIC_RESTART_COUNT"] != "0":
    trouble = None
    time.sleep(2)


def say_what_nobody_needs():
    if "torch._dynamo" in sys.modules:
        print("torch's compiler was imported", file=sys.stderr)


atexit.register(say_what_nobody_needs)


class Trouble:
    def __call__(self, progress):
        if trouble is None or progress < 0.5:
            return 1.0
        print("about to die", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)


@hookimpl
def schedules():
    return [Component("schedule", "trouble", f"{__name__}:Trouble", "Fails on one rank")]
"""


@pytest.fixture
def plugin(tmp_path: Path) -> Sequence[str]:
    (tmp_path / "troubled.py").write_text(PLUGIN)
    return ["--plugin", "troubled.py"]


@contextmanager
def launched(*arguments: object, cwd: Path, trouble: str = "") -> Iterator[subprocess.Popen[str]]:
    """`penstock ARGUMENTS`, which starts ranks; nothing of it outlives the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", "penstock.cli", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TROUBLE": trouble},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # the tests may run under nohup
    )
    children: list[int] = []
    try:
        yield process
    finally:
        children = children_of(process.pid)
        process.kill()
        process.communicate()
        for child in children:
            os.kill(child, signal.SIGKILL)


def children_of(pid: int) -> list[int]:
    try:
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def wait_until(true, what: str) -> None:
    deadline = time.monotonic() + LIMIT
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def close_terminal(process: subprocess.Popen[str]) -> None:
    """Nobody reads any more what the process and its ranks say."""
    assert process.stderr is not None
    process.stderr.close()
    process.stderr = None


def steps_begun(folder: Path) -> bool:
    return any(path.stat().st_size for path in folder.glob("runs/tiny/2*/metrics.jsonl"))


def test_a_killed_rank_is_named_and_restarted_to_the_bits_of_one_process(tiny, plugin, tmp_path, monkeypatch):
    """Both attempts use one store, and the first rank of the second comes before the other has a new address."""
    monkeypatch.chdir(tmp_path)
    arguments = [*plugin, "train", str(tiny), "train.schedule=trouble", "train.micro_batch_size=2", "--json"]
    with launched(*arguments, "--ranks", 2, "--max-restarts", 1, cwd=tmp_path, trouble="kill") as process:
        alone = tmp_path / run_command([*arguments, "--runs", "alone"])["run_dir"]
        result, said = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, said
    assert said.count("rank 1 was killed by SIGKILL: continuing from the last checkpoint (restart 1 of 1)") == 1
    assert said.count("another rank exited (rank 1 was killed by SIGKILL)") == 1
    assert said.count("rank 1: about to die") == 1
    assert "Traceback" not in said
    assert "torch's compiler was imported" not in said  # seconds, in each process
    run = tmp_path / json.loads(result)["run_dir"]
    ends = outcome(run), outcome(alone)
    for end in ends:  # the random numbers of the second rank, and a root over a rank's own micro-batches
        for name in ("torch_rng_of_ranks", "cuda_rng_of_ranks"):
            end["engine"].pop(name, None)
        for row in end["metrics"]:
            row.pop("balance/global-loss/gradient_error", None)
    assert differences(*ends) == []
    assert sorted(path.name for path in (run / "logs").iterdir()) == ["rank-0.log", "rank-1.log"]
    assert "another rank exited (rank 1 was killed by SIGKILL)" in (run / "logs" / "rank-0.log").read_text()


def test_a_signal_or_the_death_of_the_launcher_stops_all_ranks_with_one_checkpoint(tiny, tmp_path):
    """The second run goes on where the first stopped."""
    arguments = ["train", tiny, "train.micro_batch_size=2", "train.tokens=640000", "train.checkpoint_every=10000"]
    arguments += ["train.evaluate_every=null", "--ranks", 2, "--resume", "auto"]
    with launched(*arguments, cwd=tmp_path) as process:
        wait_until(lambda: steps_begun(tmp_path), "the first step")
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=LIMIT)
    assert process.returncode == 130, said
    assert said.count("stopping after this step") == said.count("interrupted") == 1
    assert "--ranks 2" in said.partition("continue with: ")[2]
    (run,) = tmp_path.glob("runs/tiny/2*")
    status = json.loads((run / "status.json").read_text())
    assert status["state"] == "interrupted"
    assert [path.name for path in run.glob("checkpoints/step-*")] == [f"step-{status['step']:08d}"]
    with launched(*arguments, cwd=tmp_path) as process:
        wait_until(lambda: json.loads((run / "status.json").read_text())["state"] == "running", "the run to go on")
        ranks = children_of(process.pid)
        close_terminal(process)
        process.kill()
        assert len(ranks) == 2
        wait_until(lambda: not any(Path(f"/proc/{rank}").exists() for rank in ranks), "the ranks to end")
    after = json.loads((run / "status.json").read_text())
    assert after["state"] == "interrupted"
    assert (run / "checkpoints" / f"step-{after['step']:08d}").exists()


def test_a_terminal_that_closes_stops_a_run_with_a_checkpoint(tiny, tmp_path):
    arguments = ["train", tiny, "train.tokens=640000", "train.checkpoint_every=10000", "train.evaluate_every=null"]
    with launched(*arguments, cwd=tmp_path) as process:
        wait_until(lambda: steps_begun(tmp_path), "the first step")
        close_terminal(process)
        for _ in range(2):  # the terminal's, and that of its shell
            process.send_signal(signal.SIGHUP)
        assert process.wait(LIMIT) == 130
    (run,) = tmp_path.glob("runs/tiny/2*")
    status = json.loads((run / "status.json").read_text())
    assert status["state"] == "interrupted"
    assert [path.name for path in run.glob("checkpoints/step-*")] == [f"step-{status['step']:08d}"]


def test_a_plan_of_ranks_says_what_each_does_and_holds(tiny, capsys):
    plan = run_command(["train", str(tiny), "train.micro_batch_size=null", "--ranks", "2", "--dry-run"])
    assert [(each["rank"], each["micro_batches"], each["micro_batch_size"]) for each in plan["ranks"]] == [
        (0, 1, 2),
        (1, 1, 2),
    ]
    assert {each["parameter_bytes"] for each in plan["ranks"]} == {4 * plan["parameters"]["total"]}
    assert "micro-batches x sequences" in capsys.readouterr().out
    with pytest.raises(ProblemError, match="cannot be split over 3 ranks"):
        run_command(["train", str(tiny), "--ranks", "3", "--dry-run"])


@pytest.mark.parametrize("rank", [0, 1])
def test_ranks_do_not_start_ranks_and_rank_0_alone_says_so(tiny, rank, monkeypatch):
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ProblemError) as raised:
        run_command(["train", str(tiny), "--ranks", "2"])
    assert raised.value.exit_code == 2
    assert ["this process is rank 0 of 2 already" in str(each) for each in raised.value.problems] == [True] * (not rank)


def test_commands_of_one_process_refuse_ranks_before_they_begin(tiny, tmp_path, monkeypatch):
    quickstart = ["quickstart", "--config", str(tiny), "--runs", str(tmp_path / "runs")]
    with pytest.raises(ProblemError, match="trains in one process, but engine 'ddp' is for several"):
        run_command([*quickstart, "train.engine=ddp"])
    for rank, said in enumerate(["2 processes were started for a command that is one", ""]):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        with pytest.raises(ProblemError) as raised:
            run_command([*quickstart, "train.engine=ddp"])
        assert [said in str(each) for each in raised.value.problems] == [True] * (1 - rank)
    assert not (tmp_path / "runs").exists()


TROUBLES = {
    "fine": ("", 0, ""),
    "stopped": ("sys.exit(130)", 130, ""),
    "said": ("if rank == 1: sys.exit(3)", 3, ""),
    "unknown code": ("if rank == 1: os._exit(7)", 1, "rank 1 ended with code 7"),
    "killed": ("if rank == 0: os.kill(os.getpid(), 9)\ntime.sleep(600)", 1, "rank 0 was killed by SIGKILL"),
}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_the_launcher_says_how_a_rank_ended_where_no_rank_could(trouble, tmp_path, monkeypatch):
    """One that waits for another that was killed is killed by the launcher."""
    monkeypatch.setattr("penstock.train.launch.GRACE", 0.0)
    does, code, said = TROUBLES[trouble]
    script = f"import os, signal, sys, time; rank = int(os.environ['RANK'])\n{does}"
    try:
        launched_ranks([sys.executable, "-c", script], 2, tmp_path / "logs", max_restarts=0)
        ended = (0, "")
    except ProblemError as error:
        ended = (error.exit_code, str(error).partition(",")[0])
    assert ended == (code, said)


SAYS = """
import os, sys
from datetime import timedelta
sys.stdout.write("begun\\n")
if os.environ["RANK"] == "0": sys.exit(0)
import torch.distributed as dist
attempt = os.environ["TORCHELASTIC_RESTART_COUNT"]
store = dist.TCPStore("127.0.0.1", int(os.environ["MASTER_PORT"]))
store.set(f"attempt-{attempt}/error", "rank 1: no water")
sys.exit(1)
"""


@pytest.mark.parametrize(
    ("script", "attempts"), [("import sys; print('begun'); sys.exit(2)", 1), (SAYS, 2)], ids=["usage", "same error"]
)
def test_a_failure_that_would_come_again_is_not_started_again(script, attempts, tmp_path):
    """One that is used wrongly never, one that says the same at once after the first time."""
    with pytest.raises(ProblemError):
        launched_ranks([sys.executable, "-c", script], 2, tmp_path / "logs", max_restarts=5)
    assert (tmp_path / "logs" / "rank-1.log").read_text().count("begun") == attempts


def test_a_signal_while_ranks_start_leaves_none_of_them(tmp_path):
    before = set(children_of(os.getpid()))  # of other tests
    script = "import os, signal, time; os.kill(os.getppid(), signal.SIGINT); time.sleep(600)"
    with pytest.raises(KeyboardInterrupt):
        launched_ranks([sys.executable, "-c", script], 2, tmp_path / "logs", max_restarts=0)
    assert set(children_of(os.getpid())) <= before


@pytest.mark.parametrize(("given", "threads"), [("3", 3), ("4,2", 4), (" ", 1), ("", 1)])
def test_threads_are_those_that_the_user_gives_a_process(given, threads, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    assert threads_of(10_000) == threads


@pytest.mark.parametrize("given", ["many", "0", "-1", "1.5"])
def test_threads_that_are_no_number_are_refused(given, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    with pytest.raises(ProblemError, match=f"OMP_NUM_THREADS is '{given}', which is no number of threads"):
        threads_of(2)


def test_logs_that_cannot_be_written_are_a_problem_of_the_disk(tiny, unkilled, tmp_path):
    run = Path(shutil.copytree(unkilled.run, tmp_path / "run"))
    shutil.rmtree(run / "logs", ignore_errors=True)
    (run / "logs").write_text("in the way")
    with pytest.raises(ProblemError, match=f"{run}/logs: File exists, the last good checkpoint is") as raised:
        run_command(["train", str(tiny), "--ranks", "2", "--resume", str(run)])
    assert raised.value.exit_code == 1


def free_port() -> int:
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


GOOD = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"WORLD_SIZE": ""}, "missing: WORLD_SIZE"),
        ({"RANK": "2"}, "RANK is 2, but WORLD_SIZE is 2"),
        ({"RANK": "-1", "LOCAL_RANK": "0"}, "RANK is -1"),
        ({"RANK": "one"}, "RANK is 'one', which is no number"),
        ({"LOCAL_RANK": "2"}, "LOCAL_RANK is 2, but RANK is 1"),
        ({"MASTER_PORT": "70000"}, "MASTER_PORT is 70000, which is no port"),
    ],
)
def test_variables_of_a_launcher_that_contradict_each_other_are_refused(wrong, said):
    assert place(GOOD).rank == 1
    with pytest.raises(ProblemError, match=said) as raised:
        place({**GOOD, **wrong})
    assert raised.value.exit_code == 2


def at(rank: int, port: int, attempt: int = 0) -> Place:
    return Place(rank, 2, rank, "127.0.0.1", port, attempt, hosted=False)


def test_a_port_in_use_an_unreachable_host_and_a_missing_rank_are_said_without_a_hang():
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ProblemError, match=f"rank 0: port {port} is already in use"):
            meet(at(0, port), minutes=0.02)
    with pytest.raises(ProblemError, match=r"rank 1: cannot reach rank 0 at 127\.0\.0\.1"):
        meet(at(1, free_port()), minutes=0.02)
    with pytest.raises(ProblemError, match=r"rank 0: rank 1 did not start within 0\.02 minutes"):
        meet(at(0, free_port()), minutes=0.02)


def test_an_attempt_does_not_see_what_another_left_in_the_store():
    port, soon = free_port(), time.monotonic() + 10
    first = connected(at(0, port), soon)
    first.set("address", "of a rank that was killed")
    again = connected(at(1, port, attempt=1), soon)
    assert first.check(["address"])
    assert not again.check(["address"])
