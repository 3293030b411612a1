"""What figures depend on: hashes of weights, items, requests and tokenizer, and how the answers were computed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import PurePath
from typing import Any

import numpy as np

from penstock.eval_suite.likelihood import batch_dependent_routers, device_of
from penstock.eval_suite.runner import Prepared
from penstock.evaluate.options import Dtype
from penstock.hooks.contracts import LanguageModel
from penstock.run.records.evaluation import Provenance

PACKAGES = ("penstock-evaluate", "penstock-eval-suite", "torch", "numpy", "tokenizers", "transformers")


@dataclass(frozen=True, slots=True)
class Conditions:
    """How answers are computed. `weights` are the hashes of the model's files, by name; `tokenizer` is that of its
    tokenizer's file. `identity` is all that an answer depends on beside its request, as text. `whole`: see
    `Prepared.run`."""

    weights: Mapping[str, str]
    tokenizer: str
    identity: str
    dtype: Dtype
    batch_size: int
    batch_invariant: bool
    whole: bool

    @property
    def key(self) -> str:
        """What stored answers are kept under."""
        return json.dumps([self.identity, self.dtype, *(["batch-invariant"] if self.batch_invariant else [])])

    def of_task(self, task: Prepared, model: LanguageModel) -> Provenance:
        context = task.context
        return Provenance(
            weights=dict(self.weights),
            data=data_hash(task),
            prompts=prompts_hash(task),
            tokenizer=self.tokenizer,
            sequence_length=context.sequence_length,
            dtype=self.dtype,
            batch_size=self.batch_size,
            batch_invariant=self.batch_invariant,
            seed=context.seed,
            chat_template=None if context.chat is None else context.chat.sha256,
            depends_on_batch=batch_dependent_routers(model),
            device=str(device_of(model)),
            versions=versions(),
        )


def data_hash(task: Prepared) -> str | None:
    """Of what the items hold, whatever they are called and the prompts make of them; None if a document holds what has
    no value of its own, such as an open file."""
    try:
        return _digest((each.item.document, each.item.gold, each.item.group) for each in task.asked)
    except TypeError:
        return None


def prompts_hash(task: Prepared) -> str:
    """Of all requests, in tokens."""
    return _digest([request for request, _ in each.requests] for each in task.asked)


def versions() -> dict[str, str]:
    """Versions of the packages that figures depend on, of those that are installed."""
    found: dict[str, str] = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _digest(values: Iterable[Any]) -> str:
    digest = hashlib.sha256()
    for value in values:
        digest.update(json.dumps(_plain(value), sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


def _plain(value: Any) -> Any:
    """A value that JSON can hold, and that only equal values become."""
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return [str(value.shape), hashlib.sha256(_bytes(value)).hexdigest()]
    if isinstance(value, bytes | bytearray):
        return hashlib.sha256(value).hexdigest()
    if isinstance(value, PurePath):
        return value.name
    if is_dataclass(value) and not isinstance(value, type):
        return [type(value).__name__, {each.name: _plain(getattr(value, each.name)) for each in fields(value)}]
    if isinstance(value, Mapping):
        return {str(key): _plain(own) for key, own in value.items()}
    if isinstance(value, list | tuple):
        if value and all(type(each) is int for each in value):  # tokens: 56,000 prompts of MMLU have 40 million
            return _plain(np.array(value))
        return [_plain(each) for each in value]
    raise TypeError(f"{type(value).__name__} has no value of its own")


def _bytes(array: np.ndarray) -> bytes:
    """Integers of any width alike, as the tokens of two token files may be."""
    if array.dtype.kind in "iu":
        return array.astype("<i8").tobytes()
    if array.dtype.kind not in "bf":
        raise TypeError(f"an array of {array.dtype} has no value of its own")
    return array.astype("<f8").tobytes()
