"""Figures by hand and against a bootstrap."""

import math

import numpy as np
import pytest

from penstock.eval_suite.metrics import (
    bits_per_byte,
    bits_per_byte_standard_error,
    count_words,
    token_perplexity,
    word_perplexity,
)


def test_figures_of_a_coin():
    nll = np.full(8, math.log(2))
    assert bits_per_byte(nll, 4) == pytest.approx(2.0)
    assert token_perplexity(nll) == pytest.approx(2.0)
    assert word_perplexity(nll, 2) == pytest.approx(16.0)


def test_a_hopeless_model_has_infinite_perplexity_and_no_exception():
    assert token_perplexity([1e6]) == math.inf
    assert math.isnan(token_perplexity([math.nan]))


def test_words_are_counted_as_lm_evaluation_harness_does():
    assert count_words("a b") == 2
    assert count_words(" \n = a = \n") == 5  # the empty ends count


def test_standard_error_equals_a_bootstrap_over_blocks():
    rng = np.random.default_rng(0)
    block = np.repeat(np.arange(400), rng.integers(5, 40, 400))
    level_K = rng.normal(1.0, 0.3, 400)
    nll = level_K[block] + rng.normal(0, 0.1, len(block))
    sizes = rng.integers(1, 6, len(block))
    error = bits_per_byte_standard_error(nll, sizes, block)

    nll_K, size_K = np.bincount(block, weights=nll), np.bincount(block, weights=sizes)
    drawn = rng.integers(0, 400, (4000, 400))
    bootstrap = (nll_K[drawn].sum(1) / size_K[drawn].sum(1) / math.log(2)).std()
    assert error == pytest.approx(bootstrap, rel=0.05)


def test_one_block_has_no_standard_error():
    assert bits_per_byte_standard_error([1.0, 2.0], [1, 1], [0, 0]) is None


def test_nothing_cannot_be_divided_by():
    with pytest.raises(ValueError, match="byte"):
        bits_per_byte([1.0], 0)
    with pytest.raises(ValueError, match="word"):
        word_perplexity([1.0], 0)
