"""Compares published measurements with this package's predictions.

Every row is predicted by a model that was fitted to the other rows of its table (leave one out). It is compared with
the floor: the same procedure with only a latency and a bandwidth for bytes that leave the node (or, inside one node,
the GPU), fitted to each phase separately. A model that does not beat the floor has learned nothing that matters.

The measurements are in `tables/`, each with its source. Shape suffixes: R rows, P parameters.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

from penstock.netsim.calibrate import Floats, Indices, Model, leave_one_out
from penstock.netsim.port import Port
from penstock.netsim.traffic import expected_busiest

GPUS_PER_NODE, K, WIDTH = 8, 8, 7168
TOKEN_BYTES = {"dispatch": WIDTH + WIDTH // 128 * 4, "combine": 2 * WIDTH}
"""FP8 with a 4-byte scale for every 128 elements on the way out, BF16 on the way back."""
NCCL_EAGER, NCCL_BULK = 16 * 2**10, 512 * 2**10
"""Message sizes in bytes. The table has no sizes between 512 B, 512 KiB and 8 MiB, so it does not show where in these
gaps the protocol changes; any choice inside them predicts the same."""
HOST_BRIDGE_PAIRS = {"L40S": 2, "RTX_PRO_6000": 4}
"""GPUs that reach each other without the host's bridge: the group sizes at which the table's bandwidth drops."""


@dataclass(frozen=True, slots=True)
class Table:
    """A published table: its comment lines, and its rows as text."""

    name: str
    source: str
    commit: str
    machine: str
    rows: tuple[Mapping[str, str], ...]


@dataclass(frozen=True, slots=True)
class PredictedRow:
    """One measurement, in seconds. `floor` is None if the table has too few rows of its kind to fit a floor."""

    label: str
    group: str
    measured: float
    predicted: float
    floor: float | None

    @property
    def error(self) -> float:
        return self.predicted / self.measured - 1


@dataclass(frozen=True, slots=True)
class Group:
    """Rows that share one reported error; `bar` is the largest mean absolute error that this package promises, or None
    if it promises none."""

    name: str
    rows: int
    mean_error: float
    largest_error: float
    floor_error: float | None
    bar: float | None

    @property
    def met(self) -> bool:
        return self.bar is None or self.mean_error <= self.bar


@dataclass(frozen=True, slots=True)
class Validation:
    """One model compared with one table. `figures` are those fitted to all rows, in SI units."""

    name: str
    table: Table
    figures: Mapping[str, float]
    rows: tuple[PredictedRow, ...]
    groups: tuple[Group, ...]


def read_table(name: str) -> Table:
    text = (files("penstock.netsim") / "tables" / f"{name}.csv").read_text(encoding="utf-8")
    lines = text.splitlines()
    facts = dict(line[2:].split(": ", 1) for line in lines if line.startswith("#"))
    rows = tuple(csv.DictReader(line for line in lines if not line.startswith("#")))
    return Table(name, facts["source"], facts["commit"], facts["machine"], rows)


def validate() -> list[Validation]:
    """Every table, in the order of the README."""
    systems = dict.fromkeys(row["system"] for row in read_table("nccl_all_to_all").rows)
    return [
        *(_deepep_low_latency(kernels) for kernels in ("2025-02", "2025-06")),
        _sglang_low_latency(),
        _sglang_normal(),
        *(_nccl(system) for system in systems),
    ]


def nvlink_summary(validations: Sequence[Validation]) -> Group:
    """NCCL on one node, for the three NVLink machines together."""
    rows = [
        row
        for validation in validations
        if validation.name in ("NCCL all-to-all, H100", "NCCL all-to-all, H200", "NCCL all-to-all, A100")
        for row in validation.rows
    ]
    return _group("NCCL all-to-all, one node, NVLink", rows, 0.08)


@dataclass(frozen=True, slots=True)
class _Exchanges:
    """The columns of a DeepEP table as arrays, and its rows' labels."""

    gpus_R: Floats
    tokens_R: Floats
    token_bytes_R: Floats
    busiest_R: Floats
    combine_R: NDArray[np.bool_]
    measured_R: Floats
    labels: tuple[str, ...]

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, str]]) -> _Exchanges:
        gpus_R = np.array([float(row["gpus"]) for row in rows])
        tokens_R = np.array([float(row["tokens"]) for row in rows])
        return cls(
            gpus_R=gpus_R,
            tokens_R=tokens_R,
            busiest_R=expected_busiest(gpus_R, tokens_R * K),
            token_bytes_R=np.array([float(TOKEN_BYTES[row["phase"]]) for row in rows]),
            combine_R=np.array([row["phase"] == "combine" for row in rows]),
            measured_R=np.array([float(row["microseconds"]) * 1e-6 for row in rows]),
            labels=tuple(f"{row['phase']}, {row['gpus']} GPUs, {row['tokens']} tokens" for row in rows),
        )

    def between_R(self, gpus_per_node: int) -> NDArray[np.bool_]:
        return self.gpus_R > gpus_per_node


def _deepep_low_latency(kernels: str) -> Validation:
    """Two or three figures for both phases: one latency, one bandwidth between nodes and one inside.

    In both kernels combine ends when the GPU with the most tokens has sent them back, so its time grows with the
    maximum over GPUs of the tokens that random routing gives them. In the kernels of 2025-02, dispatch grows with the
    number of GPUs in the same way; those of 2025-06 wait in dispatch only for their own tokens, whose number is the
    mean.
    """
    table = read_table("deepep_low_latency")
    rows = [row for row in table.rows if row["kernels"] == kernels]
    data = _Exchanges.of(rows)
    nvlink = kernels != "2025-02"  # the first kernels used RDMA inside a node too
    gpus_per_node = GPUS_PER_NODE if nvlink else 1
    waits_R = data.combine_R | (not nvlink)

    def model(figures_P: Floats, rows_R: Indices) -> Floats:
        latency, between = figures_P[:2]
        inside = figures_P[2] if nvlink else np.inf
        ports = Port(between, latency), Port(inside, latency)
        return _low_latency_seconds(data, waits_R, ports, gpus_per_node, rows_R)

    names = ("latency", "between_bandwidth", "inside_bandwidth")[: 3 if nvlink else 2]
    guess_P = np.array([20e-6, 45e9, 180e9])[: len(names)]
    floor_R = _floor(data, gpus_per_node)
    predicted = _predict(f"DeepEP low latency, kernels of {kernels}", table, names, model, guess_P, data, floor_R)
    return _grouped(predicted, {"dispatch": 0.01, "combine": 0.02})


def _sglang_low_latency() -> Validation:
    """A latency and a bandwidth for each level, the same for both phases."""
    table = read_table("sglang_low_latency")
    data = _Exchanges.of(table.rows)
    waits_R = np.ones(len(table.rows), dtype=bool)

    def model(figures_P: Floats, rows_R: Indices) -> Floats:
        between_latency, between, inside_latency, inside = figures_P
        ports = Port(between, between_latency), Port(inside, inside_latency)
        return _low_latency_seconds(data, waits_R, ports, GPUS_PER_NODE, rows_R)

    names = ("between_latency", "between_bandwidth", "inside_latency", "inside_bandwidth")
    guess_P = np.array([20e-6, 45e9, 10e-6, 200e9])
    floor_R = _floor(data, GPUS_PER_NODE)
    predicted = _predict("DeepEP low latency through SGLang", table, names, model, guess_P, data, floor_R)
    return _grouped(predicted, {"dispatch over nodes": 0.05, "combine over nodes": 0.05})


def _sglang_normal() -> Validation:
    """A token crosses to a node once: latency and bandwidth for the tokens that cross."""
    table = read_table("sglang_normal")
    data = _Exchanges.of(table.rows)
    nodes_R = data.gpus_R / GPUS_PER_NODE
    reached_R = (nodes_R - 1) * (1 - (1 - 1 / nodes_R) ** K)  # other nodes that hold one of a token's experts
    crossing_R = data.tokens_R * data.token_bytes_R * reached_R
    leaving_R = data.tokens_R * data.token_bytes_R * K * (GPUS_PER_NODE - 1) / GPUS_PER_NODE

    def model(figures_P: Floats, rows_R: Indices) -> Floats:
        between_latency, between, inside_latency, inside = figures_P
        across_R = Port(between, between_latency).seconds(crossing_R[rows_R])
        home_R = Port(inside, inside_latency).seconds(leaving_R[rows_R])
        return np.where(nodes_R[rows_R] > 1, across_R, home_R)

    names = ("between_latency", "between_bandwidth", "inside_latency", "inside_bandwidth")
    guess_P = np.array([50e-6, 40e9, 50e-6, 200e9])
    floor_R = _floor(data, GPUS_PER_NODE)
    predicted = _predict("DeepEP normal through SGLang", table, names, model, guess_P, data, floor_R)
    return _grouped(predicted, {})


def _nccl(system: str) -> Validation:
    """A port in pieces (`Port`), plus the effect of the wiring.

    NVLink: groups of 2, 4 and 8 GPUs use different numbers of channels, so each size has its own bandwidth.
    PCIe: GPUs of one switch reach each other directly, all others through a bridge of the host that they share.
    """
    table = read_table("nccl_all_to_all")
    rows = [row for row in table.rows if row["system"] == system]
    gpus_R = np.array([int(row["gpus"]) for row in rows])
    buffer_R = np.array([float(row["bytes"]) for row in rows])
    measured_R = np.array([float(row["microseconds"]) * 1e-6 for row in rows])
    sent_R = buffer_R * (gpus_R - 1) / gpus_R
    labels = tuple(f"{row['gpus']} GPUs, {row['bytes']} bytes" for row in rows)
    sizes = (2, 4, 8)
    pair = HOST_BRIDGE_PAIRS.get(system)
    bridge_R = np.zeros(len(rows)) if pair is None else buffer_R * np.maximum(gpus_R - pair, 0)

    def model(figures_P: Floats, rows_R: Indices) -> Floats:
        latency, overhead, rendezvous, *others = figures_P
        bulk_setup = others.pop(0) if pair is None else 0.0
        port = Port(np.inf, latency, overhead, NCCL_EAGER, rendezvous, NCCL_BULK, bulk_setup)
        gpus = gpus_R[rows_R]
        start = port.start_seconds(gpus - 1, buffer_R[rows_R] / gpus)
        if pair is None:
            return start + sent_R[rows_R] / np.select([gpus == size for size in sizes], others)
        return start + np.maximum(sent_R[rows_R] / others[0], bridge_R[rows_R] / others[1])

    names, guess = ["latency", "peer_overhead", "rendezvous"], [7e-6, 0.3e-6, 5e-6]
    if pair is None:
        names += ["bulk_setup", *(f"bandwidth_{size}" for size in sizes)]
        guess += [4e-6, 250e9, 270e9, 290e9]
    else:
        names += ["bandwidth", "bridge_bandwidth"]
        guess += [23e9, 13e9 if pair == 2 else 80e9]
    found = leave_one_out(model, np.array(guess), measured_R)
    floor_R = leave_one_out(_latency_and_bandwidth(sent_R), np.array([10e-6, 100e9]), measured_R).left_out_R
    predicted = tuple(
        PredictedRow(label, "one node", measured, left_out, floor)
        for label, measured, left_out, floor in zip(labels, measured_R, found.left_out_R, floor_R, strict=True)
    )
    figures = dict(zip(names, map(float, found.figures_P), strict=True))
    validation = Validation(f"NCCL all-to-all, {system}", table, figures, predicted, ())
    return _grouped(validation, {})


def _low_latency_seconds(
    data: _Exchanges, waits_R: NDArray[np.bool_], ports: tuple[Port, Port], gpus_per_node: int, rows_R: Indices
) -> Floats:
    gpus, tokens = data.gpus_R[rows_R], data.tokens_R[rows_R]
    busiest = np.where(waits_R[rows_R], data.busiest_R[rows_R], 1.0)
    moved = tokens * K * data.token_bytes_R[rows_R] * busiest
    node = np.minimum(gpus, gpus_per_node)
    between, inside = ports
    return np.maximum(between.seconds(moved * (1 - node / gpus)), inside.seconds(moved * (node - 1) / gpus))


def _latency_and_bandwidth(bytes_R: Floats) -> Model:
    return lambda figures_P, rows_R: figures_P[0] + bytes_R[rows_R] / figures_P[1]


def _floor(data: _Exchanges, gpus_per_node: int) -> Floats:
    """Leave-one-out predictions of latency plus bytes over bandwidth, for each phase and level separately."""
    sent_R = data.tokens_R * K * data.token_bytes_R
    between_R = data.between_R(gpus_per_node)
    leaving_R = sent_R * np.where(between_R, 1 - gpus_per_node / data.gpus_R, 1 - 1 / data.gpus_R)
    floor_R = np.full(len(sent_R), np.nan)
    for combine in (False, True):
        for between in (False, True):
            rows = np.flatnonzero((data.combine_R == combine) & (between_R == between))
            if len(rows) > 2:
                model = _latency_and_bandwidth(leaving_R[rows])
                floor_R[rows] = leave_one_out(model, np.array([20e-6, 45e9]), data.measured_R[rows]).left_out_R
    return floor_R


def _predict(
    name: str,
    table: Table,
    names: Sequence[str],
    model: Model,
    guess_P: Floats,
    data: _Exchanges,
    floor_R: Floats,
) -> Validation:
    found = leave_one_out(model, guess_P, data.measured_R)
    groups = [
        f"{'combine' if combine else 'dispatch'}{' over nodes' if gpus > GPUS_PER_NODE else ' in one node'}"
        for combine, gpus in zip(data.combine_R, data.gpus_R, strict=True)
    ]
    rows = tuple(
        PredictedRow(label, group, float(measured), float(predicted), None if np.isnan(floor) else float(floor))
        for label, group, measured, predicted, floor in zip(
            data.labels, groups, data.measured_R, found.left_out_R, floor_R, strict=True
        )
    )
    return Validation(name, table, dict(zip(names, map(float, found.figures_P), strict=True)), rows, ())


def _grouped(validation: Validation, bars: Mapping[str, float]) -> Validation:
    """With one group per bar, or per kind of row if there are no bars; a bar's rows are those of its name."""
    kinds = dict.fromkeys(row.group for row in validation.rows)
    names = [*bars, *(kind for kind in kinds if not any(kind.startswith(bar) for bar in bars))]
    groups = tuple(
        _group(name, [row for row in validation.rows if row.group.startswith(name)], bars.get(name)) for name in names
    )
    return Validation(validation.name, validation.table, validation.figures, validation.rows, groups)


def _group(name: str, rows: Sequence[PredictedRow], bar: float | None) -> Group:
    errors = np.abs([row.error for row in rows])
    floors = [abs(row.floor / row.measured - 1) for row in rows if row.floor is not None]
    floor = float(np.mean(floors)) if floors else None
    return Group(name, len(rows), float(errors.mean()), float(errors.max()), floor, bar)
