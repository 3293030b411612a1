"""What stored results say about claims: each function reads the result of one script.

An interval decides. A claim about a figure is confirmed where the whole interval keeps it, refuted where none of it
does, and not decided in between. A figure without an interval decides by itself, and the page says that it has none.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from penstock.evaluate.paired import half_width

Result = dict[str, Any]
CONFIRMED, LIMITED, REFUTED, UNDECIDED = "confirmed", "within limits", "refuted", "not decided"
EVEN = 0.05  # MaxVio
EVEN_ENOUGH = 0.1  # MaxVio, the bar of balance.py
NOTHING = 0.2  # percent of bits per byte
FEW_BITS = 8  # a parameter, in the mean of a file
VERDICTS = {"holds": CONFIRMED, "fails": REFUTED}  # of other scripts


@dataclass(frozen=True, slots=True)
class Finding:
    """One figure beside a claim. `of` tells the figures of one claim apart."""

    of: str
    measured: str
    interval: str
    verdict: str


Read = Callable[[Result], list[Finding]]


def judged(low: float, high: float, *, least: float = -math.inf, most: float = math.inf) -> str:
    """A claim that a figure, known to lie between `low` and `high`, is from `least` to `most`.

    >>> judged(1.1, 1.3, most=2), judged(1.1, 1.3, least=1.35), judged(1.1, 1.5, least=1.35)
    ('confirmed', 'refuted', 'not decided')
    """
    if least <= low and high <= most:
        return CONFIRMED
    return REFUTED if high < least or most < low else UNDECIDED


def figure(
    of: str, mean: float, half: float | None, unit: str = "", *, least: float = -math.inf, most: float = math.inf
) -> Finding:
    """A finding about a mean with the half width of its interval."""
    known = half or 0.0
    interval = "none" if half is None else f"{_number(mean - known)} to {_number(mean + known)}{unit}"
    verdict = judged(mean - known, mean + known, least=least, most=most)
    return Finding(of, f"{_number(mean)}{unit}", interval, verdict)


def _number(value: float) -> str:
    """Three digits.

    >>> _number(0.04321), _number(12.345), _number(-3), _number(123.4)
    ('0.0432', '12.3', '-3', '123')
    """
    return f"{value:.3g}"


def over_seeds(of: str, values: Sequence[float], *, least: float = -math.inf, most: float = math.inf) -> Finding:
    return figure(of, statistics.mean(values), half_width(values), least=least, most=most)


def _values(result: Result, method: str, column: str) -> list[float]:
    return [row[column] for row in result["rows"] if row["method"] == method]


def even_and_specialised(result: Result) -> list[Finding]:
    """`balance.py`: whether experts are even by each method, and what they learned beyond an untrained router."""
    found: list[Finding] = []
    for method in dict.fromkeys(row["method"] for row in result["rows"]):
        trained, untrained = (_values(result, method, name) for name in ("specialisation", "of an untrained router"))
        learned = [one - other for one, other in zip(trained, untrained, strict=True)]
        entropy = statistics.mean(_values(result, method, "entropy"))
        even = f"{method}, balanced: MaxVio at most {EVEN_ENOUGH:g} (entropy {entropy:.3f} of its maximum)"
        figures = f"{statistics.mean(trained):.3f} is more than the {statistics.mean(untrained):.3f}"
        special = f"{method}, specialised: {figures} of an untrained router by"
        found.append(over_seeds(even, _values(result, method, "MaxVio"), most=EVEN_ENOUGH))
        found.append(over_seeds(special, learned, least=math.ulp(0.0)))
    return found


def loss_free(result: Result) -> list[Finding]:
    """`balance.py`: MaxVio of the loss-free bias."""
    texts = {"text as it was balanced for": "MaxVio", "held-out files": "held-out MaxVio"}
    return [
        over_seeds(f"MaxVio on {text}", _values(result, "loss-free", column), most=EVEN)
        for text, column in texts.items()
    ]


def muon(result: Result) -> list[Finding]:
    """`muon_against_adamw.py`: the ratio of steps, by interpolation and by the rule, and of times. More than is claimed
    refutes nothing."""
    ratio, half, slower = result["speedup"], result["half_width"], result["step_of_muon_over_adamw"]
    fewest = result["fewest_steps"]
    scores = {row["share"]: row["z"] for row in result["rows"] if "z" in row}
    goal = "the loss that tuned AdamW ends at"
    steps = figure(f"steps to {goal}, AdamW's over Muon's", ratio, half, least=1.35)
    rule = Finding(
        "fewest of AdamW's steps that pass the rule of the speed-run community (z of at least 3.08)",
        f"{fewest:.0%}" if fewest else "none",
        ", ".join(f"z {z:.1f} at {share:.0%}" for share, z in scores.items()),
        CONFIRMED if fewest and 1 / fewest >= 1.35 else REFUTED,
    )
    time = figure(
        f"processor time to {goal}, AdamW's over Muon's (a step takes Muon {slower:.2f} times as long)",
        ratio / slower,
        None if half is None else half / slower,
        least=1.35,
    )
    if result["bounded"]:
        steps, time = (replace(each, measured=f"{each.measured}, a bound") for each in (steps, time))
    small = f"{LIMITED}: a model of 1.07M parameters, {result['steps']} steps"
    return [replace(each, verdict=small) if each.verdict == CONFIRMED else each for each in (steps, rule, time)]


def faster_on_more(result: Result) -> list[Finding]:
    """`ranks.py`: sequences a second of two ranks against one process, a core each, and of two micro-batches against
    one. Two cores of one processor say little of GPUs."""
    speeds = {(row["model"], row["program"]): row["sequences/s"] for row in result["rows"] if "sequences/s" in row}
    found: list[Finding] = []
    for model in dict.fromkeys(model for model, _ in speeds):
        alone = speeds[model, "one process"]
        for engine in ("ddp", "fsdp2"):
            times = f"{_number(speeds[model, engine] / alone)} times"
            found.append(Finding(f"{model}, two ranks of {engine} on two cores", times, "none", UNDECIDED))
        accumulated = speeds[model, "one process, two micro-batches"] / alone
        found.append(figure(f"{model}, two batches accumulated", accumulated, None, " times", least=2))
    return found


def _by_model(result: Result, column: str, unit: str, shown: str, least: float, most: float) -> Iterable[Finding]:
    """A finding for each model and text, of all its layers."""
    for model, text in dict.fromkeys((row["model"], row["text"]) for row in result["rows"]):
        rows = {row["layer"]: row for row in result["rows"] if (row["model"], row["text"]) == (model, text)}
        found = {
            layer: figure("", row[column], row.get(f"{column} +-"), unit, least=least, most=most)
            for layer, row in rows.items()
        }
        yield Finding(
            f"{shown}, {model} on {text}, {_layers(rows)}",
            ", ".join(each.measured for each in found.values()),
            "; ".join(dict.fromkeys(each.interval for each in found.values())),
            _over_layers({layer: each.verdict for layer, each in found.items()}),
        )


def _over_layers(verdicts: Mapping[int, str]) -> str:
    """One verdict of several layers.

    >>> _over_layers({0: "refuted", 7: "confirmed", 15: "confirmed"})
    'within limits: layers 7, 15'
    >>> _over_layers({0: "refuted", 7: "not decided"}), _over_layers({0: "refuted"})
    ('not decided', 'refuted')
    """
    if len(set(verdicts.values())) == 1:
        return next(iter(verdicts.values()))
    confirmed = [layer for layer, verdict in verdicts.items() if verdict == CONFIRMED]
    return f"{LIMITED}: {_layers(confirmed)}" if confirmed else UNDECIDED


def _layers(layers: Iterable[int]) -> str:
    listed = list(layers)
    return f"layer{'s' * (len(listed) > 1)} {', '.join(map(str, listed))}"


def uneven_use(result: Result) -> list[Finding]:
    """`public_traces.py`: Gini coefficients, and how much busier the busiest expert is."""
    several = {"rows": [row for row in result["rows"] if row["samples"] > 1]}
    return [
        *_by_model(result, "gini", "", "Gini", 0.2, 0.5),
        *_by_model(several, "pooled gini", "", "Gini of all together", 0.2, 0.5),
        *_by_model(result, "most / mean", "", "busiest expert over the mean one", 3, 5),
    ]


def slower_exchange(result: Result) -> list[Finding]:
    """`public_traces.py`: the exchange with uneven load over the one with even load."""
    return list(_by_model(result, "slower %", " %", "longer exchange (simulated)", 30, 50))


def fine_tuning(result: Result) -> list[Finding]:
    """`finetune_balance.py`"""
    rows = {row["what"]: row for row in result["rows"]}
    tuned = rows.pop("fine-tuned with the loss")
    found = [
        figure("cut of the Gini by fine-tuning", tuned["cut %"], tuned["cut % +-"], " %", least=20, most=40),
        figure("bits per byte that it costs", tuned["cost %"], tuned["cost % +-"], " %", most=NOTHING),
    ]
    limits = {"gentle": {"most": 10.0}, "aggressive": {"least": 15.0, "most": 30.0}}
    for name, row in rows.items():
        of = f"perplexity that {row['kind']} reassignment costs: {name}, {row['changed %']:.0f} % of choices changed"
        found.append(figure(of, row["perplexity %"], row["perplexity % +-"], " %", **limits[row["kind"]]))
    return found


def times_smaller(result: Result) -> list[Finding]:
    """`ledger.py`: files of the BERT body that share parameters and have few bits for each."""
    rows = [row for row in result["rows"] if "of it header and hashes" in row]
    most = max(row["parameters"] for row in rows)
    return [
        Finding(
            row["row"],
            f"{row['against fp32']:.1f} times, of bf16 {row['against bf16']:.1f} times ({row['bytes'] / 1e6:.2f} MB)",
            "exact",
            CONFIRMED if row["against fp32"] >= 45 else REFUTED,
        )
        for row in rows
        if row["parameters"] < most and row["bits a parameter"] < FEW_BITS
    ]


def points_lost(result: Result) -> list[Finding]:
    """`ledger.py`: what the small encoder loses of each task's figure."""
    found: list[Finding] = []
    for row in result["rows"]:
        if "lost" in row:
            of = f"{row['task']}, {row['row']} ({row['against fp32']:.1f} times smaller)"
            low, high = row["lost"] - row["+-"], row["lost"] + row["+-"]
            interval = f"{_number(low)} to {_number(high)} points"
            found.append(Finding(of, f"{_number(row['lost'])} points lost", interval, _own(row["under 2 points"])))
        elif "task" in row and "bytes" not in row:
            found.append(Finding(row["task"], row["under 2 points"], "none", UNDECIDED))
    return found


def shared_parameters(result: Result) -> list[Finding]:
    """`sharing_claims.py`"""
    found: list[Finding] = []
    for row in result["rows"]:
        if row["seed"] == "all" and row["claimed"]:
            cost, half = row["cost %"], row["+-"]
            interval = f"{_number(cost - half)} to {_number(cost + half)} %" if half != "" else "none: too few seeds"
            measured = f"{cost:+.2f} %, saves {row['saved of layers %']:.0f} % of the layers' parameters"
            of = f"{row['strategy']} (claimed: {row['claimed']})"
            found.append(Finding(of, measured, interval, _own(row["verdict"])))
    return found


def _own(verdict: str) -> str:
    """A script's verdict in the words of the page."""
    word, _, rest = verdict.partition(": ")
    known = VERDICTS.get(word, word)
    return f"{known}: {rest}" if rest else known


def parameter_shares(result: Result) -> list[Finding]:
    """`allocation.py`: by how much the best share and expansion are ahead of the next, with depth fixed and with depth
    changing. A best share that changes with the design is not one share."""
    sweeps = result["sweeps"]
    found: list[Finding] = []
    for axis in ("share", "expansion"):
        best = {design: facts["effects"][axis][0]["value"] for design, facts in sweeps.items()}
        for design, facts in sweeps.items():
            first, second, *_ = facts["effects"][axis]
            of = f"{axis}, {design}: bits per byte of {second['value']} above those of {first['value']}, the best"
            own = figure(of, second["behind"], second["+-"], least=math.ulp(0.0))
            others = [f"{value} with {name}" for name, value in best.items() if value != first["value"]]
            if own.verdict == CONFIRMED:
                at = "at 1M parameters"
                own = replace(own, verdict=f"{REFUTED}: {', '.join(others)}" if others else f"{LIMITED}: {at}")
            found.append(own)
    return found
