"""Planning with `netsim`: expert placement beside EPLB, and the search for a training layout.

- Held-out balance: plans are made from some windows and judged on the next one, over a whole trace. Excess is what the
  busiest GPU has over the mean one. EPLB gets the mean of the same windows, and once the last window alone.
- Loads: log-normal popularity of 256 experts (sigma 0.25 to 1) that drifts by 0 to 20 %, windows of 1M assignments,
  eight of them seen. With `--data`, what experts OLMoE-1B-7B and Qwen1.5-MoE choose on GSM8K, six windows of 256 tokens
  seen, and OLMoE over six domains of text, of which five are seen and each is judged in turn. Windows of 128 tokens
  stand beside, without a bar: with some 10 tokens an expert most of what is left is the chance of the window itself.
- Times are of one processor, not of the clock, because others use the machine too: a plan is of one layer and numpy
  needs one thread for it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
from measure import Bar, finish, json_option, rounds

from penstock.netsim.accelerators import ACCELERATORS
from penstock.netsim.balanced_swap import BalancedSwap
from penstock.netsim.eplb import Eplb
from penstock.netsim.hardware import HARDWARE
from penstock.netsim.layout import Job
from penstock.netsim.layout_search import search
from penstock.netsim.model_shape import shape_named
from penstock.netsim.plan import HeldOut, Plan, held_out
from penstock.netsim.step_cost import Machine
from penstock.traces.reader import read_trace

HISTORY = 8
Case = tuple[str, np.ndarray, int, int, int]  # name, windows x experts, GPUs, redundant slots, history


class LastWindow(Eplb):
    """EPLB that sees nothing but the newest window."""

    def plan(self, load_WE: Any, gpus: int, *, previous: Plan | None = None) -> Plan:
        return super().plan(np.asarray(load_WE)[-1:], gpus)


def log_normal() -> Iterator[Case]:
    for number, (sigma, drift) in enumerate((sigma, drift) for sigma in (0.25, 0.5, 1.0) for drift in (0, 0.05, 0.2)):
        rng = np.random.default_rng(1000 + number)
        base_E, moved_E, load_WE = rng.normal(0, sigma, 256), np.zeros(256), []
        for _ in range(2 * HISTORY):
            moved_E = 0.9 * moved_E + np.sqrt(1 - 0.9**2) * rng.normal(0, drift, 256)
            share_E = np.exp(base_E + moved_E)
            load_WE.append(rng.multinomial(1_000_000, share_E / share_E.sum()))
        for gpus in (36, 72):
            yield f"log-normal {sigma}, drift {drift}", np.array(load_WE), gpus, 32, HISTORY


def choices_of(path: Path) -> np.ndarray:
    """Experts of each token in order, [tokens, k], without the warm-up of the engine."""
    expert_NLK = read_trace(path).expert_NLK
    assert expert_NLK is not None
    return expert_NLK[:, 0]


def streams(data: Path, tokens: int, history: int) -> Iterator[Case]:
    """GSM8K in windows of so many tokens, which begin at four places in turn: there are few windows."""
    sources = (
        ("OLMoE", "olmoe-1b-7b_gsm8k_layer0_vllm.jsonl.xz", 64),
        ("Qwen1.5-MoE", "qwen1.5-moe-a2.7b-chat_gsm8k_layer0_vllm.jsonl.xz", 60),
    )
    for name, file, experts in sources:
        all_NK = choices_of(data / "moe_traces" / file)
        for start in range(0, tokens, tokens // 4):
            chosen_NK = all_NK[start : start + (len(all_NK) - start) // tokens * tokens]
            windows = chosen_NK.reshape(-1, tokens * chosen_NK.shape[1])
            load_WE = np.array([np.bincount(chosen, minlength=experts) for chosen in windows])
            for gpus in (8, 16):
                for redundant in (experts // 8, experts // 4, experts // 2):
                    yield f"{name} GSM8K, {tokens} tokens", load_WE, gpus, redundant, history


def domains(data: Path) -> Iterator[Case]:
    """Five domains are seen and the sixth is judged, for each of three layers."""
    counts_DLE = read_trace(data / "moe_traces" / "olmoe_mixtral_expert_counts.json", "olmoe").counts_SLE
    for load_DE in counts_DLE.swapaxes(0, 1):
        for left_out in range(len(load_DE)):
            order = [*(domain for domain in range(len(load_DE)) if domain != left_out), left_out]
            for gpus in (8, 16):
                yield "OLMoE, a domain left out", load_DE[order], gpus, 16, len(load_DE) - 1


def judged(case: Case) -> dict[str, HeldOut]:
    _, load_WE, gpus, redundant, history = case
    planners = {
        "EPLB": Eplb(redundant),
        "EPLB, last window": LastWindow(redundant),
        "balanced-swap": BalancedSwap(redundant),
        "moving a quarter": BalancedSwap(redundant, most_moved=0.25),
    }
    return {
        name: held_out(planner, load_WE, gpus, history=history, keep=name == "moving a quarter")
        for name, planner in planners.items()
    }


def family(name: str, cases: list[Case]) -> tuple[list[dict[str, Any]], float]:
    """A row for each name of a case, and the mean over cases of our excess over EPLB's."""
    results = [(case, judged(case)) for case in cases]
    rows: list[dict[str, Any]] = []
    for label in dict.fromkeys(case[0] for case in cases):
        own = [result for case, result in results if case[0] == label]

        def mean(planner: str, figure: Callable[[HeldOut], float], own: list[dict[str, HeldOut]] = own) -> float:
            return float(np.mean([figure(result[planner]) for result in own]))

        rows.append(
            {
                "loads": label,
                **{f"excess of {planner}": mean(planner, lambda each: each.excess) for planner in own[0]},
                "ratio": float(np.mean([each["balanced-swap"].excess / each["EPLB"].excess for each in own])),
                "off-node EPLB": mean("EPLB", lambda each: each.off_node_share),
                "off-node ours": mean("balanced-swap", lambda each: each.off_node_share),
                "moved EPLB": mean("EPLB", lambda each: each.moved_share),
                "moved ours": mean("moving a quarter", lambda each: each.moved_share),
                "duplicates EPLB": mean("EPLB", lambda each: each.duplicates),
                "duplicates ours": mean("balanced-swap", lambda each: each.duplicates),
            }
        )
    ratio = float(np.mean([result["balanced-swap"].excess / result["EPLB"].excess for _, result in results]))
    return [{"family": name, **row} for row in rows], ratio


def processor_seconds(cases: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median of each case; the cases take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(repeats):
        for name, case in cases.items():
            begun = time.process_time()
            case()
            seconds[name].append(time.process_time() - begun)
    return {name: statistics.median(values) for name, values in seconds.items()}


def time_bars(repeats: int) -> tuple[list[dict[str, Any]], list[Bar]]:
    load_WE = next(log_normal())[1][:HISTORY]
    machine, job = Machine(ACCELERATORS["h800"], HARDWARE["h800"]), Job()
    cases = {
        "EPLB, 288 slots on 36 GPUs": lambda: Eplb(32).plan(load_WE, 36),
        "balanced-swap, 288 slots on 36 GPUs": lambda: BalancedSwap(32).plan(load_WE, 36),
        "balanced-swap, 288 slots on 72 GPUs": lambda: BalancedSwap(32).plan(load_WE, 72),
        "layouts of glm-4.6 on 1,024 GPUs": lambda: search(shape_named("glm-4.6"), 1024, job, machine),
        "layouts of glm-4.6 on 8,192 GPUs": lambda: search(shape_named("glm-4.6"), 8192, job, machine),
    }
    seconds = processor_seconds(cases, repeats)
    rows = [{"what": name, "ms": value * 1e3} for name, value in seconds.items()]
    slowest = max(value for name, value in seconds.items() if name.startswith("balanced-swap"))
    return rows, [
        Bar("placement of 256 experts on 288 slots, ms a layer", slowest * 1e3, 50, at_least=False),
        Bar("layouts for 1,024 GPUs, s", seconds["layouts of glm-4.6 on 1,024 GPUs"], 10, at_least=False),
    ]


@click.command(help=__doc__)
@click.option("--data", type=click.Path(exists=True, path_type=Path), help="Folder that holds `moe_traces`.")
@rounds(5)
@json_option
def main(data: Path | None, rounds: int, as_json: bool) -> None:
    rows, bars = time_bars(rounds)
    families = {"log-normal": list(log_normal())}
    if data is not None:
        families |= {
            "GSM8K": list(streams(data, 256, 6)),
            "domains": list(domains(data)),
            "GSM8K, short windows": list(streams(data, 128, HISTORY)),
        }
    for name, cases in families.items():
        found, ratio = family(name, cases)
        rows += found
        if "short" not in name:
            bars.append(Bar(f"excess on held-out windows over EPLB's, {name}", ratio, 0.8, at_least=False))
    finish("netsim_planning", rows, bars, as_json, cases=sum(map(len, families.values())))


if __name__ == "__main__":
    main()
