"""A server of one tiny run, in processes of its own as a user starts it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from penstock.cli.main import run

sys.path.append(str(Path(__file__).parent))  # for `servers`

from servers import Running, serving

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
  max_position_embeddings: 256
train:
  tokens: 2048
  batch_size: 4
  trackers: [jsonl]
"""

TEMPLATE = (
    "{{ eos_token }}{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if messages[-1].content == 'raise' %}{{ raise_exception('not today') }}{% endif %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("server")
    corpus = folder / "corpus"
    corpus.mkdir()
    for number in range(12):
        (corpus / f"{number}.txt").write_text(
            f"User: Is mill {number} open?\nAssistant: Zwölf 水 Mühlen laufen 😀.\n" * 6, encoding="utf-8"
        )
    (folder / "tiny.yaml").write_text(CONFIG.format(corpus=corpus))
    return folder


@pytest.fixture(scope="session")
def trained(workplace: Path) -> Path:
    result: Any = run(["train", str(workplace / "tiny.yaml"), "--runs", str(workplace / "runs"), "--json"])
    return Path(result["run_dir"])


@pytest.fixture(scope="session")
def template(workplace: Path) -> Path:
    file = workplace / "chat.jinja"
    file.write_text(TEMPLATE)
    return file


@pytest.fixture(scope="session")
def server(trained: Path, workplace: Path, template: Path) -> Iterator[Running]:
    limits = ("--max-body", "20000", "--queue", "6")
    with serving(
        trained, workplace, "--slots", "4", "--name", "tiny", *limits, "--chat-template", str(template)
    ) as running:
        yield running


@pytest.fixture
def eventually() -> Callable[[Callable[[], bool]], None]:
    def wait(what: Callable[[], bool]) -> None:
        until = time.monotonic() + 30
        while not what():
            assert time.monotonic() < until
            time.sleep(0.05)

    return wait
