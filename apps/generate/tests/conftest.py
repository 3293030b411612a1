"""One tiny run with few positions, and its export, for every test here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from penstock.cli.main import run

CONFIG = """\
name: tiny
data:
  corpus: {{use: text, paths: ["{corpus}"]}}
  tokenizer: {{vocab_size: 300}}
  sequence_length: 16
  heldout_share: 0.3
model:
  use: glm-moe
  preset: quickstart
  hidden_size: 32
  num_hidden_layers: 2
  num_attention_heads: 2
  num_key_value_heads: 1
  head_dim: 16
  intermediate_size: 32
  moe_intermediate_size: 16
  n_routed_experts: 4
  max_position_embeddings: 48
train:
  tokens: 512
  batch_size: 4
  trackers: [jsonl]
"""


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generate")
    corpus = folder / "corpus"
    corpus.mkdir()
    for number in range(12):
        (corpus / f"{number}.txt").write_text(
            f"User: Is mill {number} open?\nAssistant: Zwölf 水 Mühlen laufen 😀.\n" * 6
        )
    (folder / "tiny.yaml").write_text(CONFIG.format(corpus=corpus))
    return folder


@pytest.fixture(scope="session")
def trained(workplace: Path) -> Path:
    result: Any = run(["train", str(workplace / "tiny.yaml"), "--runs", str(workplace / "runs"), "--json"])
    return Path(result["run_dir"])


@pytest.fixture(scope="session")
def exported(trained: Path, workplace: Path) -> Path:
    folder = workplace / "exported"
    run(["export", str(trained), "--format", "{use: hf, dtype: float32}", "--out", str(folder)])
    return folder
