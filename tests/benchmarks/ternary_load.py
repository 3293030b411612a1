"""Loading an artifact on one thread: into the kernel's two bits a weight, and unpacked to fp32 for torch.

The file holds over 100 million ternary weights in matrices with a scale for 128 weights, 1.725 bits each. `load with
the kernel` and `load for torch` are all of it: the header, the hashes of all parts, and the weights as they are
computed with. Unpacking looks up the five trits of a byte in a table of 243 rows; the peer divides by powers of three,
and `fp32 alone` writes as many fp32 numbers and does nothing else, which no way to fp32 weights is faster than. Times
are those of the processor, so G weights/s are those of one core.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from measure import Bar, finish, interleaved, json_option, rounds
from numpy.typing import NDArray

from penstock.quant158.artifact import Artifact, Content, Identity, write_artifact
from penstock.quant158.kernel import PackedMatrix

GROUP, FORMAT = 128, "ternary-base3-g128"
MATRICES, SHAPE = 26, (2048, 2048)


def write(path: Path) -> Path:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 243, -(-SHAPE[0] * SHAPE[1] // 5), np.uint8)
    codes[-1] = 121  # what fills up the last byte is zeros
    scale = rng.uniform(0.01, 0.1, (SHAPE[0], SHAPE[1] // GROUP)).astype(np.float16)
    write_artifact(
        path,
        [Content(f"m{number}", FORMAT, SHAPE, lambda: {"codes": codes, "scale": scale}) for number in range(MATRICES)],
        penstock="0.1.0",
        run={"name": "load"},
        checkpoint=Identity(0, 0, "0" * 64),
        architecture="none",
        decoder={"unsupported": "a benchmark"},
        aliases={},
        files={},
    )
    return path


def by_division(codes: NDArray[np.uint8], scale: NDArray[np.float16]) -> NDArray[np.float32]:
    trit = (codes[:, None] // 3 ** np.arange(5, dtype=np.uint8) % 3).astype(np.int8) - 1
    flat = trit.reshape(-1)[: SHAPE[0] * SHAPE[1]].reshape(SHAPE).astype(np.float32)
    return flat * np.repeat(scale.astype(np.float32), GROUP, axis=1)


def check(artifact: Artifact) -> None:
    expected = by_division(**artifact.arrays("m0"))
    assert np.array_equal(artifact.weight("m0"), expected)
    x = np.random.default_rng(1).standard_normal(SHAPE[1], np.float32)
    found = packed(artifact, "m0").matvec(x, planes=2)
    np.testing.assert_allclose(found, expected @ x, rtol=0, atol=1e-3 * np.abs(expected @ x).max())


def loaded(path: Path, load: Callable[[Artifact, str], Any]) -> list[Any]:
    """All weights of the file, whose hashes are checked, as `load` makes them of a tensor."""
    artifact = Artifact.open(path)
    artifact.verify()
    return [load(artifact, name) for name in artifact.names]


def packed(artifact: Artifact, name: str) -> PackedMatrix:
    arrays = artifact.arrays(name)
    return PackedMatrix(arrays["codes"], arrays["scale"], SHAPE, threads=1)


def unpacked(artifact: Artifact, name: str) -> torch.Tensor:
    return torch.from_numpy(artifact.weight(name))


@click.command(help=(__doc__ or "").split("\n")[0])
@rounds(5)
@json_option
def main(rounds: int, as_json: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder) / "model.penstock")
        artifact = Artifact.open(path)
        check(artifact)
        names = artifact.names

        def every(work: Callable[[str], Any]) -> Callable[[], Any]:
            return lambda: [work(name) for name in names]

        cases: dict[str, Callable[[], Any]] = {
            "load with the kernel": lambda: loaded(path, packed),
            "load for torch": lambda: loaded(path, unpacked),
            "open": lambda: Artifact.open(path),
            "hashes": artifact.verify,
            "unpack": every(artifact.weight),
            "unpack by division": every(lambda name: by_division(**artifact.arrays(name))),
            "fp32 alone": every(lambda name: np.full(SHAPE, 1.0, np.float32)),
        }
        seconds = interleaved(cases, rounds=rounds, clock=time.process_time)
        size, weights = path.stat().st_size, MATRICES * SHAPE[0] * SHAPE[1]
    figures = {name: {"step": name, "ms": 1e3 * spent} for name, spent in seconds.items()}
    for name in ("load with the kernel", "load for torch", "unpack", "unpack by division", "fp32 alone"):
        figures[name]["G weights/s"] = weights / seconds[name] / 1e9
    figures["hashes"]["GB/s of file"] = size / seconds["hashes"] / 1e9
    bars = [
        Bar("load with the kernel, G weights/s", weights / seconds["load with the kernel"] / 1e9, 1.0),
        Bar("unpack, times as fast as by division", seconds["unpack by division"] / seconds["unpack"], 1.5),
    ]
    threads = os.environ.get("OMP_NUM_THREADS", "not set")
    facts: dict[str, Any] = {"weights": f"{weights:,}", "bytes": f"{size:,}", "OMP_NUM_THREADS": threads}
    finish("ternary_load", list(figures.values()), bars, as_json, **facts)


if __name__ == "__main__":
    main()
