"""A sweep of two phases as the controller writes it, with bits of documents drawn from a known law."""

import math
from dataclasses import dataclass, fields

import numpy as np
import pytest

from penstock.run.records.sweep import (
    CellFigures,
    Decision,
    HeldoutBytes,
    PhaseFigures,
    RungFigures,
    RungResult,
    SweepFigures,
)
from penstock.sweep.documents import documents_of

SHARES, EXPANSIONS = (25, 35, 45), (2.0, 2.66, 3.0, 4.0)
SHORT, FINAL, DOCUMENTS = 400_000, 4_000_000, 60
TEXT = "ab" * 32


@dataclass(frozen=True)
class Made:
    """A sweep's figures and the documents behind them."""

    figures: SweepFigures
    results: list[RungResult]

    @property
    def documents(self):
        return documents_of(self.results, {TEXT: HeldoutBytes(bytes_of().tolist())})


def bytes_of():
    return np.random.default_rng(0).integers(200, 4000, DOCUMENTS)


def law(share, glu, tokens):
    """Bits per byte that a cell has on average: best at 35 % and 2.66."""
    return 1.2 + 0.002 * abs(share - 35) + 0.03 * abs(glu - 2.66) + 0.25 * math.log(2e7 / tokens) / math.log(50)


def result(cell, phase, seed, tokens, mean):
    random = np.random.default_rng([len(phase), seed, tokens])  # the same for all cells
    bytes_D = bytes_of()
    bits_D = bytes_D * (mean + 0.15 * random.standard_normal(DOCUMENTS) + 0.003 * random.standard_normal())
    bits = float(bits_D.sum() / bytes_D.sum())
    return RungResult(
        cell_key=cell.key,
        cell=cell.cell,
        phase=phase,
        seed=seed,
        tokens=tokens,
        steps=tokens // 1024,
        bits_per_byte=bits,
        perplexity=2 ** (3 * bits),
        loss=3 * bits * math.log(2),
        text=TEXT,
        text_bytes=int(bytes_D.sum()),
        tokenizer="t",
        seconds=tokens / 9000,
        machine="Intel Xeon, 1 threads",
        document_bits=bits_D.tolist(),
    )


def cell_figures(share, glu, state, reason, phase, tokens, results):
    own = [each for each in results if (each.phase, each.tokens) == (phase, tokens)]
    final = phase == "final"
    return CellFigures(
        cell=f"{share} %, {glu}",
        seeds=len(own),
        bits_per_byte=sum(each.bits_per_byte for each in own) / len(own) if own else None,
        max_violation=None,
        max_violation_worst=None,
        dead_experts=None,
        nanoseconds_per_token=None,
        picoseconds_per_flop=None,
        active_parameters=1_000_000,
        difference=None,
        state=state,
        reason=reason,
        key=f"{share}{glu}",
        phase=phase,
        tokens=tokens if own else None,
        settings={"share": f"{share} %", "glu": str(glu)},
        overrides=[f"model.plan={{embedding_share: {share / 100}}}", f"model.glu={glu}"],
        parameters=1_000_000 + 700 * share,
        embedding_share=share / 100,
        flops_per_token=6 * (1_400_000 - 8_000 * share + int(30_000 * glu)),
        bytes={"fp32": 4e6 + 2800 * share, "ternary": 3e5 + 9000 * share + 4000 * glu},
        lr=0.01,
        latency_128=0.004 + 0.0001 * (45 - share) + 0.0002 * glu if final else None,
        tasks={"small.accuracy": 0.4 + share / 1000} if final else {},
    )


@pytest.fixture(scope="session")
def made() -> Made:
    """Twelve cells: one failed, two stopped at the second rung, three finalists with three seeds."""
    places = [(share, glu) for share in SHARES for glu in EXPANSIONS]
    finalists = sorted(places, key=lambda place: law(*place, SHORT))[:3]
    stopped = [(25, 4.0), (45, 4.0)]
    results, cells = [], []
    for share, glu in places:
        bare = cell_figures(share, glu, "", "", "short", 0, [])
        own = []
        rungs = [] if (share, glu) == (45, 2.0) else [100_000, 200_000, SHORT]
        if (share, glu) in stopped:
            rungs = rungs[:2]
        own += [result(bare, "short", 0, tokens, law(share, glu, tokens)) for tokens in rungs]
        if (share, glu) in finalists:
            for seed in range(3):
                own += [result(bare, "final", seed, tokens, law(share, glu, tokens)) for tokens in (2_000_000, FINAL)]
        end = ("final", FINAL) if (share, glu) in finalists else ("short", rungs[-1] if rungs else 0)
        state, reason = ("finished", "") if rungs[-1:] == [SHORT] else ("stopped", "0.06 behind 35 %, 2.66 at 200,000")
        if not rungs:
            state, reason = "failed", "the loss is nan at step 3"
        cells.append(cell_figures(share, glu, state, reason, *end, own))
        results += own
    names = [cell.cell for cell in cells]
    chosen = [cell.cell for cell in cells if cell.phase == "final"]
    figures = SweepFigures(
        baseline=names[0],
        cells=cells,
        runs=[],
        config="configs/allocation.yaml",
        objectives={"bits_per_byte": "minimize", "parameters": "minimize"},
        rank_at=["tokens", "flops"],
        phases=[
            PhaseFigures("short", SHORT, [0], names, [100_000, 200_000, SHORT], "own"),
            PhaseFigures("final", FINAL, [0, 1, 2], chosen, [2_000_000, FINAL], "own"),
        ],
        decisions=[
            Decision("short", 200_000, "paired", names[:3], {"25 %, 4.0": "0.06 behind", "45 %, 4.0": "0.06 behind"}),
            Decision("short", SHORT, "finalists", chosen, {}),
        ],
        rungs=[RungFigures(**{own.name: getattr(each, own.name) for own in fields(RungFigures)}) for each in results],
    )
    return Made(figures, results)
