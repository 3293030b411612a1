"""A longer run that begins with the trunk of a shorter one ends with the bits of one that was trained in one go."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from crash import differences, outcome

from penstock.hooks import Registry
from penstock.hooks.problems import ProblemError
from penstock.run.config import load_run_config
from penstock.train.fork import steps_alike, steps_of_trunk

# Steps have 64 tokens: 6 steps that decay after the 4th, and 13 that decay after the 10th. The warm-up ends within the
# second step. `tokens` are no multiples, so that a run is longer than what is written.
WSD = "train.schedule={use: wsd, warmup_tokens: 80, decay_tokens: 128, final: 0.1}"
SHORT, LONG = ("train.tokens=380", WSD), ("train.tokens=800", WSD)
TRUNK = 4


@pytest.fixture(scope="module")
def train(workplace, tiny, tmp_path_factory):
    """Trains `tiny` with overrides; returns the run's folder."""
    from penstock.cli.main import run as run_command

    runs = tmp_path_factory.mktemp("forks")

    def trained(*arguments: str, into: str = "runs") -> Path:
        result = run_command(["train", str(tiny), *arguments, "--runs", str(runs / into), "--json"])
        return Path(result["run_dir"])

    return trained


@pytest.fixture(scope="module")
def short(train) -> Path:
    return train(*SHORT)


@pytest.fixture(scope="module")
def long(train) -> Path:
    return train(*LONG)


@pytest.fixture
def load(tiny):
    return lambda *overrides: load_run_config(tiny, overrides, Registry.discover())[0]


def test_the_checkpoint_where_decay_begins_is_kept(short):
    kept = [path.name for path in (short / "trunk").glob("step-*")]
    assert kept == [f"step-{TRUNK:08d}"]
    rows = map(json.loads, (short / "metrics.jsonl").read_text().splitlines())
    rates = [row["learning_rate_factor"] for row in rows if "learning_rate_factor" in row]
    assert rates == pytest.approx([32 / 80, 1, 1, 1, 0.1 + 0.9 * 0.75, 0.1 + 0.9 * 0.25])


@pytest.mark.parametrize("more", [[], ["train.checkpoint_async=true", "train.checkpoint_every=1"]])
def test_a_fork_ends_with_the_bits_of_the_long_run(train, short, long, more):
    fork = train(*LONG, *more, "--fork", str(short))
    assert differences(outcome(fork), outcome(long)) == []
    record = json.loads((fork / "fork.json").read_text())
    assert (record["step"], Path(record["run"])) == (TRUNK, short.resolve())
    assert [path.name for path in (fork / "trunk").glob("step-*")] == ["step-00000011"]


def test_a_dry_run_says_what_a_fork_begins_with(tiny, short, capsys):
    from penstock.cli.main import run as run_command

    plan = run_command(["train", str(tiny), *LONG, "--fork", str(short), "--dry-run"])
    assert plan["begins_with"] == {"run": str(short), "step": TRUNK}
    assert f"a new run would begin with the first {TRUNK} steps of {short}" in capsys.readouterr().out


def test_the_fork_of_a_fork_is_the_long_run_too(train, short, long):
    middle = train("train.tokens=500", WSD, "--fork", str(short))
    fork = train(*LONG, "--fork", str(middle))
    assert json.loads((fork / "fork.json").read_text())["step"] == 6
    assert differences(outcome(fork), outcome(long)) == []


def test_the_trunk_of_a_run_that_still_trains_will_do(train, short, long, tmp_path):
    shutil.copytree(short, tmp_path / "short")
    shutil.rmtree(tmp_path / "short" / "checkpoints")
    with (tmp_path / "short" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "lo')  # a line that is being written
    fork = train(*LONG, "--fork", str(tmp_path / "short"))
    assert differences(outcome(fork), outcome(long)) == []


def test_a_fork_that_was_killed_before_its_first_checkpoint_goes_on_from_the_trunk(train, short, long, caplog):
    fork = train(*LONG, "--fork", str(short), into="killed")
    shutil.rmtree(fork / "checkpoints")
    (fork / "status.json").write_text('{"state": "running"}')
    again = train(*LONG, "--fork", str(short), "--resume", "auto", into="killed")
    assert again == fork
    assert f"from step {TRUNK} of 13" in caplog.text
    assert differences(outcome(fork), outcome(long)) == []


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ((*LONG, "seed=1"), "seed: was 0, is 1"),
        ((*LONG, "train.gradient_clip=2"), "train.gradient_clip: was 1.0, is 2.0"),
        ((*LONG, "model.sharing=[{use: learned-sharing, budget: 1}]"), "follows the trained share"),
        (("train.tokens=800",), "another learning rate from the first step on"),
        (("train.tokens=800", "train.schedule={use: wsd}"), "another learning rate from the first step on"),
        (("train.tokens=250", WSD), "no checkpoint of the first 2 steps"),
    ],
)
def test_a_run_that_is_not_alike_is_refused_and_leaves_no_folder(train, short, arguments, found):
    for more in ((), ("--dry-run",)):
        with pytest.raises(ProblemError, match=found):
            train(*arguments, *more, "--fork", str(short), into="refused")
    assert not (short.parents[2] / "refused").exists()


def test_a_run_that_was_continued_with_other_settings_has_no_trunk(train, short, tmp_path):
    shutil.copytree(short, tmp_path / "short")
    line = {"config": {"train.optimizer.lr": [0.02, 0.1], "train.micro_batch_size": [1, 2]}}
    (tmp_path / "short" / "resumes.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(ProblemError, match=r"continued with another train\.optimizer\.lr"):
        train(*LONG, "--fork", str(tmp_path / "short"))


def test_a_damaged_trunk_is_named(train, short, tmp_path):
    shutil.copytree(short, tmp_path / "short")
    (tmp_path / "short" / "trunk" / f"step-{TRUNK:08d}" / "engine.pt").write_bytes(b"")
    with pytest.raises(ProblemError, match=r"damaged files: engine\.pt"):
        train(*LONG, "--fork", str(tmp_path / "short"))


def test_runs_without_a_shared_trunk_keep_no_checkpoint_apart(train, load):
    assert not (train("train.tokens=128", "train.schedule={use: wsd}") / "trunk").exists()
    assert steps_of_trunk(load()) is None
    assert steps_of_trunk(load("train.schedule={use: wsd}")) is None  # the warm-up is a share of the run
    assert steps_of_trunk(load("train.schedule={use: wsd, warmup: 0, decay: 0}")) is None
    assert steps_of_trunk(load("train.schedule={use: wsd, warmup: 0, decay: 0.5}")) == 3


def test_runs_are_alike_up_to_the_decay_of_the_shorter_one_whatever_their_lengths(load):
    def wsd(steps: int, warmup: int) -> tuple[str, ...]:
        return f"train.tokens={64 * steps}", f"train.schedule={{use: wsd, warmup_tokens: {warmup}, decay: 0.2}}"

    short = load(*wsd(60, 1000))
    assert steps_of_trunk(short) == 48
    for steps in (61, 100, 777, 4999):
        assert steps_alike(short, load(*wsd(steps, 1000))) == min(48, steps_of_trunk(load(*wsd(steps, 1000))) or 0)
    assert steps_alike(short, load(*wsd(777, 1001))) == 0


def test_a_warmup_and_a_decay_that_do_not_fit_the_run_are_refused(load):
    with pytest.raises(ProblemError, match=r"warmup_tokens=300 and decay_tokens=128 overlap.*384 tokens"):
        load("train.schedule={use: wsd, warmup_tokens: 300, decay_tokens: 128}")
