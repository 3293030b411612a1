"""What the decoder lacks is run by torch with the kernel: the results of the run, in a sixteenth of the memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import penstock.quant158
from penstock.cli.main import run as run_command
from penstock.generate import load
from penstock.hooks.problems import ProblemError
from penstock.hooks.registry import Registry
from penstock.quant158 import native
from penstock.quant158.product import PackedProduct
from penstock.train.restore import restore

needs_library = pytest.mark.skipif(not native.built(), reason="built without a compiler")

Command = Callable[..., Any]
REASON = "the router of layer 1 chooses among 2 groups of experts"
GREEDY = {"tokens": 24, "temperature": 0.0}


@pytest.fixture(scope="module", params=["8 bits for matrices, 16 for experts", "16 bits, learned, tied with gains"])
def exported(request: pytest.FixtureRequest, workplace: Path, config_file: Path) -> tuple[Path, Path]:
    """A run whose routing the decoder lacks, and its artifact."""
    quantizer, sharing = {
        "8 bits for matrices, 16 for experts": (
            "{matrix: {use: ternary, group: 64, activations: int8}, expert: ternary, embedding: int8, head: int8}",
            "[tied-embeddings]",
        ),
        "16 bits, learned, tied with gains": ("{weights: ternary-learned}", "[{use: tied-gains, match: ['*q_proj*']}]"),
    }[request.param]
    changes = [
        "model.router={use: sigmoid-topk, k: 2, groups: 2}",
        f"model.quantizer={quantizer}",
        f"model.sharing={sharing}",
    ]
    name = f"name=packed-{request.param.partition(' ')[0]}"
    arguments = ["train", str(config_file), name, *changes, "train.tokens=256", "--runs", str(workplace / "packed")]
    run = Path(run_command([*arguments, "--json"])["run_dir"])
    return run, Path(run_command(["export", str(run), "--format", "penstock", "--json"])["artifact"])


def products_of(model: Any) -> dict[str, Any]:
    """By parameter: a `PackedProduct`, or a function that joins those of fused matrices."""
    return {name: site.site.product for name, site in model.weight_sites().items() if site.site.product is not None}


@needs_library
def test_logits_are_those_of_the_reference(exported: tuple[Path, Path]) -> None:
    """8 bits: where a sum rounds to the neighbouring step, one of 254, a logit moves; 16 bits: one of 65,024."""
    reference: Any = restore(exported[1], Registry.discover()).model
    packed = load(exported[1]).model
    tokens = torch.arange(90)[None] * 7 % reference.vocabulary_size
    with torch.no_grad():
        expected, found = (model.logits(model(tokens).hidden_BSD)[0] for model in (reference, packed))
    error = (found - expected).abs().amax(-1) / expected.abs().max()
    rounded = "packed-8" in str(exported[0])
    assert error.median() < (1e-3 if rounded else 5e-5)
    assert error.max() < (1e-2 if rounded else 2e-4)
    assert error.min() < 5e-6


@needs_library
def test_the_text_is_that_of_the_run_and_the_note_says_what_computes(
    exported: tuple[Path, Path], command: Command, capsys: Any
) -> None:
    run, artifact = exported
    result = command("generate", artifact, "--prompt", "def ", "--tokens", 24, "--temperature", 0)
    assert f"is run by torch with the kernel {native.kernel().name}: {REASON}\n" in capsys.readouterr().err
    assert result["text"] == load(run).generate("def ", **GREEDY)


@needs_library
def test_ternary_weights_have_two_bits_in_memory_and_no_parameter(exported: tuple[Path, Path]) -> None:
    model = load(exported[1]).model
    packed = {name for name, each in model.named_parameters(remove_duplicate=False) if each.is_meta}
    assert packed == set(products_of(model))
    assert {name.rpartition(".")[2] for name in packed} == {"weight", "gate_up_proj", "down_proj"}
    assert not any(part in name for name in packed for part in ("embed_tokens", "lm_head", "norm", "gate.weight"))
    each = [product for product in products_of(model).values() if isinstance(product, PackedProduct)]
    weights = sum(math.prod(product.weight.shape) for product in each)
    assert sum(product.nbytes for product in each) < weights * 3 / 8  # 2 bits, and a scale for each row of 32 weights
    restored = restore(exported[1], Registry.discover()).composition.module
    assert not any(each.is_meta for each in restored.parameters())  # evaluation computes what the run computed


@needs_library
def test_a_kernel_can_be_forced_and_an_unknown_one_is_named(
    exported: tuple[Path, Path], command: Command, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = load(exported[1]).generate("def ", **GREEDY)
    monkeypatch.setenv(native.VARIABLE, "portable")
    result = command("generate", exported[1], "--prompt", "def ", "--tokens", 24, "--temperature", 0)
    assert "torch with the kernel portable" in capsys.readouterr().err
    assert result["text"] == expected
    monkeypatch.setenv(native.VARIABLE, "mmx")
    with pytest.raises(ProblemError, match="unknown kernel 'mmx'"):
        load(exported[1])


def test_without_the_library_torch_computes_in_fp32_and_the_note_says_how_to_build_it(
    exported: tuple[Path, Path], command: Command, capsys: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run, artifact = exported
    expected = load(run).generate("def ", **GREEDY)
    monkeypatch.setattr(penstock.quant158, "__path__", [str(tmp_path)])
    result = command("generate", artifact, "--prompt", "def ", "--tokens", 24, "--temperature", 0)
    said = capsys.readouterr().err
    assert f"is run by torch in fp32: {REASON}; its kernel was not built: {native.BUILD}" in said
    assert result["text"] == expected
