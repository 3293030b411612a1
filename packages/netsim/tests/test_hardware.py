"""Presets carry their sources."""

from typing import get_args

import pytest

from penstock.netsim.hardware import HARDWARE, HardwareName


def test_every_preset_can_be_named_in_a_config():
    assert set(get_args(HardwareName)) == set(HARDWARE)


@pytest.mark.parametrize("preset", HARDWARE.values(), ids=HARDWARE)
def test_every_figure_is_positive_and_names_its_source(preset):
    figures = (preset.inside_bandwidth, preset.inside_latency, preset.between_bandwidth, preset.between_latency)
    assert all(figure.value > 0 and len(figure.source) > 20 for figure in figures)
    assert 1e9 < preset.between_bandwidth.value < preset.gpus_per_node * 1e12
    assert 1e-6 < preset.inside_latency.value < preset.between_latency.value < 1e-4


def test_nccl_bandwidth_is_what_left_the_gpu_over_the_time():
    assert HARDWARE["h100"].inside_bandwidth.value == pytest.approx(512 * 2**20 * 7 / 8 / 1490e-6, rel=2e-3)
