"""What a reader of a prediction must know: copies of experts, unused parts of the network, tokens sent twice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from penstock.netsim.simulate import RemarkedTopology, SimulationRow

SENT_EACH_TIME = (
    "A token is sent once for each of its experts, even if two of them are on one GPU or node. Kernels that send it "
    "once per GPU move less; --deduplicate sends it once per node."
)
SENT_ONCE = (
    "A token is sent to each node once, and there once to each GPU that holds one of its experts. Other kernels do not "
    "forward within the node."
)


def notes(rows: Sequence[SimulationRow], experts: int, k: int, topology: Any, *, deduplicate: bool) -> list[str]:
    """Sentences about one prediction, for the table and for pages."""
    found = [copies_note(rows, experts)]
    if isinstance(topology, RemarkedTopology):
        found += topology.remarks([row.gpus for row in rows])
    if k > 1:
        found.append(SENT_ONCE if deduplicate else SENT_EACH_TIME)
    return [note for note in found if note]


def copies_note(rows: Sequence[SimulationRow], experts: int) -> str:
    """How many copies the experts have where there are more than one; empty if each has one everywhere."""
    several = [row for row in rows if row.copies > experts]
    if not several:
        return ""
    counts = [f"{row.copies / experts:.3g} with {row.gpus:,}" for row in several]
    even = all(row.copies % experts == 0 for row in several)
    return (
        f"Copies of each of the {experts:,} experts, by GPUs{'' if even else ', on average'}: {', '.join(counts)}. "
        "They share its tokens evenly, and each needs its own memory."
    )
