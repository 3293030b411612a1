"""A cleaning that is killed with its workers ends with the bytes of one that was left alone."""

from __future__ import annotations

import random
from pathlib import Path

from killed_cleanings import cleaned, digest, killed_cleaning, write_cleaning

STAGES = ["urls", "exact", "gopher"]


def test_three_kills_change_no_byte(tmp_path: Path) -> None:
    """`benchmarks/cleaning_kills.py` has more."""
    clean_file = write_cleaning(tmp_path / "data", STAGES)
    seconds = cleaned(clean_file, tmp_path / "alone")
    generator = random.SystemRandom()
    killed_cleaning(clean_file, tmp_path / "killed", generator, seconds, kills=3)
    assert digest(tmp_path / "killed") == digest(tmp_path / "alone")
