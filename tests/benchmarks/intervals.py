"""How often 95 % intervals cover the truth, how often equal models are said to differ, and what pairing saves.

    python tests/benchmarks/intervals.py [--simulations 1000] [--json]

Each simulation draws the scores of a task and asks `penstock.eval_suite.intervals` as the runner does. Of 1,000, a
coverage of 95 % has a standard error of 0.7 points, so many cells keep to 93 to 97 % only where the truth is near 95.
Shares are drawn from bands, because the coverage of any interval of a share jumps from one share to the next; Wilson's
least and most of all shares from 0.05 to 0.95 are computed and printed. Rows without a bar are harder than what a table
promises: a metric that few errors decide, and texts whose long documents are easier.

Equal models: a question has a difficulty, and both answer it right with the same probability; a document has nats that
both need, and each has its own. An exact test says in 5 % of cases that they differ, and in more than 5.0 % of cases in
half of such tables, hence the bar of 6.5 %.

Pairing: how many times narrower the interval of the paired difference is than that of two separate standard errors,
which is what lm-evaluation-harness gives, by the correlation of the two models' scores.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import click
import numpy as np
from measure import Bar, Row, finish, json_option
from numpy.typing import NDArray
from scipy import stats

from penstock.eval_suite.intervals import Scores, intervals_of, share_interval
from penstock.eval_suite.paired import Paired, paired_metrics
from penstock.hooks.contracts import Estimate

LOW, HIGH, FALSE = 0.93, 0.97, 0.065
SIZES, PAIR_SIZES = (50, 100, 277, 1000), (50, 277, 1000)
BANDS = ((0.05, 0.15), (0.15, 0.35), (0.35, 0.65), (0.65, 0.85), (0.85, 0.95))
CORRELATIONS = (0.0, 0.5, 0.75, 0.9, 0.99)
QUESTIONS = 10  # of a subject, on average
EASIER = -0.1  # power of a document's length that its nats per byte go with

Draw: TypeAlias = np.random.Generator
Drawn: TypeAlias = tuple[Scores, Sequence[str], float]
"""Scores, the group of each sample, and the metric's true value."""


@dataclass(frozen=True, slots=True)
class Case:
    """Scores of a number of samples, or of groups, for each of `SIZES`."""

    name: str
    draw: Callable[[Draw, int], Drawn]
    estimate: Estimate
    bar: bool = True

    def rows(self, simulations: int) -> Iterator[Row]:
        for samples in SIZES:
            draw = np.random.default_rng(samples)
            covered = [self._covers(draw, samples) for _ in range(simulations)]
            yield coverage(self.name, samples, covered, self.bar)

    def _covers(self, draw: Draw, samples: int) -> bool:
        scores, groups, truth = self.draw(draw, samples)
        estimates = {"m": self.estimate}
        found = intervals_of(lambda drawn: {"m": 0.0}, scores, groups=groups, estimates=estimates).found
        return "m" in found and found["m"].low <= truth <= found["m"].high


def coverage(name: str, samples: int, covered: Sequence[bool], bar: bool) -> Row:
    share = float(np.mean(covered))
    error = math.sqrt(share * (1 - share) / len(covered))
    return {"simulated": name, "samples": samples, "figure": "covered", "value": share, "+-": error, "held": bar}


def share(low: float, high: float) -> Callable[[Draw, int], Drawn]:
    def drawn(draw: Draw, samples: int) -> Drawn:
        truth = draw.uniform(low, high)
        return {"x": (draw.random(samples) < truth).astype(float)}, (), truth

    return drawn


def skewed(draw: Draw, samples: int) -> Drawn:
    return {"x": draw.lognormal(0, 1, samples)}, (), math.exp(0.5)


def last_words(draw: Draw, samples: int) -> Drawn:
    """Nats of a word: many near 0, some large."""
    return {"x": draw.gamma(0.7, 4, samples)}, (), math.exp(2.8)


def documents(own: Callable[[Draw, int], NDArray[np.float64]]) -> Callable[[Draw, int], Drawn]:
    """Nats and bytes of documents of log-normal length, 0.6 nats per byte on average."""

    def drawn(draw: Draw, samples: int) -> Drawn:
        byte_N = np.ceil(draw.lognormal(6, 1, samples))
        return {"x": byte_N * (0.6 + 0.15 * own(draw, samples)), "w": byte_N}, (), 0.6

    return drawn


def perplexity_of_documents(draw: Draw, samples: int) -> Drawn:
    token_N = np.ceil(draw.lognormal(5, 1, samples))
    return {"x": token_N * draw.normal(3, 0.4, samples), "w": token_N}, (), math.exp(3)


def easier(draw: Draw, samples: int) -> Drawn:
    """Long documents need fewer nats per byte; the truth is the mean of a power of a log-normal length."""
    byte_N = draw.lognormal(6, 1, samples)
    truth = 0.6 * math.exp(((1 + EASIER) ** 2 - 1) / 2)
    return (
        {"x": 0.6 * byte_N * (byte_N / math.exp(6)) ** EASIER * draw.normal(1, 0.15, samples), "w": byte_N},
        (),
        truth,
    )


def subjects(draw: Draw, groups: int) -> tuple[NDArray[np.int64], Sequence[str]]:
    sizes = 1 + draw.poisson(QUESTIONS - 1, groups)
    return sizes, np.repeat([str(number) for number in range(groups)], sizes).tolist()


def clustered_share(draw: Draw, groups: int) -> Drawn:
    sizes, names = subjects(draw, groups)
    right = draw.random(sizes.sum()) < np.repeat(draw.beta(4, 2, groups), sizes)
    return {"x": right.astype(float)}, names, 2 / 3


def clustered_mean(draw: Draw, groups: int) -> Drawn:
    sizes, names = subjects(draw, groups)
    return {"x": np.repeat(draw.gamma(4, 0.5, groups), sizes) * draw.gamma(2, 0.5, sizes.sum())}, names, 2.0


@dataclass(frozen=True, slots=True)
class Labels:
    """Scores of two labels, all resampled at once: 65 % have the first, and each is right in `accuracy` of cases."""

    accuracy: float
    sizes: Sequence[int]
    bar: bool = True

    def rows(self, simulations: int) -> Iterator[Row]:
        right, wrong = self.accuracy, 1 - self.accuracy
        probability_LL = np.array([[0.65 * right, 0.65 * wrong], [0.35 * wrong, 0.35 * right]])
        truth = scores_of_cells(probability_LL)
        for samples in self.sizes:
            draw, covered = np.random.default_rng(samples), dict[str, list[bool]]()
            for _ in range(simulations):
                cell_N = draw.choice(4, samples, p=probability_LL.ravel()).astype(float)
                found = intervals_of(scores_of_labels, {"cell": cell_N}).found
                for name, value in truth.items():
                    covered.setdefault(name, []).append(found[name].low <= value <= found[name].high)
            for name, each in covered.items():
                yield coverage(f"{name}, accuracy {self.accuracy}", samples, each, self.bar)


def scores_of_labels(scores: Scores) -> dict[str, float]:
    return scores_of_cells(np.bincount(scores["cell"].astype(np.int64), minlength=4).reshape(2, 2).astype(float))


def scores_of_cells(cell_LL: NDArray[np.float64]) -> dict[str, float]:
    return {"macro F1": macro_f1(cell_LL), "F1": f1(cell_LL), "Matthews": matthews(cell_LL)}


def macro_f1(cell_LL: NDArray[np.float64]) -> float:
    known_L = cell_LL.sum(0) + cell_LL.sum(1)
    return float((2 * cell_LL.diagonal()[known_L > 0] / known_L[known_L > 0]).mean())


def f1(cell_LL: NDArray[np.float64]) -> float:
    known = float(cell_LL[1].sum() + cell_LL[:, 1].sum())
    return 2 * float(cell_LL[1, 1]) / known if known else 0.0


def matthews(cell_LL: NDArray[np.float64]) -> float:
    (a, b), (c, d) = cell_LL
    spread = (a + b) * (c + d) * (a + c) * (b + d)
    return float((a * d - b * c) / math.sqrt(spread)) if spread else 0.0


CASES = (
    *(Case(f"share right, {low} to {high}", share(low, high), Estimate("x")) for low, high in BANDS),
    Case("share right, by subject", clustered_share, Estimate("x")),
    Case("mean, log-normal", skewed, Estimate("x")),
    Case("mean, by subject", clustered_mean, Estimate("x")),
    Case("perplexity of last words", last_words, Estimate("x", exponential=True)),
    Case("nats per byte", documents(lambda draw, n: draw.normal(0, 1, n)), Estimate("x", "w")),
    Case("nats per byte, skewed", documents(lambda draw, n: draw.exponential(1, n) - 1), Estimate("x", "w")),
    Case("perplexity of documents", perplexity_of_documents, Estimate("x", "w", exponential=True)),
    Case("nats per byte, less in long texts", easier, Estimate("x", "w"), bar=False),
    Labels(0.8, SIZES),
    Labels(0.95, SIZES[:2], bar=False),
)


def percentile_bootstraps(simulations: int) -> Iterator[Row]:
    """What the usual bootstrap covers, of two means that it does not suit."""
    for name, samples, drawn in (("share right, 0.95", 20, share(0.95, 0.95)), ("mean, log-normal", 50, skewed)):
        draw = np.random.default_rng(samples)
        covered = []
        for _ in range(simulations):
            scores, _, truth = drawn(draw, samples)
            index_RN = draw.integers(0, samples, (1000, samples))
            low, high = np.quantile(scores["x"][index_RN].mean(axis=1), [0.025, 0.975])
            covered.append(bool(low <= truth <= high))
        yield coverage(f"percentile bootstrap: {name}", samples, covered, bar=False)


def wilson_extremes(samples: int) -> tuple[float, float]:
    """The least and most that Wilson's interval covers a share from 0.05 to 0.95, exactly."""
    ends = [share_interval((np.arange(samples) < right).astype(float)) for right in range(samples + 1)]
    low, high = (np.array([getattr(each, end) for each in ends]) for end in ("low", "high"))
    covered = [
        float(stats.binom.pmf(np.arange(samples + 1), samples, share)[(low <= share) & (share <= high)].sum())
        for share in np.linspace(0.05, 0.95, 181)
    ]
    return min(covered), max(covered)


def equal_answers(draw: Draw, samples: int) -> tuple[Scores, Scores]:
    chance_N = 1 / (1 + np.exp(-draw.normal(0.5, 1.5, samples)))
    one, other = ({"x": (draw.random(samples) < chance_N).astype(float)} for _ in range(2))
    return one, other


def equal_texts(draw: Draw, samples: int) -> tuple[Scores, Scores]:
    byte_N = np.ceil(draw.lognormal(6, 1, samples))
    need_N = draw.gamma(16, 0.04, samples)
    one, other = ({"x": byte_N * (need_N + 0.05 * draw.gamma(2, 1, samples)), "w": byte_N} for _ in range(2))
    return one, other


def compared(one: Scores, other: Scores, estimate: Estimate) -> Paired:
    return paired_metrics(lambda scores: {"m": 0.0}, one, other, estimates={"m": estimate})["m"]


def false_differences(simulations: int) -> Iterator[Row]:
    cases: Mapping[str, tuple[Callable[[Draw, int], tuple[Scores, Scores]], Estimate]] = {
        "share right": (equal_answers, Estimate("x")),
        "nats per byte": (equal_texts, Estimate("x", "w")),
        "perplexity": (equal_texts, Estimate("x", "w", exponential=True)),
    }
    for name, (drawn, estimate) in cases.items():
        for samples in PAIR_SIZES:
            draw = np.random.default_rng(samples)
            found = [compared(*drawn(draw, samples), estimate) for _ in range(simulations)]
            said = float(np.mean([each.p_value is not None and each.p_value < 0.05 for each in found]))
            error = math.sqrt(said * (1 - said) / simulations)
            row = {"simulated": f"equal models: {name}", "samples": samples, "figure": "said to differ"}
            yield {**row, "value": said, "+-": error, "held": True}


def narrower(simulations: int, samples: int = 277) -> Iterator[Row]:
    draw = np.random.default_rng(0)
    for correlation in CORRELATIONS:
        times: list[float] = []
        for _ in range(simulations // 5):
            one_N, other_N = draw.multivariate_normal([0, 0], [[1, correlation], [correlation, 1]], samples).T
            interval = compared({"x": one_N}, {"x": other_N}, Estimate("x")).interval
            apart = 2 * 1.96 * math.hypot(stats.sem(one_N), stats.sem(other_N))
            times += [apart / (interval.high - interval.low)] if interval else []
        row = {"simulated": f"pairs of correlation {correlation}", "samples": samples, "figure": "times narrower"}
        yield {**row, "value": float(np.median(times)), "+-": "", "held": True}


@click.command(help=__doc__)
@click.option("--simulations", default=1000, show_default=True, type=click.IntRange(min=100), help="Of each row.")
@json_option
def main(simulations: int, as_json: bool) -> None:
    covered = [row for case in CASES for row in case.rows(simulations)]
    covered += percentile_bootstraps(simulations)
    false = list(false_differences(simulations))
    pairing = list(narrower(simulations))
    held = [row["value"] for row in covered if row["held"]]
    bars = [
        Bar("least coverage", min(held), LOW),
        Bar("most coverage", max(held), HIGH, at_least=False),
        Bar("equal models said to differ, most", max(row["value"] for row in false), FALSE, at_least=False),
        Bar("pairing at a correlation of 0.9, times narrower", pairing[3]["value"], 3),
    ]
    extremes = {samples: "{:.1%} to {:.1%}".format(*wilson_extremes(samples)) for samples in SIZES}
    finish("intervals", [*covered, *false, *pairing], bars, as_json, simulations=simulations, wilson=extremes)


if __name__ == "__main__":
    main()
