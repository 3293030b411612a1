"""A placement: the heaviest expert that is left goes to the GPU with the least load that has room."""

from typing import Any

import numpy as np

from penstock.hooks import Component, hookimpl


class HeaviestFirst:
    def place(self, load_E: Any, gpus: int) -> Any:
        room, load_G = np.full(gpus, -(-len(load_E) // gpus)), np.zeros(gpus)
        gpu_E = np.zeros(len(load_E), dtype=np.int64)
        for expert in np.argsort(-np.asarray(load_E), kind="stable"):
            gpu = np.where(room > 0, load_G, np.inf).argmin()
            gpu_E[expert] = gpu
            room[gpu] -= 1
            load_G[gpu] += load_E[expert]
        return gpu_E


@hookimpl
def placements() -> list[Component]:
    return [
        Component(
            kind="placement",
            name="heaviest-first",
            target="heaviest_first:HeaviestFirst",
            summary="Greedy by load",
            contract=1,
        )
    ]
