"""Laws of stop rules: what they decide follows from results, and a sweep always has a cell left.

Shape suffix: P pieces of the held-out text.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from penstock.conformance.law import Subject, expect, law, laws_in
from penstock.hooks.contracts.stopping import Standing

STOP_RULE = "stop-rule"
RUNGS = (1_000_000, 2_000_000, 4_000_000)
"""Tokens; far enough apart for rules that wait for a while."""
CELLS, PIECES = 8, 40


@law(STOP_RULE)
def only_cells_that_stand_are_stopped(subject: Subject) -> None:
    """The result maps names of given cells to reasons; without cells it is empty.

    Build the mapping from the given standings.
    """
    for rung, standings in _rungs():
        stopped = subject.build().stopped(rung, standings)
        unknown = sorted(set(stopped) - {standing.cell for standing in standings})
        expect(not unknown, f"among the stopped are {', '.join(unknown)}")
    expect(not subject.build().stopped(0, []), "a cell is stopped where none stands")


@law(STOP_RULE, needs=(only_cells_that_stand_are_stopped,))
def a_reason_is_a_sentence(subject: Subject) -> None:
    """A reason is one line of at least three words.

    The report shows it beside the cell: say what was compared, with the numbers.
    """
    for rung, standings in _rungs():
        for cell, reason in subject.build().stopped(rung, standings).items():
            good = isinstance(reason, str) and len(reason.split()) >= 3 and "\n" not in reason
            expect(good, f"{cell} is stopped because of {reason!r}")


@law(STOP_RULE, needs=(only_cells_that_stand_are_stopped,))
def some_cell_goes_on(subject: Subject) -> None:
    """Never are all cells stopped: not one alone, and not of cells with equal results.

    Compare with the best of the given cells, and stop only what is worse.
    """
    for rung, standings in _rungs():
        equal = [replace(standings[0], cell=standing.cell) for standing in standings]
        for given in (standings, standings[:1], standings[-1:], equal):
            stopped = subject.build().stopped(rung, given)
            expect(len(stopped) < len(given), f"of {len(given)} cells, {len(stopped)} are stopped")


@law(STOP_RULE, needs=(only_cells_that_stand_are_stopped,))
def results_are_left_alone(subject: Subject) -> None:
    """The given results are unchanged after the call.

    Copy an array before changing it in place.
    """
    for rung, standings in _rungs():
        subject.build().stopped(rung, standings)
        for before, after in zip(_race(rung), standings, strict=True):
            same = np.array_equal(before.document_bits, after.document_bits)
            same &= np.array_equal(before.document_bytes, after.document_bytes)
            expect(same, f"the documents of {after.cell} have other values after the call")


@law(STOP_RULE, needs=(results_are_left_alone,))
def the_order_plays_no_part(subject: Subject) -> None:
    """The order of the results does not matter.

    Sort by result and name where order matters. Results come in the order of the grid, which a user may rewrite.
    """
    random = np.random.default_rng(0)
    for rung, standings in _rungs():
        first = dict(subject.build().stopped(rung, standings))
        for _ in range(3):
            mixed = [standings[index] for index in random.permutation(len(standings))]
            expect(dict(subject.build().stopped(rung, mixed)) == first, "in another order, other cells are stopped")


@law(STOP_RULE, needs=(results_are_left_alone,))
def equal_results_give_equal_decisions(subject: Subject) -> None:
    """A rule decides the same however often and whatever else it was asked before.

    Keep nothing between two calls, and draw no random numbers: a sweep that continues asks a new rule from the first
    rung on.
    """
    rule = subject.build()
    asked = [*_rungs(), *_rungs()]
    together = [dict(rule.stopped(rung, standings)) for rung, standings in asked]
    alone = [dict(subject.build().stopped(rung, standings)) for rung, standings in asked]
    expect(together == alone, "asked again, the rule stops other cells")


@law(STOP_RULE, needs=(the_order_plays_no_part, equal_results_give_equal_decisions))
def a_name_decides_nothing(subject: Subject) -> None:
    """If cells exchange their names, the cells with the same results are stopped.

    Use names for ties alone.
    """
    for rung, standings in _rungs():
        names = [standing.cell for standing in standings]
        swapped = [_renamed(standing, name) for standing, name in zip(standings, names[::-1], strict=True)]
        expected = {names[::-1][names.index(cell)] for cell in subject.build().stopped(rung, standings)}
        expect(set(subject.build().stopped(rung, swapped)) == expected, "under other names, other cells are stopped")


@law(STOP_RULE, needs=(equal_results_give_equal_decisions,), capability="any-tokenizer")
def perplexity_decides_nothing(subject: Subject) -> None:
    """With another perplexity and tokenizer of each cell, the same cells are stopped.

    Tokens of two tokenizers are not alike, so their perplexities are not either: compare bits per byte.
    """
    for rung, standings in _rungs():
        others = [_of_tokenizer(standing, 1.0 + number % 3) for number, standing in enumerate(standings)]
        stopped, expected = (set(subject.build().stopped(rung, given)) for given in (others, standings))
        expect(stopped == expected, "with other perplexities, other cells are stopped")


def _rungs() -> Iterator[tuple[int, list[Standing]]]:
    for rung in range(len(RUNGS)):
        yield rung, _race(rung)


def _race(rung: int) -> list[Standing]:
    """Cells that improve along power laws, at the same distances from each other at every rung, in no order."""
    random = np.random.default_rng(7)
    byte_P = random.integers(500, 4000, PIECES)
    document_P = random.normal(0.0, 0.15, PIECES)
    noise_CRP = random.normal(0.0, 0.01, (CELLS, len(RUNGS), PIECES))
    behind_C = random.permutation(np.linspace(0.0, 0.7, CELLS))
    latest: list[Standing] = []
    for number in range(CELLS):
        history = tuple[Standing, ...]()
        for index, tokens in enumerate(RUNGS[: rung + 1]):
            rate_P = 1.5 + behind_C[number] + 0.5 * (RUNGS[0] / tokens) ** 0.3 + document_P + noise_CRP[number, index]
            bits_P = rate_P * byte_P
            rate = float(bits_P.sum() / byte_P.sum())
            history += (Standing(f"cell {number}", tokens, rate, 2 ** (3.5 * rate), bits_P, byte_P, "one", history),)
        latest.append(history[-1])
    return latest


def _renamed(standing: Standing, name: str) -> Standing:
    return replace(standing, cell=name, history=tuple(_renamed(each, name) for each in standing.history))


def _of_tokenizer(standing: Standing, power: float) -> Standing:
    """As if its tokens had other lengths."""
    history = tuple(_of_tokenizer(each, power) for each in standing.history)
    return replace(standing, tokenizer=f"{power:g}", perplexity=standing.perplexity ** (1 / power), history=history)


LAWS = laws_in(globals())
