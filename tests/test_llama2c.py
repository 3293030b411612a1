"""A trained llama2.c model and its tokenizer, read by two columns, predict real stories as they were measured to."""

from __future__ import annotations

import json
import lzma
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from penstock.data_prep.tokenizer import BpeTokenizer
from penstock.hooks.problems import ProblemError
from penstock.moe_core.glm.model import GlmMoe, glm_moe

CONTEXT = 512


def no_router(layer: int, **sizes: int) -> Any:
    raise AssertionError("a dense model asks for no router")


@pytest.fixture(scope="module")
def data() -> Path:
    if "PENSTOCK_DATA" not in os.environ:
        pytest.skip("PENSTOCK_DATA is not set: no stories260K here")
    return Path(os.environ["PENSTOCK_DATA"])


@pytest.fixture(scope="module")
def model(data: Path) -> GlmMoe:
    return glm_moe(pretrained=data / "stories260k" / "stories260K.bin", make_router=no_router)


@pytest.fixture(scope="module")
def tokenizer(data: Path) -> BpeTokenizer:
    return BpeTokenizer.load(data / "stories260k" / "tok512.bin")


def test_sixty_stories_take_1_296_nats_a_token(data: Path, model: GlmMoe, tokenizer: BpeTokenizer) -> None:
    """The convention: the file's first 60 stories without the white space around them, each after the begin token
    (id 1) and without an end, cut to the model's 512 positions; the mean is over all 20,424 predicted tokens."""
    text = lzma.decompress((data / "tinystories" / "tinystories_head_2MiB.txt.xz").read_bytes()).decode()
    nats = count = 0
    for story in text.split("<|endoftext|>")[:60]:
        token_BS = torch.tensor([[tokenizer.end_of_text, *tokenizer.encode(story.strip())]])[:, :CONTEXT]
        with torch.no_grad():
            nats += model.next_token_loss(token_BS[:, :-1], token_BS[:, 1:]).loss.item()
        count += token_BS.shape[1] - 1
    assert count == 20_424
    assert nats / count == pytest.approx(1.2958, abs=5e-5)


def test_it_continues_a_story(model: GlmMoe, tokenizer: BpeTokenizer) -> None:
    start = torch.tensor([[tokenizer.end_of_text, *tokenizer.encode("Once upon a time")]])
    story = tokenizer.decode(model.generate(start, tokens=48, temperature=0.0)[0, 1:].tolist())
    assert story.startswith("Once upon a time, there was a little girl named")


CONFIG = """\
name: stories
data:
  corpus: {{use: text, paths: ["{data}/tinystories"], separator: "<|endoftext|>"}}
  tokenizer: {{file: {data}/stories260k/tok512.bin}}
model:
  use: glm-moe
  pretrained: {data}/stories260k/stories260K.bin
train:
  tokens: 2048
  batch_size: 8
  optimizer: {{use: muon, lr: 0.0}}
evaluate:
  tasks: []
"""


def test_a_run_goes_on_from_the_model_with_its_tokenizer(
    data: Path, model: GlmMoe, command: Callable[..., Any], tmp_path: Path
) -> None:
    config = tmp_path / "stories.yaml"
    config.write_text(CONFIG.format(data=data))
    plan = command("train", config, "--dry-run", "--json")
    assert plan["parameters"]["total"] == sum(parameter.numel() for parameter in model.parameters())
    run = Path(command("train", config, "--runs", tmp_path / "runs", "--json")["run_dir"])
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    (heldout,) = [line["heldout/loss"] for line in lines if "heldout/loss" in line]
    assert heldout < 1.6  # windows of 256 tokens, most of which begin within a story


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(
    data: Path, command: Callable[..., Any], tmp_path: Path
) -> None:
    larger = (data / "stories260k" / "tok512.bin").read_bytes() + bytes(4) + (3).to_bytes(4, "little") + b"xyz"
    (tmp_path / "larger.bin").write_bytes(larger)
    config = tmp_path / "stories.yaml"
    config.write_text(CONFIG.format(data=data).replace(f"{data}/stories260k/tok512.bin", f"{tmp_path}/larger.bin"))
    with pytest.raises(ProblemError, match="has 513 tokens, but the model has only 512 embeddings"):
        command("train", config, "--dry-run")
