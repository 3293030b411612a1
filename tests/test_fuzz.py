"""Damaged files of every format are refused by name or read as a sound value. `fuzz/run.py` tries ten times as many."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

WORKER = Path(__file__).parent / "fuzz" / "worker.py"
GROUPS = {
    "compressed": "gz,bz2,xz,zst",
    "text": "text,jsonl,examples,parquet",
    "config": "config,run-config",
    "traces": "trace-npz,trace-vllm,trace-counts,trace-pairs,trace-sglang",
    "tokens": "tokenizer,llama2c-tokenizer,shard,index,manifest",
    "records": "evaluation,metrics,status,run-lock",
    "artifacts": "artifact,artifact-header,artifact-coded,artifact-coded-header,artifact-stream",
    "weights": "llama2c,safetensors,glm-config,checkpoint,trainer-state,shards",
}
"""Formats that share their imports are read in one process."""
COUNT = 200


@pytest.mark.parametrize("group", GROUPS)
def test_a_damaged_file_is_refused_or_sound(group: str) -> None:
    command = [sys.executable, str(WORKER), GROUPS[group], "0", str(COUNT)]
    child = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert child.returncode == 0, child.stderr[-2000:]
    found = json.loads(child.stdout.splitlines()[-1])
    assert [failure for _, failures in found.values() for failure in failures] == []
    assert set(found) == set(GROUPS[group].split(","))
    assert all(sum(outcomes.values()) == COUNT for outcomes, _ in found.values())


def test_every_format_is_in_a_group() -> None:
    command = [sys.executable, "-c", "import formats; print(*formats.FORMATS)"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True, cwd=WORKER.parent).stdout.split()
    assert sorted(listed) == sorted(name for names in GROUPS.values() for name in names.split(","))
