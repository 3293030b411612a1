"""`penstock evaluate A B --compare --task NAME`: two models on the same questions, sample by sample."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from penstock.eval_suite.answers import AnswerStore
from penstock.eval_suite.likelihood import Progress
from penstock.eval_suite.paired import Paired, holm, paired_metrics
from penstock.eval_suite.runner import Prepared, Scored
from penstock.hooks.contracts import Estimate, LanguageModel
from penstock.hooks.problems import Problem, ProblemError
from penstock.run.records.comparison import ComparedMetric, ComparedTask

Metrics = dict[str, ComparedMetric]


@dataclass(frozen=True, slots=True)
class PreparedPair:
    """A task as each of the two models reads it: the same items, in tokens of each one's tokenizer."""

    baseline: Prepared
    compressed: Prepared

    def require_same_items(self, name: str) -> None:
        """Raises `ProblemError` where what is asked depends on the tokenizer."""
        ids = [[each.item.id for each in side.asked] for side in (self.baseline, self.compressed)]
        if ids[0] != ids[1]:
            what = f"task '{name}' asks the two models different things, because their tokenizers differ"
            raise ProblemError(Problem("tokenizer-mismatch", what, "--task", "compare models of one tokenizer"))

    def compare(
        self,
        models: tuple[LanguageModel, LanguageModel],
        batch_sizes: tuple[int, int],
        progress: Progress | None = None,
    ) -> ComparedTask:
        """Both answer everything; `progress` starts anew for the second."""
        first, second = (
            _scored(side, model, batch_size, progress)
            for side, model, batch_size in zip((self.baseline, self.compressed), models, batch_sizes, strict=True)
        )
        groups = {
            group: self._metrics(Scored(of_first, ()), Scored(of_second, ()))
            for (group, of_first), (_, of_second) in zip(first.by_group(), second.by_group(), strict=True)
        }
        return ComparedTask(len(first.group_N), self._metrics(first, second), groups)

    def _metrics(self, first: Scored, second: Scored) -> Metrics:
        task, context = self.baseline.task, self.baseline.context
        estimates = task.total(first.scores, context).estimates
        found = paired_metrics(
            self.baseline.metrics_of,
            first.scores,
            second.scores,
            groups=first.group_N,
            estimates=estimates,
            seed=context.seed,
        )
        comparable = {name: each for name, each in found.items() if self._alike or not _of_tokens(estimates.get(name))}
        return {name: _metric(each) for name, each in self.baseline.named(comparable).items()}

    @property
    def _alike(self) -> bool:
        return self.baseline is self.compressed


def adjusted(tasks: Mapping[str, ComparedTask]) -> dict[str, ComparedTask]:
    """With p-values that hold for all metrics of all tasks together, and those of groups for all of all groups."""
    whole = iter(_adjusted(metric for task in tasks.values() for metric in task.metrics.values()))
    parts = iter(
        _adjusted(metric for task in tasks.values() for group in task.groups.values() for metric in group.values())
    )
    return {
        name: replace(
            task,
            metrics={each: next(whole) for each in task.metrics},
            groups={group: {each: next(parts) for each in metrics} for group, metrics in task.groups.items()},
        )
        for name, task in tasks.items()
    }


def _adjusted(metrics: Iterator[ComparedMetric]) -> list[ComparedMetric]:
    every = list(metrics)
    tested = iter(holm([each.p_value for each in every if each.p_value is not None]))
    return [each if each.p_value is None else replace(each, adjusted=next(tested)) for each in every]


def _scored(side: Prepared, model: LanguageModel, batch_size: int, progress: Progress | None) -> Scored:
    answers = AnswerStore()
    side.run(model, answers, batch_size=batch_size, progress=progress)
    return side.scored(answers)


def _of_tokens(estimate: Estimate | None) -> bool:
    """Whether the metric is per token, which compares only where tokens are the same."""
    return estimate is not None and estimate.weight == "tokens"


def _metric(paired: Paired) -> ComparedMetric:
    lost, gained = paired.discordant or (None, None)
    return ComparedMetric(
        paired.first,
        paired.second,
        paired.second - paired.first,
        paired.interval,
        p_value=paired.p_value,
        test=paired.test,
        only_baseline=lost,
        only_compressed=gained,
    )
