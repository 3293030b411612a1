"""The numbers behind the drawings, and what becomes of matplotlib's SVG."""

from __future__ import annotations

import base64
import io
import math
import re

import matplotlib
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.image import imread

from penstock.pages.charts import single_chart
from penstock.pages.drawing import FULL
from penstock.pages.heat_maps import heat_image, heat_limit, heat_map
from penstock.pages.lines import POINTS, decimated, smoothed

values = st.lists(st.one_of(st.floats(-1e3, 1e3), st.just(math.nan)), min_size=1, max_size=200).map(np.array)


@settings(max_examples=80, deadline=None)
@given(values)
def test_smoothing_is_the_mean_of_the_finite_values_in_its_window(raw: np.ndarray) -> None:
    result = smoothed(raw)
    for index in range(len(raw)):
        half = min(index, len(raw) // 40)
        window = raw[index - half : index + half + 1]
        finite = window[np.isfinite(window)]
        np.testing.assert_allclose(result[index], finite.mean() if finite.size else math.nan, atol=1e-9)


def test_a_short_run_is_not_smoothed() -> None:
    np.testing.assert_allclose(smoothed(np.array([3.0, 1.0, 2.0])), [3, 1, 2])


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 9000), st.integers(0, 99))
def test_thinning_keeps_the_order_the_spikes_and_few_points(length: int, seed: int) -> None:
    y = np.random.default_rng(seed).normal(size=length)
    x = np.arange(length, dtype=float)
    thin_x, thin_y = decimated(x, y)
    assert len(thin_x) <= 2 * POINTS
    assert (np.diff(thin_x) > 0).all()
    assert (thin_y.min(), thin_y.max()) == (y.min(), y.max())
    np.testing.assert_array_equal(y[thin_x.astype(int)], thin_y)


def picture(uri: str) -> np.ndarray:
    return imread(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,"))), format="png")


def test_an_even_load_is_transparent_more_is_orange_less_is_blue() -> None:
    pixels = picture(heat_image(np.array([[1.0, 4.0, 0.25, 0.0, math.nan]]), 4.0, rows=1, columns=5))
    even, more, less, none, unknown = pixels[0]
    assert even[3] == unknown[3] == 0
    assert more[3] == less[3] == none[3] == 1
    assert more[0] > more[2]
    assert less[2] > less[0]


def test_the_colour_scale_reaches_as_far_as_the_loads_do() -> None:
    assert heat_limit(np.array([0.9, 1.1])) == 1.25
    assert heat_limit(np.array([0.5, 2.0])) == 2.0
    assert heat_limit(np.array([0.0, math.nan])) == 1.25
    assert heat_limit(np.array([100.0])) == 8.0


def test_many_experts_are_sorted_by_load() -> None:
    ratio_EC = np.linspace(0.5, 1.5, 64)[:, None].repeat(3, axis=1)
    drawn = heat_map(1, ratio_EC, 2.0)
    assert (drawn.first, drawn.last) == ("most", "least")
    column = picture(drawn.image)[:, 0]
    assert column[0, 0] > column[0, 2]
    assert column[-1, 2] > column[-1, 0]


def test_charts_follow_the_colours_of_the_page_and_leave_matplotlib_as_it_was() -> None:
    before = dict(matplotlib.rcParams)
    x = np.arange(1.0, 50.0)
    chart = single_chart("loss", (x, 1 / x), smooth=True, wide=FULL)
    assert dict(matplotlib.rcParams) == before
    assert chart.wide != chart.narrow
    for svg in (chart.wide, chart.narrow):
        assert "var(--series-1)" in svg
        assert not re.search(r"#0[0-9a-f]{5}|<style|<metadata|http|font-family", svg)
