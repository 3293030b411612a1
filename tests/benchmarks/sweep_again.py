"""How long `penstock sweep` takes to show a finished sweep of 144 cells, over `penstock --help`.

The sweep's files are written by a launcher that trains nothing. Each command is a process of its own that cannot import
torch; processor seconds, and seconds on the clock.
"""

from __future__ import annotations

import io
import sys
import tempfile
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from statistics import median

import click
from measure import Bar, Row, finish, json_option, rounds

sys.path.append(str(Path(__file__).parents[1]))
from crash import write_corpus
from many_cells import finished_sweep, processor_seconds

CONFIG = """\
name: many
data: {{corpus: {{use: text, paths: ["{corpus}"]}}}}
model: {{use: glm-moe, preset: quickstart}}
"""


def measured(*arguments: str) -> tuple[float, float]:
    begun = time.perf_counter()
    processor, _ = processor_seconds(*arguments)
    return processor, time.perf_counter() - begun


@click.command(help=__doc__)
@rounds(15)
@json_option
def main(rounds: int, as_json: bool) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        corpus = write_corpus(folder / "corpus")
        config = folder / "config.yaml"
        config.write_text(CONFIG.format(corpus=corpus))
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            again = finished_sweep(config, folder)
        cases = {"penstock --help": ["--help"], "penstock sweep, finished": again}
        seconds = {name: [] for name in cases}
        for _ in range(rounds):
            for name, arguments in cases.items():
                seconds[name].append(measured(*arguments))
    rows: list[Row] = [
        {
            "command": name,
            "processor ms": median(processor for processor, _ in of) * 1e3,
            "ms": median(clock for _, clock in of) * 1e3,
        }
        for name, of in seconds.items()
    ]
    over = (rows[1]["ms"] - rows[0]["ms"]) / 1e3
    bars = [Bar("seconds over `penstock --help`, 144 cells", over, 1.0, at_least=False)]
    finish("sweep_again", rows, bars, as_json, cells=144)


if __name__ == "__main__":
    main()
