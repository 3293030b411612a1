"""The published tables and the bars that the README states."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest

from penstock.netsim.port import Port
from penstock.netsim.topology import TwoLevel
from penstock.netsim.traffic import expected_busiest
from penstock.netsim.validation import nvlink_summary, read_table, validate

TABLES = ["deepep_low_latency", "sglang_low_latency", "sglang_normal", "nccl_all_to_all"]


@pytest.fixture(scope="module")
def validations():
    return validate()


def test_every_bar_is_met(validations):
    groups = [group for validation in validations for group in validation.groups if group.bar is not None]
    assert len(groups) == 6
    for group in [*groups, nvlink_summary(validations)]:
        assert group.mean_error <= group.bar, group


def test_every_row_of_every_table_is_predicted(validations):
    predicted = sum(len(validation.rows) for validation in validations)
    assert predicted == sum(len(read_table(name).rows) for name in TABLES)
    assert all(row.predicted > 0 and row.measured > 0 for validation in validations for row in validation.rows)


def test_a_groups_error_is_the_mean_of_its_rows(validations):
    for validation in validations:
        for group in validation.groups:
            errors = [
                abs(row.predicted / row.measured - 1) for row in validation.rows if row.group.startswith(group.name)
            ]
            assert (group.rows, group.mean_error) == (len(errors), pytest.approx(np.mean(errors)))


def test_every_table_names_source_commit_and_machine():
    for name in TABLES:
        table = read_table(name)
        assert all(len(text) > 10 for text in (table.source, table.commit, table.machine))


def test_what_is_validated_is_what_is_simulated(validations):
    """The closed form of the fit equals the simulator, given its figures and the same traffic."""
    validation = next(item for item in validations if item.name.endswith("2025-06"))
    figures = validation.figures
    topology = TwoLevel(
        gpus_per_node=8,
        inside_bandwidth=figures["inside_bandwidth"],
        inside_latency=figures["latency"],
        between_bandwidth=figures["between_bandwidth"],
        between_latency=figures["latency"],
    )
    gpus, moved = 32, 128 * 8 * 14336 * float(expected_busiest(32, 128 * 8))
    port = Port(figures["between_bandwidth"], figures["latency"])
    closed = float(port.seconds(moved * (1 - 8 / gpus)))
    assert topology.all_to_all_seconds(np.full((gpus, gpus), moved / gpus)) == pytest.approx(closed)


@pytest.mark.parametrize("gpus", [2, 8, 64])
def test_the_busiest_gpu_gets_what_random_draws_give_it(gpus):
    rng = np.random.default_rng(0)
    counts = rng.multinomial(1024 * gpus, np.full(gpus, 1 / gpus), size=4000)
    assert expected_busiest(gpus, 1024) == pytest.approx(counts.max(axis=1).mean() / 1024, abs=3e-3)


@pytest.mark.parametrize(
    ("name", "file", "key"),
    [
        ("deepep_low_latency", "deepep_low_latency_h800.csv", "latency_us"),
        ("sglang_low_latency", "sglang_deepep_low_latency_h100.csv", "latency_us"),
        ("sglang_normal", "sglang_deepep_normal_h100.csv", "latency_us"),
        ("nccl_all_to_all", "nccl_alltoall_single_node.csv", "latency_us"),
    ],
)
def test_the_tables_hold_the_published_figures(name, file, key):
    path = Path(os.environ.get("PENSTOCK_DATA", "")) / "comm" / file
    if "PENSTOCK_DATA" not in os.environ or not path.exists():
        pytest.skip(f"{path} is absent: PENSTOCK_DATA names the folder of the published tables")
    with path.open(newline="") as opened:
        published = [float(row[key]) for row in csv.DictReader(opened)]
    assert [float(row["microseconds"]) for row in read_table(name).rows] == published
