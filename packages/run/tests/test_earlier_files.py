"""Files of runs that earlier versions wrote open, each as it was written then."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from penstock.run.records.evaluation import Evaluation
from penstock.run.records.origin import Environment, PluginLock
from penstock.run.records.profile import Profile
from penstock.run.records.record import Record, read_record
from penstock.run.records.simulation import NetworkRow, Simulation
from penstock.run.records.sweep import RunFigures, SweepFigures
from penstock.run.records.training import FormatSize, ParameterCounts, Status

# Before tasks had intervals.
EVALUATION: dict[str, Any] = {
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

# Before a profile had domains, pairs of layers and further figures of its load.
PROFILE: dict[str, Any] = {
    "split": "heldout",
    "tokens": 64,
    "k": 2,
    "layers": [
        {
            "layer": 1,
            "max_violation": 0.25,
            "gini": 0.125,
            "entropy": 0.96875,
            "cv": 0.25,
            "dead_experts": 0.0,
            "counts": [40, 24, 32, 32],
        }
    ],
    "max_violation_global": 0.25,
    "max_violation_batch": 0.5,
}

# Before fidelities, steps as a whole, and what each GPU gets; and from a topology without hardware.
SIMULATION: dict[str, Any] = {
    "topology": "graph",
    "hardware": None,
    "placement": "contiguous",
    "trace": "heldout.npz",
    "hidden_size": 5120,
    "tokens_per_gpu": 4096,
    "k": 2,
    "rows": [
        {
            "gpus": 16,
            "nodes": 2,
            "dispatch_seconds": 0.25,
            "combine_seconds": 0.5,
            "mean_seconds": 0.75,
            "p50_seconds": 0.625,
            "p99_seconds": 1.0,
            "max_seconds": 1.125,
            "balanced_seconds": 0.5,
            "slowdown": 1.5,
            "bytes_between_nodes": 1024.0,
            "worst_layer": 1,
        }
    ],
}

# Before a run could have several ranks; the parameters are of before some could be frozen.
STATUS: dict[str, Any] = {
    "state": "finished",
    "step": 10,
    "steps": 10,
    "tokens_seen": 640,
    "seconds": 3,
    "parameters": {"total": 96, "active": 64, "by_role": {"embedding": 32, "expert": 64}},
    "device": "cpu",
}

ENVIRONMENT: dict[str, Any] = {
    "python": "3.11.9",
    "platform": "Linux",
    "packages": {"numpy": "2.2.0", "local": None},
    "git": {"commit": "0" * 40, "dirty": False},
    "seed": 7,
    "argv": ["penstock", "train", "config.yaml"],
    "host": "laptop",
    "threads": 4,
    "deterministic": True,
}

LOCK: dict[str, Any] = {"components": [{"kind": "router", "name": "softmax-topk", "version": "0.1.0", "contract": 1}]}

# Of a dense model, which has no figures of balance.
SWEPT_RUN: dict[str, Any] = {
    "bits_per_byte": 1.5,
    "tokens": 1536,
    "seconds": 0.375,
    "active_parameters": 7,
    "flops": 64512,
}

# Where one seed gives no interval.
SWEEP: dict[str, Any] = {
    "baseline": "narrow",
    "cells": [
        {
            "cell": "wide",
            "seeds": 1,
            "bits_per_byte": 1.5,
            "max_violation": None,
            "max_violation_worst": None,
            "dead_experts": None,
            "nanoseconds_per_token": 250.5,
            "picoseconds_per_flop": 1500.25,
            "active_parameters": 7,
            "difference": {"mean": -0.25, "half_width": None},
        }
    ],
    "runs": [{"cell": "wide", "seed": 0, "run": "runs/wide", **SWEPT_RUN}],
}


@pytest.mark.parametrize(
    ("kind", "earlier"),
    [
        (Evaluation, EVALUATION),
        (Profile, PROFILE),
        (Simulation, SIMULATION),
        (Status, STATUS),
        (PluginLock, LOCK),
        (RunFigures, SWEPT_RUN),
        (SweepFigures, SWEEP),
    ],
)
def test_an_earlier_file_opens_and_keeps_every_key(kind: type[Record], earlier: dict[str, Any]) -> None:
    assert _within(earlier, kind.from_json(earlier).to_json())


def test_an_earlier_environment_opens_without_what_is_no_longer_read() -> None:
    kept = {name: value for name, value in ENVIRONMENT.items() if name != "deterministic"}
    assert _within(kept, Environment.from_json(ENVIRONMENT).to_json())


def test_what_an_earlier_evaluation_does_not_have_is_empty() -> None:
    evaluation = Evaluation.from_json(EVALUATION)
    assert evaluation.tasks["heldout"].intervals == {}
    assert evaluation.baselines.named == {"unigram": 4.5, "bigram": 3.5, "xz": 2.5}


def test_what_an_earlier_profile_does_not_have_is_unknown() -> None:
    profile = Profile.from_json(PROFILE)
    (layer,) = profile.layers
    assert (profile.pairs, profile.domains, profile.dropped_warm_up, profile.assignments) == ([], [], 0, None)
    assert (layer.variance, layer.specialisation, layer.coactivation) == (None, None, None)


def test_what_an_earlier_simulation_does_not_have_is_unknown() -> None:
    simulation = Simulation.from_json(SIMULATION)
    assert (simulation.hardware, simulation.fidelity, simulation.sweep) == (None, "", None)
    assert simulation.rows == [NetworkRow(**SIMULATION["rows"][0])]


def test_an_earlier_status_says_neither_ranks_nor_trained_parameters() -> None:
    status = Status.from_json(STATUS)
    assert (status.ranks, status.message, status.seconds) == (None, None, 3.0)
    assert status.parameters == ParameterCounts(96, None, 64, {"embedding": 32, "expert": 64})


def test_whole_numbers_of_bytes_open_as_sizes(tmp_path: Path) -> None:
    (tmp_path / "sizes.json").write_text('[{"format": "fp32", "bytes": 384}, {"format": "bf16", "bytes": 192}]')
    sizes = read_record(list[FormatSize], tmp_path / "sizes.json")
    assert sizes == [FormatSize("fp32", 384), FormatSize("bf16", 192)]


def _within(part: Any, whole: Any) -> bool:
    """Whether everything in the one is in the other, at any depth."""
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(name in whole and _within(part[name], whole[name]) for name in part)
    if isinstance(part, list):
        return isinstance(whole, list) and len(part) == len(whole) and all(map(_within, part, whole))
    return part == whole
