"""Held-out text is cut alike for every tokenizer, and bits per byte are those of its pieces."""

import math
from dataclasses import replace

import numpy as np
import pytest

from penstock.run.records.sweep import HeldoutBytes
from penstock.sweep.analysis import analyse
from penstock.sweep.documents import documents_of
from penstock.sweep.heldout import FEWEST_PIECES, PIECE, pieces_of
from penstock.sweep.sections import cells_table


class Fixed:
    """A tokenizer with tokens of as many letters each, and the end of a text."""

    end_of_text = 0
    vocabulary_size = 2

    def __init__(self, letters):
        self.letters = letters

    def byte_lengths(self):
        return np.array([0, self.letters])

    def encode(self, text):
        return [1] * (len(text) // self.letters)

    def decode(self, tokens):
        return "x" * self.letters * len(tokens)

    def of(self, documents):
        return np.concatenate([np.array([*[1] * (size // self.letters), 0]) for size in documents])


MANY, FEW = [600] * 40, [6000, 3000]


@pytest.mark.parametrize(
    ("documents", "limit", "sizes"),
    [
        (MANY, None, MANY),
        (MANY, 20_000, [600] * 34),  # whole documents that have so many bytes
        (FEW, None, [PIECE] * 4 + [9000 - 4 * PIECE]),
        (FEW, 6600, [PIECE] * 3 + [6600 - 3 * PIECE]),
        (FEW, 300, [300]),
        ([9000], None, [PIECE] * 4 + [9000 - 4 * PIECE]),
        (MANY, 6000, [PIECE] * 2 + [6000 - 2 * PIECE]),
    ],
)
def test_few_documents_are_cut_and_many_are_pieces(documents, limit, sizes):
    found = [pieces_of(Fixed(letters).of(documents), Fixed(letters), limit) for letters in (1, 2, 3)]
    assert [each.byte_P.tolist() for each in found] == [sizes] * 3
    assert {each.text for each in found} == {found[0].text}
    assert {each.text_bytes for each in found} == {sum(sizes)}
    bits_P = found[0].bits(np.full(len(found[0].token_N) - 1, math.log(2)))  # a bit a byte, and one a document's end
    assert bits_P.sum() == len(found[0].token_N) - 1


def test_pieces_of_several_documents_have_another_name_than_those_documents_had():
    """A sweep of an earlier version took a document as a piece: results of both would be paired wrongly."""
    one, two = (pieces_of(Fixed(1).of(documents), Fixed(1), None) for documents in ([9000], FEW))
    assert one.byte_P.tolist() == two.byte_P.tolist()
    assert one.text != two.text


@pytest.mark.parametrize(("pieces", "shown"), [(1, False), (FEWEST_PIECES - 1, False), (FEWEST_PIECES, True)])
def test_few_pieces_give_no_interval_and_no_membership_and_the_report_says_how_many(made, pieces, shown):
    results = [replace(each, document_bits=each.document_bits[:pieces]) for each in made.results]
    sizes = made.documents.bytes[made.results[0].text][:pieces]
    found = analyse(made.figures, documents_of(results, {made.results[0].text: HeldoutBytes(list(sizes))}))
    assert all((each.low is not None) is shown for standings in found.standings.values() for each in standings)
    assert all((each.low is not None) is shown for each in found.effects.levels)
    assert all((m.membership is not None) is shown for front in found.objective_fronts for m in front.members)
    table = cells_table(found)
    assert f"{pieces} piece" in table.caption
    assert ("no interval" in table.caption) is not shown


def test_an_interval_contains_its_mean(made):
    found = analyse(made.figures, made.documents)
    standings = [each for own in found.standings.values() for each in own]
    assert all(each.low is not None and each.high is not None for each in standings)
    assert all((each.low or 0.0) <= each.bits_per_byte <= (each.high or 0.0) for each in standings)
