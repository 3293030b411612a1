"""An artifact is decoded without torch, and says what its run says."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from penstock.cli.main import run as run_command
from penstock.generate import load
from penstock.hooks.problems import ProblemError
from penstock.hooks.registry import Registry
from penstock.quant158 import native
from penstock.quant158.artifact import Artifact
from penstock.quant158.decoder import Decoder, decodable
from penstock.train.restore import restore

pytestmark = pytest.mark.skipif(not native.built(), reason="built without a compiler")

Command = Callable[..., Any]
REGISTRY = Registry.discover()
INT8 = "embedding: int8, head: int8"
ROUNDED = "{use: ternary, group: 64, activations: int8}"
# Changes of the shared config, one run each.
RUNS: dict[str, list[str]] = {
    "mixture, tied, whole activations": [f"model.quantizer={{weights: {{use: ternary, group: 64}}, {INT8}}}"],
    "mixture of softmax, untied, rounded activations": [
        f"model.quantizer={{weights: {ROUNDED}, embedding: int8, head: {{use: int8, activations: int8}}}}",
        "model.router={use: softmax-topk, k: 3, temperature: 0.8, scale: 1.5}",
        "model.sharing=[]",
    ],
    "dense, norms before projections, fp32 embedding and head, layers that share with gains": [
        f"model.quantizer={{matrix: {ROUNDED}}}",
        "model.sub_norm=true",
        "model.first_k_dense_replace=3",
        "model.balance=[]",
        "model.sharing=[{use: tied-gains, match: ['*q_proj*', '*down_proj*']}]",
    ],
}


def trained(workplace: Path, config_file: Path, name: str, *overrides: str) -> tuple[Path, Path]:
    """A run, and its artifact."""
    arguments = ["train", str(config_file), f"name={name}", *overrides, "train.tokens=256"]
    run = Path(run_command([*arguments, "--runs", str(workplace / "decoded"), "--json"])["run_dir"])
    return run, Path(run_command(["export", str(run), "--format", "penstock", "--json"])["artifact"])


@pytest.fixture(scope="module", params=RUNS)
def exported(request: pytest.FixtureRequest, workplace: Path, config_file: Path) -> tuple[Path, Path]:
    return trained(workplace, config_file, f"decoded-{list(RUNS).index(request.param)}", *RUNS[request.param])


@pytest.fixture(scope="module")
def artifact(workplace: Path, config_file: Path) -> Path:
    overrides = [*RUNS["mixture, tied, whole activations"], "model.max_position_embeddings=64"]
    return trained(workplace, config_file, "short", *overrides)[1]


def decoder_of(path: Path) -> Decoder:
    opened = Artifact.open(path)
    return Decoder(opened, decodable(opened, opened.header.decoder, str(path)))


def test_logits_are_those_of_the_run(exported: tuple[Path, Path]) -> None:
    """Sums of another order round a few inputs of a product to the neighbouring step, one of 254 where they have 8 bits
    and of 65,024 where they have 16."""
    run, path = exported
    model: Any = restore(run, REGISTRY).model
    tokens = (np.arange(90) * 7 % model.vocabulary_size).tolist()
    with torch.no_grad():
        expected = model.logits(model(torch.tensor([tokens])).hidden_BSD)[0].numpy()
    error = np.abs(decoder_of(path).text().logits(tokens) - expected).max(axis=1) / np.abs(expected).max()
    rounded = model.decoder_description()["activations"]["matrix"] == 8
    assert np.median(error) < (1e-3 if rounded else 5e-5)
    assert error.max() < (1e-2 if rounded else 2e-4)
    assert error.min() < 5e-6


def test_bits_per_byte_are_those_of_the_forward_pass_of_training(exported: tuple[Path, Path]) -> None:
    run, path = exported
    restored = restore(run, REGISTRY)
    window = torch.from_numpy(restored.dataset.split("heldout").slice(0, 513))
    with torch.no_grad():
        loss = restored.model.next_token_loss(window[None, :-1], window[None, 1:]).nll_BS.sum().item()
    logits = decoder_of(path).text().logits(window[:-1].tolist()).astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    found = (np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(512), window[1:]]).sum()
    characters = len(restored.tokenizer.decode(window[1:].tolist()).encode())
    assert abs(found - loss) / math.log(2) / characters < 0.0005


def test_a_seed_gives_the_text_of_the_run(exported: tuple[Path, Path]) -> None:
    of_run, of_artifact = map(load, exported)
    assert isinstance(of_artifact.model, Decoder)
    for sampling in (
        {"temperature": 0.0},
        {"seed": 3},
        {"seed": 2**40, "top_k": 5},
        {"temperature": 1.5, "top_p": 0.6},
    ):
        texts = {model.generate("def ", tokens=12, **sampling) for model in (of_run, of_artifact)}
        assert len(texts) == 1, sampling


def test_a_text_does_not_depend_on_the_one_before(artifact: Path) -> None:
    model = load(artifact)
    alone = load(artifact).generate("def main(", tokens=20, seed=1)
    begun = model.stream("def main", tokens=20)
    next(begun)
    other = model.generate("def main(", tokens=20, seed=1)
    again = model.generate("def main(", tokens=20, seed=1)
    assert [alone, other, again] == [alone] * 3
    assert begun.text + "".join(begun) == load(artifact).generate("def main", tokens=20)


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None  # an import of it now raises ModuleNotFoundError
from penstock.cli.main import run
run(sys.argv[1:])
"""


def test_generate_and_chat_need_no_torch(artifact: Path) -> None:
    def penstock(*arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", WITHOUT_TORCH, *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, input=given, check=True)

    printed = penstock("generate", str(artifact), "--prompt", "def ", "--tokens", "5")
    assert printed.stdout == load(artifact).generate("def ", tokens=5) + "\n"
    assert "tokens/s" in printed.stderr
    talk = penstock("chat", str(artifact), "--tokens", "3", given="Hello\nAnd now?\n")
    assert talk.stdout.count("\n") >= 2


WITH_ANOTHER_LIBRARY = """
import sys
import penstock.quant158
penstock.quant158.__path__.insert(0, sys.argv.pop(1))
from penstock.cli.main import run
run(sys.argv[1:])
"""


def test_with_a_library_of_another_system_torch_generates_and_says_why(artifact: Path, tmp_path: Path) -> None:
    (tmp_path / f"libpenstock_quant158{'.dylib' if sys.platform == 'darwin' else '.so'}").write_bytes(b"another")
    command = ["generate", str(artifact), "--prompt", "def ", "--tokens", "5"]
    found = subprocess.run(
        [sys.executable, "-c", WITH_ANOTHER_LIBRARY, str(tmp_path), *command],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    assert found.stdout == load(artifact).generate("def ", tokens=5) + "\n"
    assert f"{artifact} is run by torch in fp32: {tmp_path}" in found.stderr
    assert "the kernel cannot be loaded" in found.stderr


def test_json_has_the_speed(artifact: Path, command: Command) -> None:
    result = command("generate", artifact, "--prompt", "def ", "--tokens", 9, "--json")
    assert result["new_tokens"] == 9
    assert result["tokens_per_second"] > 0


def test_a_prompt_beyond_the_positions_is_refused_and_a_text_ends_at_them(artifact: Path, command: Command) -> None:
    with pytest.raises(ProblemError, match="but the model reads at most 64"):
        command("generate", artifact, "--prompt", "水" * 90)
    result = command("generate", artifact, "--prompt", "def ", "--tokens", 500, "--json")
    assert (result["prompt_tokens"] + result["new_tokens"], result["stopped_by"]) == (64, "positions")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            ["model.router={use: sigmoid-topk, k: 2, groups: 2}"],
            "the router of layer 1 chooses among 2 groups of experts",
        ),
        (["model.quantizer={expert: ternary}"], "q_proj.weight' is fp32, and the decoder multiplies ternary matrices"),
    ],
)
def test_what_the_decoder_lacks_is_run_by_torch_and_named(
    workplace: Path, config_file: Path, command: Command, capsys: Any, changes: list[str], reason: str
) -> None:
    overrides = ["model.quantizer={weights: ternary}", *changes]
    run, path = trained(workplace, config_file, "by-torch", *overrides)
    capsys.readouterr()
    of_artifact = command("generate", path, "--prompt", "def ", "--tokens", 8)
    assert reason in capsys.readouterr().err
    assert of_artifact["text"] == command("generate", run, "--prompt", "def ", "--tokens", 8)["text"]


def test_a_description_that_contradicts_its_tensors_is_refused(artifact: Path) -> None:
    opened = Artifact.open(artifact)
    described = json.loads(json.dumps(dict(opened.header.decoder)))
    described["layers"][1]["experts"] = 7
    with pytest.raises(ProblemError, match="but its description says"):
        decodable(opened, described, str(artifact))
