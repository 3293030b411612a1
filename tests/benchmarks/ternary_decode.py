"""Decoding a ternary model of 10M parameters from its artifact, beside llama.cpp (TQ2_0) and torch on the same weights.

Every program is a process of its own. Rounds are interleaved: each program in turn draws 200 tokens greedily (torch 40,
which flatters it: its cache stays short), then reads a prompt of 256. llama.cpp needs an environment of its own:
`--llama PYTHON` names a Python that has `llama-cpp-python` and `gguf`; without it the other rows stand alone. Ternary
matrices are the same numbers in all programs, and llama.cpp and ours round activations to 8 bits; its embedding and
head have a scale for 32 weights, ours for a row.

The mixture has the dense model's size at work for a token: 2 of 8 experts and a shared one, of a third each.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np
import torch
from measure import Bar, finish, json_option, rounds

from penstock.hooks.contracts import ParameterRole, Router, SharingPlan, StoragePlan, TrainedModel
from penstock.moe_core.glm.model import GlmMoe, glm_moe
from penstock.quant158.exporter import ArtifactExporter
from penstock.quant158.integers import Int8Quantizer
from penstock.quant158.ternary import TernaryQuantizer
from penstock.routers.topk import SigmoidTopK

PROGRAMS = Path(__file__).with_name("decode_programs.py")
SIZES = {
    **{"vocab_size": 4096, "hidden_size": 256, "num_hidden_layers": 12, "num_attention_heads": 8},
    **{"num_key_value_heads": 8, "head_dim": 32, "intermediate_size": 768, "max_position_embeddings": 512},
    **{"use_qk_norm": False, "attention_bias": False, "partial_rotary_factor": 1.0},
}
DENSE = {"first_k_dense_replace": 12}
MIXTURE = {"first_k_dense_replace": 0, "n_routed_experts": 8, "moe_intermediate_size": 256, "n_shared_experts": 1}
TOKENS, TOKENS_OF_TORCH, PROMPT = 200, 40, 256
TORCH = {"torch-fp32": "fp32", "torch-bf16": "bf16", "torch-int8": "bf16 and torch._weight_int8pack_mm"}
THREADS = (1, 2)


def router(layer: int, *, hidden_size: int, experts: int) -> Router:
    return SigmoidTopK(hidden_size, experts, k=2)


def random_model(kind: Mapping[str, int]) -> tuple[GlmMoe, StoragePlan]:
    """Weights that keep activations near 1, stored as ternary with groups of 256, which is TQ2_0's block."""
    torch.manual_seed(0)
    ternary = TernaryQuantizer(group=256, activations="int8")
    integers = Int8Quantizer(activations="int8")
    roles = {ParameterRole.MATRIX: ternary, ParameterRole.EXPERT: ternary}
    plan = StoragePlan({**roles, ParameterRole.EMBEDDING: integers, ParameterRole.HEAD: integers})
    model = glm_moe(make_router=router, quantizer=plan, **SIZES, **kind)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=1.0 if name.startswith("embed") else parameter.shape[-1] ** -0.5)
    return model, plan


@torch.no_grad()
def write(folder: Path, kind: Mapping[str, int]) -> int:
    """Writes the artifact, and for a dense model what the other programs read; returns the ternary weights."""
    model, plan = random_model(kind)
    folder.mkdir()
    given = (model, model.state_dict(), plan, SharingPlan(), "glm-moe", {}, 0, 0, "0" * 64, {})
    ArtifactExporter().export(TrainedModel(*given), folder / "model.penstock")
    sites = model.weight_sites()
    if kind is DENSE:
        plain: dict[str, Any] = {name: parameter.detach().numpy() for name, parameter in model.named_parameters()}
        plain |= {name: site.effective().numpy() for name, site in sites.items()}
        np.savez(folder / "weights.npz", **plain)
        described = model.decoder_description()
        sizes = {
            name: described[name] for name in ("width", "heads", "head_width", "vocabulary", "epsilon", "rope_theta")
        }
        sizes |= {"layers": len(described["layers"]), "hidden": described["layers"][0]["hidden"]}
        (folder / "sizes.json").write_text(json.dumps(sizes))
    ternary = (ParameterRole.MATRIX, ParameterRole.EXPERT)
    return sum(site.weight.numel() for site in sites.values() if site.role in ternary)


@dataclass
class Program:
    """A process that decodes, and what it took."""

    process: subprocess.Popen[str]
    tokens: int
    load_seconds: float
    seconds: dict[str, list[float]] = field(default_factory=lambda: {"decode": [], "prompt": []})
    peak_bytes: int = 0

    def ask(self, order: str, count: int) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{order} {count}\n")
        self.process.stdin.flush()
        return _line(self.process)

    def round(self) -> None:
        for order, count in (("decode", self.tokens), ("prompt", PROMPT)):
            result = self.ask(order, count)
            self.seconds[order].append(result["seconds"] / count)
            self.peak_bytes = result["peak_bytes"]

    def rate(self, order: str) -> float:
        """Tokens a second, the median round."""
        return 1 / median(self.seconds[order])


def _line(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    if not (line := process.stdout.readline()):
        raise click.ClickException(f"a program ended with {process.wait()}")
    return json.loads(line)


@contextmanager
def started(python: str, name: str, threads: int, folder: Path) -> Iterator[Program]:
    command = [python, str(PROGRAMS), name, str(threads), str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Program(process, TOKENS_OF_TORCH if name in TORCH else TOKENS, _line(process)["load_seconds"])
        assert process.stdin is not None
        process.stdin.close()


def all_programs(stack: ExitStack, folder: Path, llama: str | None) -> dict[tuple[str, int], Program]:
    """Every program with every number of threads."""
    names = {"penstock": (sys.executable, "dense"), "penstock mixture": (sys.executable, "mixture")}
    names |= dict.fromkeys(TORCH, (sys.executable, "dense"))
    if llama is not None:
        subprocess.run(
            [llama, str(PROGRAMS), "gguf", "0", str(folder / "dense")], check=True, stdout=subprocess.DEVNULL
        )
        names["llama.cpp"] = (llama, "dense")
    return {
        (name, threads): stack.enter_context(started(python, name.removesuffix(" mixture"), threads, folder / model))
        for name, (python, model) in names.items()
        for threads in THREADS
    }


def row(name: str, threads: int, program: Program) -> dict[str, Any]:
    return {
        "program": name,
        "threads": threads,
        "tokens/s": program.rate("decode"),
        "best": 1 / min(program.seconds["decode"]),
        "prompt tokens/s": program.rate("prompt"),
        "load ms": 1000 * program.load_seconds,
        "peak MB": program.peak_bytes / 1e6,
    }


def bars(programs: Mapping[tuple[str, int], Program]) -> Iterator[Bar]:
    def ratio(name: str, other: str, threads: int = 1, other_threads: int = 1, order: str = "decode") -> float:
        return programs[name, threads].rate(order) / programs[other, other_threads].rate(order)

    yield Bar("speed against torch fp32, 1 thread", ratio("penstock", "torch-fp32"), 20)
    yield Bar("speed of 2 threads against 1", ratio("penstock", "penstock", 2), 1.0)
    yield Bar("mixture against dense, 1 thread", ratio("penstock mixture", "penstock"), 0.8)
    if ("llama.cpp", 1) in programs:
        yield Bar("speed against llama.cpp, 1 thread", ratio("penstock", "llama.cpp"), 2.5)
        yield Bar("speed against llama.cpp, 2 threads", ratio("penstock", "llama.cpp", 2, 2), 1.0)


def disagreement(programs: Mapping[tuple[str, int], Program]) -> dict[str, float]:
    """Largest difference from torch's logits in fp32 behind 64 tokens, in units of their standard deviation: whether
    all compute the same model, up to the rounding of activations."""
    expected = np.array(programs["torch-fp32", 1].ask("logits", 64)["logits"])
    others = {name: programs[name, 1].ask("logits", 64)["logits"] for name, threads in programs if threads == 1}
    return {
        name: float(np.abs(np.array(logits) - expected).max() / expected.std())
        for name, logits in others.items()
        if "mixture" not in name
    }


@click.command(help=__doc__)
@click.option("--llama", metavar="PYTHON", help="A Python that has llama-cpp-python and gguf.")
@rounds(15)
@json_option
def main(llama: str | None, rounds: int, as_json: bool) -> None:
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        folder = Path(temporary)
        weights = {name: write(folder / name, kind) for name, kind in (("dense", DENSE), ("mixture", MIXTURE))}
        programs = all_programs(stack, folder, llama)
        differences = disagreement(programs)
        for number in range(rounds + 1):
            for program in programs.values():
                program.round()
                if number == 0:  # warms up
                    program.seconds = {order: [] for order in program.seconds}
        rows = [
            {**row(name, threads, each), "logits differ by": differences.get(name, "")}
            for (name, threads), each in programs.items()
        ]
        found = list(bars(programs))
    finish("ternary_decode", rows, found, as_json, ternary_weights=weights, torch=torch.__version__)


if __name__ == "__main__":
    main()
