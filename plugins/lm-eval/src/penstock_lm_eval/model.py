"""Models of Penstock in lm-evaluation-harness, which calls a model with texts and gets likelihoods and texts back.

What it asks goes through the runner of tasks: rows sorted by length, and the head only where something is scored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.utils import simple_parse_args_string
from tqdm import tqdm

from penstock.eval_suite.answers import AnswerStore
from penstock.eval_suite.likelihood import Progress
from penstock.eval_suite.runner import prepare
from penstock.evaluate.measuring import computing_in
from penstock.hooks.contracts import Answer, Array, Item, Request, TaskContext, TaskResult
from penstock_lm_eval.asking import requests_of, results_of
from penstock_lm_eval.opening import Opened, opened


class PenstockModel(LM):
    """A model with its tokenizer, as the harness wants it."""

    def __init__(self, opened: Opened) -> None:
        super().__init__()
        self._opened = opened

    @classmethod
    def create_from_arg_obj(cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None) -> Any:
        """`arg_dict` is what `--model_args` says, the other what `--batch_size` and `--device` say."""
        return cls(opened({**(additional_config or {}), **arg_dict}))

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict[str, Any] | None = None) -> Any:
        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        return self._results("loglikelihood", requests, disable_tqdm)

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        return self._results("loglikelihood_rolling", requests, disable_tqdm)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        return self._results("generate_until", requests, disable_tqdm)

    def get_model_info(self) -> dict[str, Any]:
        """Goes into the harness's results."""
        return dict(self._opened.info)

    def _results(self, kind: str, instances: Sequence[Instance], quiet: bool) -> list[Any]:
        """One result for each request. A request that the harness wants several answers to comes several times."""
        mine, answers = self._opened, AnswerStore()
        context = TaskContext(mine.tokenizer, None, mine.sequence_length)
        once = list({id(instance): instance for instance in instances}.values())
        prepared = prepare(_Listed(once), context)
        with computing_in(mine.model, mine.dtype), _bar(kind, quiet) as progress:
            prepared.run(mine.model, answers, batch_size=mine.batch_size, progress=progress)
        found = {
            id(instance): iter(results_of(instance, each.answers))
            for instance, each in zip(once, prepared.answered(answers), strict=True)
        }
        results = [next(found[id(instance)]) for instance in instances]
        for instance, result in zip(instances, results, strict=True):
            self.cache_hook.add_partial(kind, instance.args, result)
        return results


class _Listed:
    """Requests of the harness as a task, of which only the answers are wanted."""

    def __init__(self, instances: Sequence[Instance]) -> None:
        self._instances = instances

    def items(self, context: TaskContext) -> Iterator[Item]:
        for number, instance in enumerate(self._instances):
            yield Item(str(number), instance)

    def requests(self, item: Item, context: TaskContext) -> Sequence[Request]:
        return requests_of(item.document, context)

    def score(self, item: Item, answers: Sequence[Answer], context: TaskContext) -> Sequence[Mapping[str, float]]:
        return [{"answered": 1.0}]

    def total(self, scores: Mapping[str, Array], context: TaskContext) -> TaskResult:
        return TaskResult({"answered@all": 1.0})


@contextmanager
def _bar(kind: str, quiet: bool) -> Iterator[Progress]:
    """Rows that were computed, on stderr."""
    with tqdm(desc=f"Running {kind} requests", disable=quiet) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield progress
