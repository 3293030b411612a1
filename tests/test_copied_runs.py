"""Prepared data is found by what it holds, so configs share it, and a run works wherever it is copied to."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file

from penstock.hooks import Registry
from penstock.hooks.problems import ProblemError
from penstock.run.config import digest
from penstock.run.directory import RunDirectory
from penstock.train.data import find_data

Command = Callable[..., Any]


@pytest.fixture
def own(workplace: Path, config_file: Path, tmp_path: Path) -> Path:
    """A config whose corpus this test may change."""
    shutil.copytree(workplace / "corpus", tmp_path / "corpus")
    path = tmp_path / "own.yaml"
    path.write_text(config_file.read_text().replace(str(workplace / "corpus"), str(tmp_path / "corpus")))
    return path


@pytest.fixture
def made(own: Path, command: Command, tmp_path: Path) -> Path:
    """A finished run under `tmp_path/runs`, with two checkpoints."""
    return Path(command("train", own, "--runs", tmp_path / "runs", "--json")["run_dir"])


def newest(run: Path) -> Path:
    return max((run / "checkpoints").glob("step-*"))


def as_if_stopped(run: Path) -> None:
    """Back to the checkpoint before the last."""
    shutil.rmtree(newest(run))
    (run / "checkpoints" / "latest").write_text(newest(run).name + "\n")


def test_names_seeds_and_lengths_share_data_and_other_splits_do_not(
    own: Path, command: Command, tmp_path: Path
) -> None:
    def folder(*overrides: str) -> str:
        return command("prepare", own, *overrides, "--runs", tmp_path / "runs")["data"]

    first = folder()
    assert {folder("name=other"), folder("seed=3"), folder("data.sequence_length=16")} == {first}
    others = ["data.seed=1", "data.heldout_share=0.4", "data.tokenizer.vocab_size=350", "data.filters=[]"]
    assert len({first, *map(folder, others)}) == 1 + len(others)


def test_a_changed_corpus_is_other_data_and_one_that_is_gone_is_not_needed(
    own: Path, command: Command, tmp_path: Path
) -> None:
    asked = ("prepare", own, "--runs", tmp_path / "runs")
    first = command(*asked)["data"]
    (tmp_path / "corpus" / "more.py").write_text("more = 1\n" * 50)
    second = command(*asked)["data"]
    assert second != first
    shutil.rmtree(second)
    shutil.rmtree(tmp_path / "corpus")
    found = command(*asked)
    assert (found["data"], found["reused"]) == (first, True)


def test_an_existing_tokenizer_counts_by_its_content(own: Path, command: Command, tmp_path: Path) -> None:
    asked = ("prepare", own, "--runs", tmp_path / "runs")
    prepared = Path(command(*asked)["data"])
    for name in ("one.json", "two.json"):
        shutil.copyfile(prepared / "tokenizer.json", tmp_path / name)
    one, two = (command(*asked, f"data.tokenizer.file={tmp_path / name}") for name in ("one.json", "two.json"))
    assert one["data"] == two["data"] != str(prepared)


def test_a_copied_run_works_without_its_data_and_says_how_to_get_that_back(
    own: Path, made: Path, command: Command, tmp_path: Path
) -> None:
    copy = tmp_path / "elsewhere" / "copy"
    shutil.copytree(made, copy)
    shutil.rmtree(tmp_path / "runs")
    assert command("generate", copy, "--prompt", "def ", "--tokens", 3, "--json")["new_tokens"] == 3
    assert Path(command("export", copy)["folder"], "config.json").is_file()
    assert command("profile", copy, "--corpus", own)["tokens"] > 0
    measured = command("evaluate", copy, "--task", f"{{use: text, paths: [{own}]}}")
    assert measured["measured"] == ["text"]
    assert measured["baselines"] == dict.fromkeys(measured["baselines"])

    with pytest.raises(ProblemError, match="the data of this run was not found") as caught:
        command("evaluate", copy)
    (advised,) = re.findall("`penstock (prepare .*)`", str(caught.value))
    command(*shlex.split(advised))
    assert command("evaluate", copy)["heldout_bits_per_byte"] > 0

    whole = load_file(newest(copy) / "model.safetensors")
    as_if_stopped(copy)
    command("train", copy / "config.resolved.yaml", "--resume", copy, "--runs", tmp_path / "runs")
    again = load_file(newest(copy) / "model.safetensors")
    assert all(bool((tensor == again[name]).all()) for name, tensor in whole.items())
    assert not (tmp_path / "runs" / "data").exists()  # what was next to the copy is what it was trained on


def test_a_run_resumes_on_what_it_read_even_if_the_corpus_has_changed(
    own: Path, made: Path, command: Command, tmp_path: Path
) -> None:
    data = find_data(RunDirectory.open(made))
    (tmp_path / "corpus" / "more.py").write_text("more = 1\n" * 50)
    as_if_stopped(made)
    command("train", own, "--resume", made, "--runs", tmp_path / "runs")
    assert find_data(RunDirectory.open(made)) == data
    assert len(list((tmp_path / "runs" / "data").iterdir())) == 1


def as_if_earlier(run: Path, seed: int) -> None:
    """As runs were before `data.json` and `data.seed`."""
    (run / "data.json").unlink()
    resolved = yaml.safe_load((run / "config.resolved.yaml").read_text())
    del resolved["data"]["seed"]
    resolved["seed"] = seed
    (run / "config.resolved.yaml").write_text(yaml.safe_dump(resolved))
    (data,) = (run.parent.parent / "data").iterdir()
    data.rename(data.with_name(f"{resolved['name']}-{digest({'seed': seed, **resolved['data']})}"))


def test_an_earlier_run_is_evaluated_and_resumed(own: Path, made: Path, command: Command, tmp_path: Path) -> None:
    as_if_earlier(made, seed=0)
    assert command("evaluate", made)["heldout_bits_per_byte"] > 0
    as_if_stopped(made)
    command("train", own, "--resume", made, "--runs", tmp_path / "runs")
    assert len(list((tmp_path / "runs" / "data").iterdir())) == 1
    assert (made / "data.json").is_file()


def test_the_seed_of_an_earlier_run_was_that_of_its_split(
    own: Path, made: Path, command: Command, tmp_path: Path
) -> None:
    as_if_earlier(made, seed=5)
    assert RunDirectory.open(made).config(Registry.discover()).data.seed == 5
    with pytest.raises(ProblemError, match=r"data\.seed: was 5, is 0"):
        command("train", own, "seed=5", "--resume", made, "--runs", tmp_path / "runs")
