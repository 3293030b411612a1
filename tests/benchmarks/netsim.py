"""Speed and accuracy of the network simulator at the sizes that it promises.

- alpha-beta: 1,000 steps of 61 layers and 256 experts on 8,192 GPUs, with the median and the longest step, in seconds
  and memory.
- fluid: 256 GPUs, 65,280 messages of log-normal sizes, in seconds; and at 64 GPUs against exact events.
"""

from __future__ import annotations

import time

import click
import numpy as np
from measure import Bar, finish, json_option, peak_megabytes

from penstock.netsim.fidelity import fluid_exchange
from penstock.netsim.network import Flows
from penstock.netsim.placement import Contiguous
from penstock.netsim.simulate import SimulationRow, simulate
from penstock.netsim.topologies import FatTree, RailOptimised
from penstock.netsim.topology import TwoLevel
from penstock.traces.trace import RoutingTrace

GPUS, LAYERS, STEPS, EXPERTS, K = 8192, 61, 1000, 256, 8
TOPOLOGIES = {
    "two-level": TwoLevel("h100"),
    "rail-optimised": RailOptimised(hardware="h100"),
    "fat-tree 2:1": FatTree(hardware="h100", nodes_per_leaf=2, oversubscription=2),
}


def large() -> tuple[float, SimulationRow]:
    """Seconds of the simulation alone; the trace is drawn before."""
    rng = np.random.default_rng(0)
    share_LE = rng.dirichlet(np.full(EXPERTS, 4.0), size=LAYERS)
    counts_SLE = rng.multinomial(K * 4096, share_LE, size=(STEPS, LAYERS)).astype(np.int64)
    trace = RoutingTrace(counts_SLE, {"k": K})
    begun = time.perf_counter()
    [row] = simulate(trace, TwoLevel("h800"), Contiguous(), gpus=[GPUS], hidden_size=7168)
    return time.perf_counter() - begun, row


def fluid(name: str, gpus: int, tolerance: float | None = None) -> tuple[float, float]:
    """Seconds that the simulation took, and that it predicts."""
    flows = Flows.of(np.random.default_rng(0).lognormal(0, 1, (gpus, gpus)) * 1e6)
    network = TOPOLOGIES[name].network(gpus)
    begun = time.perf_counter()
    predicted = fluid_exchange(network, flows, tolerance).seconds
    return time.perf_counter() - begun, predicted


@click.command()
@json_option
def main(as_json: bool) -> None:
    seconds, row = large()
    gigabytes = peak_megabytes() / 1e3
    rows: list[dict[str, object]] = [
        {
            "case": f"alpha-beta, {GPUS} GPUs x {LAYERS} layers x {STEPS} steps",
            "seconds": seconds,
            "predicted": f"step p50 {row.step.p50:.3f} s, longest {row.step.max:.3f} s",
        }
    ]
    slowest, furthest = 0.0, 0.0
    for name in TOPOLOGIES:
        took, predicted = fluid(name, 256)
        rows.append({"case": f"fluid, {name}, 256 GPUs", "seconds": took, "predicted": f"{1e3 * predicted:.3f} ms"})
        (_, near), (exact_took, exact) = fluid(name, 64), fluid(name, 64, tolerance=0.0)
        error = abs(near / exact - 1)
        rows.append({"case": f"exact, {name}, 64 GPUs", "seconds": exact_took, "predicted": f"off by {error:.2%}"})
        slowest, furthest = max(slowest, took), max(furthest, error)
    bars = [
        Bar("alpha-beta, seconds", seconds, 60, at_least=False),
        Bar("alpha-beta, GB of memory", gigabytes, 4, at_least=False),
        Bar("fluid at 256 GPUs, seconds", slowest, 10, at_least=False),
        Bar("fluid against exact at 64 GPUs", furthest, 0.01, at_least=False),
    ]
    finish("netsim", rows, bars, as_json)


if __name__ == "__main__":
    main()
