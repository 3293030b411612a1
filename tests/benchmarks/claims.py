"""Writes `docs/claims.md`: what is claimed of sparse and compressed models, beside what scripts here measured.

A script keeps its result with `--store`; `--store FILE` of this one keeps what a script printed with `--json`. Results
lie in `results`, a file a script.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import claim_findings as findings
import click
from claim_findings import CONFIRMED, LIMITED, REFUTED, UNDECIDED, Finding, Read, Result
from measure import RESULTS, commit, machine, store, today

PAGE = Path(__file__).parents[2] / "docs" / "claims.md"
NOT_MEASURED = "not measured"
ORDER = (CONFIRMED, LIMITED, REFUTED, UNDECIDED)
ONE_RUN = "a report of one run, without an interval"
NO_METHOD = "a report that does not say how it was measured"
RULE = "a rule of thumb, without a source"
INTRODUCTION = """\
# Claims

What is said of sparse and compressed language models, beside what a script of this repository measured of it. Written
by `tests/benchmarks/claims.py` from the results that the scripts keep. Intervals are of 95 %. A claim about a figure is
**confirmed** where the whole interval keeps it, **refuted** where none of it does, and **not decided** in between.
Where it holds for some figures, it is confirmed **within limits**. A small model on two cores says little
about a large one on thousands of GPUs, in either direction. With `--store` a command renews what is written here.
"""


@dataclass(frozen=True, slots=True)
class Claim:
    """What is said, what kind of statement it is, and the script that answers."""

    says: str
    source: str
    script: str
    options: str = ""
    read: Read | None = None

    def command(self, options: str | None = None) -> str:
        """With the options of a result, if there is one."""
        if self.script.startswith("penstock "):
            return self.script
        given = self.options if options is None else options
        return f"python tests/benchmarks/{self.script}.py {given}".rstrip()


DATA = "--data DATA"
CLAIMS: Mapping[int, Claim] = {
    1: Claim(
        "Routed experts beside a frozen pretrained model learn from 1,000 samples in a minute on a CPU.",
        ONE_RUN,
        "frozen_base",
    ),
    2: Claim(
        "A balance loss of 0.0001 shows that experts are balanced and specialised.",
        f"{ONE_RUN}: entropy 1.989 beside a specialisation of 0.044",
        "balance",
        read=findings.even_and_specialised,
    ),
    3: Claim(
        "Experts beside a frozen model train 25 times faster than a model from scratch of the same quality.",
        NO_METHOD,
        "frozen_base",
    ),
    4: Claim(
        "Sharing and weights of 1.58 bits make BERT-base 45 times smaller, 9.75 MB instead of 440.",
        "a report of file sizes",
        "ledger",
        DATA,
        read=findings.times_smaller,
    ),
    5: Claim(
        "That compression costs less than two points of accuracy in classification.",
        f"{NO_METHOD}; public models of 125M parameters lose two points and 32 % of perplexity",
        "ledger",
        DATA,
        read=findings.points_lost,
    ),
    6: Claim(
        "Tied embeddings cost nothing, shared attention or feed-forward layers up to 2 %, an encoder shared with its "
        "decoder up to 3 %, and layers shared across depth up to 3, 3 and 10 % for 50, 75 and 85 % fewer parameters.",
        RULE,
        "sharing_claims",
        read=findings.shared_parameters,
    ),
    7: Claim(
        "Training is 7.5 times faster on 8 GPUs and 110 times on 128, and accumulating two batches doubles the speed.",
        NO_METHOD,
        "ranks",
        read=findings.faster_on_more,
    ),
    8: Claim(
        "Muon learns 1.35 to 2 times as fast as AdamW.",
        "announcements of Muon (1.35 times in tokens; 1.9 times in FLOPs, arXiv 2502.16982); independent comparisons "
        "with tuned AdamW found at most 1.4 times at 0.1B parameters and 1.1 at 1.2B",
        "muon_against_adamw",
        read=findings.muon,
    ),
    9: Claim(
        "Balancing without a loss keeps every expert within 5 % of an even load.",
        f"{RULE}; the method's paper (arXiv 2408.15664) reports a MaxVio of 0.044",
        "balance",
        read=findings.loss_free,
    ),
    10: Claim(
        "Public mixtures use their experts with a Gini coefficient of 0.2 to 0.5, some 3 to 5 times as much as others.",
        RULE,
        "public_traces",
        DATA,
        read=findings.uneven_use,
    ),
    11: Claim(
        "Uneven load makes communication take 30 to 50 % longer.",
        f"{RULE}; 18 % was measured in public serving",
        "public_traces",
        DATA,
        read=findings.slower_exchange,
    ),
    12: Claim(
        "Fine-tuning with a loss on imbalance cuts the Gini coefficient by 20 to 40 % at the same quality; giving "
        "tokens other experts costs less than 10 % when done gently, and 15 to 30 % when not.",
        RULE,
        "finetune_balance",
        read=findings.fine_tuning,
    ),
    13: Claim(
        "8,192 GPUs reach 61 to 64 % utilisation; bubbles take 12 %, communication 25 % and imbalance 8 %.",
        NO_METHOD,
        "penstock simulate cost",
    ),
    14: Claim(
        "At 10M parameters one share of embeddings and one expansion of gated layers are best.",
        "a report of one sweep, in which depth changes too",
        "allocation",
        read=findings.parameter_shares,
    ),
    15: Claim(
        "Caching of prefixes serves 2 to 5 times as fast, and formats save 4 to 8 times the memory.",
        RULE,
        "serving",
    ),
}


def page(results: Mapping[str, Result]) -> str:
    """The text of the page, from the results by script."""
    found = {number: findings_of(claim, results) for number, claim in CLAIMS.items()}
    summary = [f"| {number} | {claim.says} | {summary_of(found[number])} |" for number, claim in CLAIMS.items()]
    table = ["| | claim | verdict |", "|---|---|---|", *summary]
    sections = [section(number, claim, found[number], results) for number, claim in CLAIMS.items()]
    return "\n".join([INTRODUCTION, *table, "", *sections])


def findings_of(claim: Claim, results: Mapping[str, Result]) -> Sequence[Finding]:
    """Empty where nothing was measured."""
    return () if claim.read is None or claim.script not in results else claim.read(results[claim.script])


def summary_of(found: Sequence[Finding]) -> str:
    """One verdict over all figures; where they differ, how many have which."""
    verdicts = sorted((each.verdict.partition(":")[0] for each in found), key=ORDER.index)
    words = list(dict.fromkeys(verdicts))
    if len(words) <= 1:
        return words[0] if words else NOT_MEASURED
    over_all = LIMITED if {CONFIRMED, LIMITED} & set(words) else UNDECIDED
    return f"{over_all}: of {len(found)} figures " + ", ".join(f"{verdicts.count(word)} {word}" for word in words)


def section(number: int, claim: Claim, found: Sequence[Finding], results: Mapping[str, Result]) -> str:
    lines = [f"## Claim {number}\n", f"{claim.says}\n", f"*Source: {claim.source}.*\n"]
    if not found:
        return "\n".join([*lines, f"**{NOT_MEASURED.capitalize()}** yet, by `{claim.command()}`.\n"])
    lines += ["| figure | measured | 95 % interval | verdict |", "|---|---|---|---|"]
    lines += [f"| {each.of} | {each.measured} | {each.interval} | {each.verdict} |" for each in found]
    result = results[claim.script]
    origin = f"{result['date']}, {result['machine']}, commit {result['commit']}"
    return "\n".join([*lines, f"\n`{claim.command(result.get('options'))}` ({origin})\n"])


def stored() -> dict[str, Result]:
    """Every stored result, by script."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("*.json"))}


@click.command(help=__doc__)
@click.option("--store", "files", multiple=True, type=click.Path(exists=True, path_type=Path), help="A result to keep.")
@click.option("--date", default=today, help="When it was measured, if it does not say (default: today).")
@click.option("--commit", "revision", default=commit, help="The commit it is of, if it does not say (default: this).")
@click.option("--options", default=None, help="The options that it was measured with, if it does not say.")
def main(files: tuple[Path, ...], date: str, revision: str, options: str | None) -> None:
    for path in files:
        result = json.loads(path.read_text(encoding="utf-8"))
        if "commit" not in result:
            result = {**result, "machine": machine(), "date": date, "commit": revision}
        if options is not None:
            result.setdefault("options", options)
        click.echo(f"result: {store(result).name}")
    PAGE.write_text(page(stored()), encoding="utf-8")
    click.echo(f"page: docs/{PAGE.name}")


if __name__ == "__main__":
    main()
