"""Tasks of each kind as a user writes them: YAML, with JSON lines beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

QUESTIONS = 8


def write_tasks(folder: Path) -> Path:
    """One task of each kind, and a group of two; the folder is `include_path`."""
    for name, (rows, settings) in _tasks().items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        files = {split: str(folder / f"{name}.jsonl") for split in ("test", "train")}
        own = {"task": name, "dataset_path": "json", "dataset_kwargs": {"data_files": files}, "test_split": "test"}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({**own, **settings}), encoding="utf-8")
    combined = [{"metric": "acc", "weight_by_size": True}, {"metric": "acc_norm", "weight_by_size": False}]
    group = {"group": "mill", "task": ["choose", "choose_again"], "aggregate_metric_list": combined}
    (folder / "mill.yaml").write_text(yaml.safe_dump(group), encoding="utf-8")
    return folder


def _tasks() -> Mapping[str, tuple[list[dict[str, Any]], dict[str, Any]]]:
    doors = [
        {
            "question": f"Gate {number} is",
            "choices": ["open", "shut at night", "the wheel"][: 2 + number % 2],
            "answer": number % 2,
        }
        for number in range(QUESTIONS)
    ]
    ends = [
        {"text": f"the wheel of mill {number} turns and the gate is {'open' if number % 3 else 'shut'}"}
        for number in range(QUESTIONS)
    ]
    pages = [{"page": " ".join(f"gate {number + word} turns" for word in range(1 + 7 * number))} for number in range(5)]
    sums = [
        {"question": f"{number} and {number} is", "answer": f"so it is {2 * number}"} for number in range(QUESTIONS)
    ]
    mean = {"aggregation": "mean", "higher_is_better": True}
    choose = {
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "fewshot_split": "train",
        "metric_list": [
            {"metric": "acc", **mean},
            {"metric": "acc_norm", **mean},
            {"metric": "f1", "aggregation": "f1"},
        ],
    }
    generate = {
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["\n", "open"], "max_gen_toks": 8, "do_sample": False},
        "metric_list": [{"metric": "exact_match", **mean}, {"metric": "bleu", "aggregation": "bleu"}],
        "filter_list": [
            {
                "name": "number",
                "filter": [{"function": "regex", "regex_pattern": "([0-9]+)"}, {"function": "take_first"}],
            },
            {"name": "whole", "filter": [{"function": "take_first"}]},
        ],
    }
    end = {
        "output_type": "loglikelihood",
        "doc_to_text": "{{text.split(' ')[:-1]|join(' ')}}",
        "doc_to_target": "{{' '+text.split(' ')[-1]}}",
        "metric_list": [{"metric": "perplexity", "aggregation": "perplexity"}, {"metric": "acc", **mean}],
    }
    read = {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{page}}",
        "metric_list": [{"metric": name} for name in ("word_perplexity", "byte_perplexity", "bits_per_byte")],
    }
    return {
        "choose": (doors, choose),
        "choose_again": (doors[:5], choose),
        "end": (ends, end),
        "read": (pages, read),
        "generate": (sums, generate),
    }
