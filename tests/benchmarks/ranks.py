"""What a second rank costs and saves: two ranks vs two processes that know nothing of each other.

- Time: two ranks (`ddp`, `fsdp2`) train the quickstart and a model of 12.7M parameters, as `penstock train` does, a
  thread each. Beside them two unconnected processes train half the batch each, at the same time: what the machine can
  do without a word between ranks. Without a bar: one process with the whole batch, with two threads, with one, and with
  one and twice the batch in two micro-batches; and the floor, a bare all_reduce of as many bytes as the gradients have.
- Memory: bytes of parameters, gradients and optimizer state that a rank of `fsdp2` holds, and its peak over what the
  imports take, vs one process; the model has 103M parameters.
- Muon: a step of parameters that are cut over two ranks, exchange included, vs each rank stepping all of them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch
import torch.distributed as dist
from measure import Bar, Row, finish, json_option, medians, rounds, runs_option
from quickstart import CONFIG
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard

from penstock.conformance.ranks import torchrun_variables
from penstock.hooks import Registry
from penstock.hooks.contracts import ParameterRole
from penstock.optim_muon.muon import MuonAdamW
from penstock.run.config import load_run_config
from penstock.run.directory import RunDirectory
from penstock.train.loop import Trainer
from penstock.train.memory import keep_freed_memory
from penstock.train.ranks import joined
from penstock.train.training import _trainer, prepare_run

BATCH = 8
MODELS = {
    "quickstart": (),
    "12.7M": ("model.hidden_size=256", "model.num_hidden_layers=7", "model.moe_intermediate_size=256"),
}
LARGE = (
    "model.hidden_size=512",
    "model.num_hidden_layers=8",
    "model.moe_intermediate_size=1024",
    "data.sequence_length=64",
)
QUIET = ("train.evaluate_every=null", "train.checkpoint_every=1000000", "train.tokens=1000000000")
# Matrices of two dense layers of width 512.
MATRICES = 2 * [(512, 512), (256, 512), (256, 512), (512, 512), (1536, 512), (1536, 512), (512, 1536)]
LEAST = 0.2  # seconds of a full Muon step that is worth sharing


@dataclass(frozen=True, slots=True)
class Program:
    """Processes that train at the same time, as ranks of one engine or each on its own; `batch` is an engine's."""

    engine: str
    processes: int
    batch: int
    threads: int = 1
    micro_batch: int | None = None

    @property
    def sequences(self) -> int:
        """In a step of all processes."""
        return self.batch if self.connected else self.batch * self.processes

    @property
    def connected(self) -> bool:
        return self.engine != "local"


APART, THREADS = "two processes, unconnected", "one process, two threads"
ALONE, ACCUMULATED = "one process", "one process, two micro-batches"
PROGRAMS = {
    "ddp": Program("ddp", 2, BATCH),
    "fsdp2": Program("fsdp2", 2, BATCH),
    APART: Program("local", 2, BATCH // 2),
    THREADS: Program("local", 1, BATCH, threads=2),
    ALONE: Program("local", 1, BATCH),
    ACCUMULATED: Program("local", 1, 2 * BATCH, micro_batch=BATCH),
}


# ---------------------------------------------------------------------------------------------- asked processes


class Workers:
    """Processes that answer questions: all at once, each with a line of JSON."""

    def __init__(self, role: str, settings: Any, variables: Sequence[dict[str, str]], threads: int = 1) -> None:
        self._processes = [
            subprocess.Popen(
                [sys.executable, __file__, "--as", role, json.dumps(settings)],
                env={**os.environ, **own, "OMP_NUM_THREADS": str(threads)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for own in variables
        ]

    def ask(self, *question: Any) -> list[Any]:
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(json.dumps(question) + "\n")
            process.stdin.flush()
        return [self._answer(process) for process in self._processes]

    def slowest(self, *question: Any) -> float:
        return max(self.ask(*question))

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.close()
        for process in self._processes:
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()

    @staticmethod
    def _answer(process: subprocess.Popen[str]) -> Any:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise click.ClickException(f"a process ended with status {process.wait()}")
        return json.loads(line)


def answer(answers: dict[str, Callable[..., Any]]) -> None:
    """The other side: a question a line, until stdin ends."""
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        sys.__stdout__.write(json.dumps(answers[name](*arguments)) + "\n")  # pyright: ignore[reportOptionalMemberAccess]
        sys.__stdout__.flush()  # pyright: ignore[reportOptionalMemberAccess]


# ---------------------------------------------------------------------------------------------- training


def training(program: Program, overrides: Sequence[str], data: Path) -> Workers:
    settings = {"program": asdict(program), "overrides": list(overrides), "data": str(data)}
    alone = torchrun_variables(1)[0]
    variables = torchrun_variables(program.processes) if program.connected else [alone] * program.processes
    return Workers("trainer", settings, variables, program.threads)


def train_when_asked(settings: Any) -> None:
    program = Program(**settings["program"])
    overrides = [*settings["overrides"], *QUIET, f"train.engine={program.engine}", f"train.batch_size={program.batch}"]
    overrides += [] if program.micro_batch is None else [f"train.micro_batch_size={program.micro_batch}"]
    registry = Registry.discover()
    config, document = load_run_config(CONFIG, overrides, registry)
    config.train.objective.build()  # imported before memory is counted
    before = status("VmRSS")
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder, joined(config) as engine:
        run = RunDirectory.create(Path(folder), config, document, overrides, registry)
        trainer = _trainer(config, run, Path(settings["data"]), engine)
        size = sum(each.numel() for each in trainer.composition.module.parameters())
        answer(
            {
                "steps": partial(steps, trainer),
                "floor": lambda: floor(size),
                "parameters": lambda: size,
                "held": lambda: held(trainer),
                "peak": lambda: status("VmHWM") - before,
            }
        )


def steps(trainer: Trainer, count: int) -> float:
    """Seconds of so many steps."""
    trainer.engine.barrier()
    begun = time.perf_counter()
    for _ in range(count):
        trainer._train_step()
    return time.perf_counter() - begun


def floor(numbers: int) -> float:
    """Seconds of summing so many fp32 numbers over ranks."""
    tensor = torch.zeros(numbers)
    dist.all_reduce(tensor)
    begun = time.perf_counter()
    dist.all_reduce(tensor)
    return time.perf_counter() - begun


def held(trainer: Trainer) -> int:
    """Bytes of this rank's parameters, gradients and optimizer state, before a step clears the gradients."""
    engine: Any = trainer.engine
    step, found = engine.step, list[int]()

    def counted(progress: float) -> dict[str, float]:
        parameters = list(engine.module.parameters())
        tensors = [*parameters, *(each.grad for each in parameters if each.grad is not None)]
        tensors += [each for values in engine.optimizer.state.values() for each in values.values()]
        found.append(sum(own(each).nbytes for each in tensors))
        return step(progress)

    engine.step = counted
    trainer._train_step()
    engine.step = step
    return found[0]


def own(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def status(field: str) -> int:
    """Kibibytes; Linux."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1])


# ---------------------------------------------------------------------------------------------- Muon alone


def step_muon_when_asked(_: Any) -> None:
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    whole = {f"{number}": nn.Parameter(torch.randn(shape)) for number, shape in enumerate(MATRICES)}
    rows = {name: nn.Parameter(share(each.detach(), mesh)) for name, each in whole.items()}
    for name, parameter in whole.items():
        parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(int(name)))
        rows[name].grad = share(parameter.grad, mesh)
    optimizers = {
        "everywhere": MuonAdamW({ParameterRole.MATRIX: whole}),
        "shared": MuonAdamW({ParameterRole.MATRIX: rows}),
    }

    def stepped(name: str) -> float:
        dist.barrier()
        begun = time.perf_counter()
        optimizers[name].step()
        return time.perf_counter() - begun

    answer({"step": stepped})
    dist.destroy_process_group()


def share(tensor: Tensor, mesh: Any) -> DTensor:
    part = tensor.chunk(mesh.size())[mesh.get_local_rank()].clone()
    return DTensor.from_local(part, mesh, [Shard(0)])


# ---------------------------------------------------------------------------------------------- the comparison


def time_of_steps(name: str, data: Path, rounds: int, count: int) -> tuple[list[Row], list[Bar]]:
    with ExitStack() as stack:
        workers = {
            label: stack.enter_context(training(program, MODELS[name], data)) for label, program in PROGRAMS.items()
        }
        for each in workers.values():
            each.ask("steps", 2)
        cases = {label: partial(each.slowest, "steps", count) for label, each in workers.items()}
        floors = {"floor": partial(workers["ddp"].slowest, "floor")}
        seconds = medians({**cases, **floors}, rounds=rounds)
        (parameters, *_) = workers["ddp"].ask("parameters")
    rows: list[Row] = []
    bars: list[Bar] = []
    for label, program in PROGRAMS.items():
        ratio, step = seconds[label] / seconds[APART], seconds[label] / count
        row: Row = {"model": name, "program": label, "ms a step": 1e3 * step, "vs apart": ratio}
        rows.append({**row, "sequences/s": program.sequences / step})
        if program.connected:
            bars.append(Bar(f"{name}: {label} / {APART}", ratio, 1.15, at_least=False))
    label = f"all_reduce of {4 * parameters / 1e6:.1f} MB"
    share = seconds["floor"] * count / seconds[APART]
    rows.append({"model": name, "program": label, "ms a step": 1e3 * seconds["floor"], "vs apart": share})
    return rows, bars


def memory(data: Path) -> tuple[list[Row], list[Bar]]:
    found: dict[str, tuple[float, float]] = {}
    rows: list[Row] = []
    for label, program in {"local": Program("local", 1, 4), "fsdp2": Program("fsdp2", 2, 4)}.items():
        with training(program, LARGE, data) as workers:
            workers.ask("steps", 2)
            found[label] = (max(workers.ask("held")) / 2**20, max(workers.ask("peak")) / 2**10)
            (parameters, *_) = workers.ask("parameters")
        if label == "local":
            name = f"{parameters / 1e6:.0f}M"
        rows.append({"model": name, "program": label, "MiB held": found[label][0], "peak MiB": found[label][1]})
    held, peak = (found["fsdp2"][each] / found["local"][each] for each in (0, 1))
    return rows, [
        Bar(f"{name}: bytes that a rank of fsdp2 holds / one process", held, 0.55, at_least=False),
        Bar(f"{name}: peak memory of a rank of fsdp2 / one process", peak, 0.7, at_least=False),
    ]


def muon(rounds: int) -> tuple[list[Row], list[Bar]]:
    with Workers("muon", None, torchrun_variables(2)) as workers:
        cases = {name: partial(workers.slowest, "step", name) for name in ("everywhere", "shared")}
        seconds = medians(cases, rounds=rounds)
    model = f"{len(MATRICES)} matrices"
    return [{"model": model, "program": f"Muon, {name}", "ms a step": 1e3 * each} for name, each in seconds.items()], [
        Bar("seconds of the full Muon step", seconds["everywhere"], LEAST),
        Bar("Muon shared by two ranks / everything everywhere", seconds["shared"] / seconds["everywhere"], 0.65, False),
    ]


@contextmanager
def kept(runs: Path | None) -> Iterator[Path]:
    if runs is not None:
        yield runs
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@click.command(help=__doc__)
@runs_option
@click.option("--as", "role", nargs=2, hidden=True)
@rounds(9)
@json_option
def main(runs: Path | None, role: tuple[str, str] | None, rounds: int, as_json: bool) -> None:
    if role is not None:
        torch.manual_seed(0)
        {"trainer": train_when_asked, "muon": step_muon_when_asked}[role[0]](json.loads(role[1]))
        return
    rows: list[Row] = []
    bars: list[Bar] = []
    with kept(runs) as folder:
        config, _ = load_run_config(CONFIG, (), Registry.discover())
        data = Path(prepare_run(config, folder)["data"])
        parts = [muon(rounds), time_of_steps("quickstart", data, rounds, 5), time_of_steps("12.7M", data, rounds, 2)]
        parts.append(memory(data))
    for some_rows, some_bars in parts:
        rows += some_rows
        bars += some_bars
    finish("ranks", rows, bars, as_json, torch=torch.__version__)


if __name__ == "__main__":
    main()
