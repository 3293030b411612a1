"""What is killed with its workers ends with the bytes of what was left alone: cleanings, and changes of an index."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

from killed_cleanings import clean_command, digest, index_commands, run_killed, run_to_the_end

STAGES = ["urls", "exact", "gopher"]


def test_three_kills_change_no_byte(tmp_path: Path) -> None:
    """`benchmarks/cleaning_kills.py` has more."""
    command = clean_command(tmp_path / "data", STAGES)
    seconds = run_to_the_end(command, tmp_path / "alone")
    run_killed(command, tmp_path / "killed", random.SystemRandom(), seconds, kills=3)
    assert digest(tmp_path / "killed") == digest(tmp_path / "alone")


def test_three_kills_of_an_index_change_no_byte(tmp_path: Path) -> None:
    before, add = index_commands(tmp_path / "data", documents=400)["index add"]
    _, remove = index_commands(tmp_path / "data", documents=400)["index remove"]
    run_to_the_end(before, tmp_path / "alone")
    shutil.copytree(tmp_path / "alone", tmp_path / "killed")
    for command, kills in ((add, 2), (remove, 1)):
        seconds = run_to_the_end(command, tmp_path / "alone")
        run_killed(command, tmp_path / "killed", random.SystemRandom(), seconds, kills)
        assert digest(tmp_path / "killed") == digest(tmp_path / "alone")
