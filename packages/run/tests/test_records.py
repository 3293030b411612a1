"""Results of evaluations: written, read again, and read from files of earlier versions."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from penstock.hooks.contracts import Interval
from penstock.run.records import Baselines, Evaluation, Performance, Sample, TaskFigures, heldout_figure

# As `penstock evaluate` wrote it before tasks had intervals.
EARLIER: dict[str, Any] = {
    "checkpoint": "step-00000010",
    "tasks": {
        "heldout": {
            "metrics": {"heldout.bits_per_byte@disjoint-32": 4.25, "heldout.token_perplexity@disjoint-32": 61.5},
            "details": {"tokens": 99, "bytes": 240, "standard_error": 0.125, "standard_error_blocks": "documents"},
        }
    },
    "heldout_bits_per_byte": 4.25,
    "baselines": {"unigram_bits_per_byte": 4.5, "bigram_bits_per_byte": 3.5, "xz_bits_per_byte": 2.5},
    "samples": [{"prompt": "def ", "text": "f():", "temperature": 0.7}],
    "performance": {
        "prompt_tokens": 32,
        "prefill_ms": 1.5,
        "decode_ms_median": 0.5,
        "decode_ms_p90": 0.75,
        "tokens_per_second": 2000.0,
        "peak_memory_bytes": 400000000,
    },
    "seconds": 3.25,
}


def test_a_file_of_an_earlier_version_opens_and_keeps_every_key():
    evaluation = Evaluation.from_json(EARLIER)
    written = evaluation.to_json()
    assert written["tasks"]["heldout"].pop("intervals") == {}
    assert written == EARLIER
    assert evaluation.baselines.named == {"unigram": 4.5, "bigram": 3.5, "xz": 2.5}


def test_what_is_written_is_read_back_the_same():
    interval = Interval(0.25, 0.75, 0.125, 60, "percentile bootstrap")
    evaluation = Evaluation(
        "step-1",
        {
            "mine": TaskFigures(
                {"mine.accuracy@all": 0.5, "mine.f1@all": None}, {"n": 60}, {"mine.accuracy@all": interval}
            )
        },
        baselines=Baselines(xz_bits_per_byte=2.0),
        samples=[Sample("a", "b", 0.0)],
        performance=Performance(prefill_ms=1.0),
    )
    assert Evaluation.from_json(json.loads(json.dumps(evaluation.to_json()))) == evaluation


def test_unknown_keys_are_passed_over_and_wrong_types_are_not():
    assert Evaluation.from_json({"checkpoint": "step-1", "mood": "good"}) == Evaluation("step-1")
    with pytest.raises(ValidationError):
        Evaluation.from_json({"tasks": {"heldout": {"metrics": {"x": "many"}}}})


def test_only_all_held_out_text_is_the_runs_figure():
    assert heldout_figure({"heldout.bits_per_byte@disjoint-8": 2.0}) == 2.0
    assert heldout_figure({"heldout.bits_per_byte@first-10-tokens-disjoint-8": 2.0}) is None


def test_records_need_no_torch():
    code = "import sys, penstock.run.records; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
