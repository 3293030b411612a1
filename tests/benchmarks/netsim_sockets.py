"""The fluid model against real sockets: hosts that are network namespaces, joined at 50 to 200 Mbit/s.

Hosts exchange uneven traffic through torch.distributed's gloo. Two figures are calibrated on every sixth cell, and all
others are predicted: `rate`, what a port spends for each second that the fluid model needs (TCP/IP headers and start),
and `contention`, what it spends more where its other direction and its peers' ports are as busy as itself and several
messages share it, because TCP shares less evenly than max-min. Bandwidth is emulated, latency is not.

The bars are of messages posted at once (isend, irecv). gloo's own `all_to_all_single` is measured beside them: the two
messages of a pair share one connection, and where one is queued before the other's handshake, they follow each other,
so two hosts take up to twice as long. That is gloo and not the network, and no bar is held to it.

Needs root, iproute2 and some ten minutes; says why and ends with 0 where it cannot run. Uses PENSTOCK_DATA for traffic
of a real trace.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
from measure import Bar, finish, json_option
from numpy.typing import NDArray
from socket_hosts import Hosts, Measured, Wiring, cannot_run

from penstock.netsim.calibrate import fit
from penstock.netsim.fidelity import exchange
from penstock.netsim.network import Flows
from penstock.netsim.topologies import Cable, Graph
from penstock.traces.reader import read_trace

Floats = NDArray[np.float64]

WIRINGS = (
    Wiring(100, (0, 0)),
    Wiring(100, (0,) * 4),
    Wiring(100, (0, 0, 0, 1, 1, 1), uplink_megabits=100),
    Wiring(100, (0,) * 8),
)
MEGABITS = (50, 100, 200)
SECONDS = (0.4, 0.8)
"""What the busiest port needs for its bytes at its rate: long enough for TCP to find its share."""
PATTERNS = ("uniform", "zipf", "log-normal", "incast", "trace")
CALIBRATED_EVERY = 6
MOST_MEGABITS = 1000
"""Of all hosts on one switch: about what two cores pass on. Cells above it (8 hosts at 200 Mbit/s) are measured and
shown, but they measure the processor and who else uses it."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One exchange: `bytes_HH` over a wiring whose ports run at `megabits`."""

    wiring: Wiring
    megabits: int
    pattern: str
    bytes_HH: list[list[int]]

    @property
    def cpu_bound(self) -> bool:
        hosts = max(self.wiring.leaf_of.count(leaf) for leaf in self.wiring.leaf_of)
        return hosts * self.megabits > MOST_MEGABITS

    @property
    def name(self) -> str:
        shape = "tree" if self.wiring.uplink_megabits else "star"
        return f"{self.wiring.hosts} hosts {shape}"

    def flows(self) -> Flows:
        return Flows.of(self.bytes_HH)

    def topology(self) -> Graph:
        """Each host's port and, where there are several leaves, their uplinks."""
        port = self.megabits * 1e6 / 8
        cables = [Cable((host, f"leaf {leaf}"), port) for host, leaf in enumerate(self.wiring.leaf_of)]
        if self.wiring.uplink_megabits:
            uplink = self.wiring.uplink_megabits * 1e6 / 8
            cables += [Cable((f"leaf {leaf}", "core"), uplink) for leaf in sorted(set(self.wiring.leaf_of))]
        return Graph(links=cables, inside_latency=0.0, between_latency=0.0)


@dataclass(frozen=True, slots=True)
class Predictor:
    """What the model says of a cell before its two figures are known.

    A port of load `busy_P` seconds takes `busy * (rate + contention * crowd)`; the exchange ends with the last port,
    and not before `rate` times what the fluid model needs.
    """

    fluid_F: Floats
    busy_P: Floats
    crowd_P: Floats
    fluid: float = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "fluid", float(self.fluid_F.max()))

    @classmethod
    def of(cls, cell: Cell) -> Predictor:
        bytes_HH = np.array(cell.bytes_HH, dtype=np.float64)
        port = cell.megabits * 1e6 / 8
        sent_H, got_H = bytes_HH.sum(axis=1) / port, bytes_HH.sum(axis=0) / port
        ports = [
            *_ports(bytes_HH / port, sent_H, got_H),
            *_ports(bytes_HH.T / port, got_H, sent_H),
        ]
        busy, crowd = zip(*ports, strict=True)
        network = cell.topology().network(cell.wiring.hosts)
        return cls(exchange(network, cell.flows(), "fluid").finish_F, np.array(busy), np.array(crowd))

    def seconds(self, rate: float, contention: float) -> float:
        return max(rate * self.fluid, float((self.busy_P * (rate + contention * self.crowd_P)).max()))


def _ports(out_HH: Floats, busy_H: Floats, other_H: Floats) -> Iterator[tuple[float, float]]:
    """For each host's port in one direction: its seconds, and how much of a crowd it meets, 0 to 1.

    `other_H` are the seconds of the same hosts' other direction.
    """
    for out_H, busy, other in zip(out_HH, busy_H, other_H, strict=True):
        if busy > 0:
            share_H = out_H / busy
            peers = float(share_H @ out_HH.sum(axis=0))
            alone = float((share_H**2).sum())
            yield float(busy), min(other / busy, 1.0) * min(peers / busy, 1.0) * (1 - alone)


def cells_of(wiring: Wiring, rng: np.random.Generator, real_LE: Floats | None) -> list[Cell]:
    found: list[Cell] = []
    for megabits in MEGABITS:
        for seconds in SECONDS:
            for pattern in PATTERNS:
                weight_HH = weights(pattern, wiring.hosts, rng, real_LE)
                if weight_HH is None:
                    continue
                busiest = max(weight_HH.sum(axis=0).max(), weight_HH.sum(axis=1).max())
                bytes_HH = (weight_HH * (seconds * megabits * 1e6 / 8 / busiest)).astype(int).tolist()
                found.append(Cell(wiring, megabits, pattern, bytes_HH))
    return found


def weights(pattern: str, hosts: int, rng: np.random.Generator, real_LE: Floats | None) -> Floats | None:
    weight_HH = np.ones((hosts, hosts))
    if pattern == "zipf":
        weight_HH *= rng.permutation(1 / np.arange(1, hosts + 1))
    elif pattern == "log-normal":
        weight_HH = rng.lognormal(0, 1, (hosts, hosts))
    elif pattern == "incast":
        weight_HH = np.zeros((hosts, hosts))
        weight_HH[:, rng.integers(hosts)] = 1
    elif pattern == "trace":
        if real_LE is None:
            return None
        rows_HE = real_LE[rng.integers(len(real_LE), size=hosts)]
        weight_HH = np.stack([part.sum(axis=1) for part in np.array_split(rows_HE, hosts, axis=1)], axis=1)
    np.fill_diagonal(weight_HH, 0)
    return weight_HH


def real_counts() -> Floats | None:
    """Expert counts of OLMoE's first layer, a row a text domain; hosts hold its experts in order."""
    path = Path(os.environ.get("PENSTOCK_DATA", "")) / "moe_traces" / "olmoe_mixtral_expert_counts.json"
    if not path.is_file():
        return None
    return read_trace(path, "olmoe").counts_SLE[:, 0].astype(np.float64)


def measure(repeats: int) -> list[tuple[Cell, Measured]]:
    rng = np.random.default_rng(0)
    real_LE = real_counts()
    found: list[tuple[Cell, Measured]] = []
    for wiring in WIRINGS:
        with Hosts(wiring) as hosts:
            for cell in cells_of(wiring, rng, real_LE):
                hosts.set_port_rate(cell.megabits)
                found.append((cell, hosts.exchange(cell.bytes_HH, repeats)))
                click.echo(f"{len(found)} {cell.name} {cell.megabits} Mbit/s {cell.pattern}", err=True)
    return found


def calibrate(predictors: Sequence[Predictor], measured: Floats, rows: NDArray[np.int64]) -> tuple[float, float]:
    def model(figures: Floats, chosen: NDArray[np.int64]) -> Floats:
        return np.array([predictors[row].seconds(*figures) for row in chosen])

    rate, contention = fit(model, np.array([1.05, 0.3]), measured, rows)
    return float(rate), float(contention)


def flow_errors(found: tuple[Cell, Measured], predictor: Predictor, rate: float) -> list[float]:
    cell, measured = found
    flows = cell.flows()
    return [
        rate * seconds / statistics.median(repeat[source, target] for repeat in measured.repeats) - 1
        for source, target, seconds in zip(
            flows.source_F.tolist(), flows.target_F.tolist(), predictor.fluid_F.tolist(), strict=True
        )
    ]


@click.command()
@click.option("--repeats", default=5, show_default=True, type=click.IntRange(min=1), help="Exchanges of each cell.")
@click.option("--keep", type=click.Path(path_type=Path), help="Write what was measured to this file, too.")
@json_option
def main(repeats: int, keep: Path | None, as_json: bool) -> None:
    reason = cannot_run()
    if reason:
        click.echo(f"skipped: {reason}", err=True)
        sys.exit(0)
    found = measure(repeats)
    if keep:
        keep.write_text(json.dumps([_kept(cell, measured) for cell, measured in found]))
    report(found, as_json)


def _kept(cell: Cell, measured: Measured) -> dict[str, Any]:
    repeats = [[[*pair, seconds] for pair, seconds in repeat.items()] for repeat in measured.repeats]
    wiring = {"leaf_of": cell.wiring.leaf_of, "uplink_megabits": cell.wiring.uplink_megabits}
    facts = {"megabits": cell.megabits, "pattern": cell.pattern, "bytes": cell.bytes_HH}
    return {**wiring, **facts, "repeats": repeats, "collective": measured.collective}


def report(found: Sequence[tuple[Cell, Measured]], as_json: bool) -> None:
    predictors = [Predictor.of(cell) for cell, _ in found]
    measured = np.array([statistics.median(max(repeat.values()) for repeat in each.repeats) for _, each in found])
    counted = np.array([row for row, (cell, _) in enumerate(found) if not cell.cpu_bound])
    calibrated = counted[::CALIBRATED_EVERY]
    rate, contention = calibrate(predictors, measured, calibrated)
    predicted = np.array([predictor.seconds(rate, contention) for predictor in predictors])
    held_out = np.setdiff1d(counted, calibrated)
    overloaded = np.setdiff1d(np.arange(len(found)), counted)
    errors = np.abs(predicted / measured - 1)
    plain = np.abs(np.array([predictor.fluid for predictor in predictors]) / measured - 1)
    ports = np.array([float(predictor.busy_P.max()) for predictor in predictors])
    tree = np.array([row for row in held_out if found[row][0].wiring.uplink_megabits])
    flows = np.abs([e for row in held_out for e in flow_errors(found[row], predictors[row], rate)])
    rows = [
        {
            "cell": cell.name,
            "Mbit/s": cell.megabits,
            "traffic": cell.pattern,
            "measured s": float(measured[row]),
            "predicted s": float(predicted[row]),
            "error %": 100 * float(predicted[row] / measured[row] - 1),
            "fluid s": predictors[row].fluid,
            "port s": float(ports[row]),
            "gloo collective s": each.collective,
            "use": "calibrated" if row in calibrated else "CPU-bound" if cell.cpu_bound else "",
        }
        for row, (cell, each) in enumerate(found)
    ]
    bars = [
        Bar("cells predicted", len(held_out), 60),
        Bar("cells calibrated, share", len(calibrated) / len(counted), 0.2, at_least=False),
        Bar("makespan error, median", float(np.median(errors[held_out])), 0.05, at_least=False),
        Bar("makespan error, P90", float(np.quantile(errors[held_out], 0.9)), 0.10, at_least=False),
    ]
    facts: dict[str, Any] = {
        "rate": round(rate, 3),
        "contention": round(contention, 3),
        "fluid alone, median error": f"{np.median(plain[held_out]):.1%}",
        "error of messages, median": f"{np.median(flows):.1%}",
        "P90": f"{np.quantile(flows, 0.9):.1%}",
    }
    if len(overloaded):
        facts["CPU-bound cells, median error"] = f"{np.median(errors[overloaded]):.1%}"
    if len(tree):
        bound = np.abs(rate * ports / measured - 1)
        facts["oversubscribed tree, median error"] = f"{np.median(errors[tree]):.1%}"
        facts["of ports alone"] = f"{np.median(bound[tree]):.1%}"
    finish("netsim_sockets", rows, bars, as_json, **facts)


if __name__ == "__main__":
    main()
