"""A layout cuts a stored tensor into the matrices that it holds, and puts them together again."""

from __future__ import annotations

import numpy as np
import pytest

from penstock.hooks.contracts import ParameterLayout

TWO = (("q", 2), ("k", 1))


@pytest.mark.parametrize(
    ("layout", "shape", "rows"),
    [
        (ParameterLayout(), (3, 4), {"whole": [0, 1, 2]}),
        (ParameterLayout(TWO), (3, 4), {"q": [0, 1], "k": [2]}),
        (ParameterLayout(TWO), (5, 3, 4), {"q": [0, 1], "k": [2]}),
        (ParameterLayout(TWO, blocks=2), (6, 4), {"q": [0, 1, 3, 4], "k": [2, 5]}),
        (ParameterLayout((("gate", 1), ("up", 1)), blocks=3), (2, 6, 4), {"gate": [0, 2, 4], "up": [1, 3, 5]}),
    ],
)
@pytest.mark.parametrize("transposed", [False, True])
def test_matrices_are_the_rows_of_each_part_and_are_written_back(layout, shape, rows, transposed):
    outputs_first = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    stored = outputs_first.swapaxes(-1, -2).copy() if transposed else outputs_first
    layout = ParameterLayout(layout.parts, layout.blocks, transposed)
    found = layout.matrices(stored)
    assert {name: each.tolist() for name, each in found.items()} == {
        name: outputs_first[..., chosen, :].tolist() for name, chosen in rows.items()
    }
    assert layout.shapes(stored.shape) == {name: each.shape for name, each in found.items()}
    written = np.zeros_like(stored)
    layout.write(written, {name: each + 1 for name, each in found.items()})
    assert np.array_equal(written, stored + 1)
