"""An architecture of contract 1 reads tokens as it always did, and refuses by name what it does not know of."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from penstock.hooks import Component, Registry, Selection
from penstock.hooks.architecture import ArchitectureSettings, build_architecture
from penstock.hooks.component import CONTRACTS
from penstock.hooks.contracts import Inputs, LossOutput, ModelOutput
from penstock.hooks.discovery import Origin
from penstock.hooks.problems import ExitCode, ProblemError
from penstock.hooks.registry import Choice, Entry
from penstock.run.config import load_run_config

PLUGIN = """\
from penstock.hooks import Component, hookimpl
from penstock.hooks.architecture import ArchitectureSettings
from penstock.hooks.config import Schema


class Settings(ArchitectureSettings):
    @property
    def expert_layers(self):
        return (0,)

    @property
    def max_positions(self):
        return 16


class Other(Schema):
    width: int = 8
    \"\"\"Width.\"\"\"


@hookimpl
def architectures():
    return [
        Component("architecture", "short", "nowhere:Model", "A model", f"{__name__}:Settings", contract=2),
        Component("architecture", "foreign", "nowhere:Model", "Another", f"{__name__}:Other", contract=2),
    ]
"""
CONFIG = """\
name: asks
data:
  corpus: {use: text, paths: [corpus]}
  tokenizer: {vocab_size: 320}
  sequence_length: 16
model: {use: short, router: {use: softmax-topk}}
train: {tokens: 512, batch_size: 4}
"""


class Bigram(nn.Module):
    """As its author wrote it: a table of which token follows which."""

    def __init__(self, *, vocab_size: int, eos_token_id: Any = None, make_router: Any, quantizer: Any) -> None:
        super().__init__()
        self.vocabulary_size = vocab_size
        self.table = nn.Parameter(torch.randn(vocab_size, vocab_size))

    def forward(self, token_BS: Tensor, *, cache: Any = None) -> ModelOutput:
        assert isinstance(token_BS, Tensor)
        return ModelOutput(self.table[token_BS], {})

    def logits(self, hidden_BSD: Tensor) -> Tensor:
        return hidden_BSD

    def next_token_loss(self, token_BS: Tensor, target_BS: Tensor, mask_BS: Tensor | None = None) -> LossOutput:
        logits_BVS = self(token_BS).hidden_BSD.transpose(1, 2)
        nll_BS = nn.functional.cross_entropy(logits_BVS, target_BS, reduction="none")
        return LossOutput(nll_BS.sum(), nll_BS.detach(), {})

    def generate(self, token_BS: Tensor, *, tokens: int, **sampling: Any) -> Tensor:
        for _ in range(tokens):
            token_BS = torch.cat((token_BS, self.table[token_BS[:, -1:]].argmax(-1)), dim=1)
        return token_BS


class FromHere(Entry):
    def imported(self, path: str) -> Any:
        return Bigram


@pytest.fixture
def model() -> Any:
    torch.manual_seed(0)
    component = Component("architecture", "bigram", "mine:Bigram", "Which token follows", contract=1)
    choice = Choice(FromHere(component, Origin("somebody", "1.0", "mine")), ArchitectureSettings())
    return build_architecture(choice, vocab_size=8, make_router=None, quantizer=None)


def test_the_window_of_architectures_has_both_contracts():
    assert (CONTRACTS["architecture"].oldest, CONTRACTS["architecture"].newest) == (1, 2)


def test_inputs_of_tokens_alone_are_passed_on_as_their_tensor(model):
    token_BS = torch.tensor([[1, 2, 3]])
    assert type(model).__mro__[2] is Bigram
    assert set(model.state_dict()) == {"table"}
    assert torch.equal(model(Inputs(token_BS)).hidden_BSD, model(token_BS).hidden_BSD)
    loss = model.next_token_loss(Inputs(token_BS), token_BS).loss
    assert torch.equal(loss, model.next_token_loss(token_BS, token_BS, None).loss)
    assert torch.equal(model.generate(Inputs(token_BS), tokens=2), model.generate(token_BS, tokens=2))
    assert model.new_cache(1, 4) is None
    copied = copy.deepcopy(model)
    with torch.no_grad():
        copied.table.zero_()
    assert not copied(Inputs(token_BS)).hidden_BSD.any()
    assert model(token_BS).hidden_BSD.any()


def test_what_else_is_known_is_refused_by_name(model):
    token_BS = torch.tensor([[1, 2, 3]])
    padded = Inputs(token_BS, real_BS=torch.ones_like(token_BS, dtype=torch.bool), type_BS=token_BS)
    for call in (model, lambda inputs: model.next_token_loss(inputs, token_BS), lambda inputs: model.generate(inputs)):
        with pytest.raises(ProblemError) as raised:
            call(padded)
        assert [problem.what for problem in raised.value.problems] == [
            "Bigram, an architecture of contract 1, cannot read `real_BS`",
            "Bigram, an architecture of contract 1, cannot read `type_BS`",
        ]


def problem_of(tmp_path: Path, *changes: str) -> ProblemError:
    (tmp_path / "plugin.py").write_text(PLUGIN)
    (tmp_path / "run.yaml").write_text(CONFIG)
    registry = Registry.discover(Selection(files=(str(tmp_path / "plugin.py"),)))
    load_run_config(tmp_path / "run.yaml", [], registry)
    with pytest.raises(ProblemError) as raised:
        load_run_config(tmp_path / "run.yaml", list(changes), registry)
    return raised.value


def test_a_router_that_asks_for_ids_is_refused_where_the_architecture_has_none_to_give(tmp_path):
    error = problem_of(tmp_path, "model.router={use: token-hash}")
    assert "the router 'token-hash' asks for token ids, and short does not give routers any" in str(error)
    error = problem_of(tmp_path, "model.overrides=[{match: layers.0.mlp, router: {use: token-hash}}]")
    assert "model.overrides.0.router" in str(error)


def test_sequences_longer_than_the_model_reads_are_refused(tmp_path):
    error = problem_of(tmp_path, "data.sequence_length=17")
    assert "sequences have 17 tokens, but the model reads at most 16 positions" in str(error)


def test_a_schema_that_is_none_of_architectures_is_refused(tmp_path):
    error = problem_of(tmp_path, "model={use: foreign}")
    assert "architecture 'foreign' is not usable" in str(error)
    assert "does not extend penstock.hooks.architecture.ArchitectureSettings" in str(error)
    assert error.exit_code == ExitCode.PLUGIN


def test_token_ids_are_given_by_glm_moe(tmp_path):
    (tmp_path / "run.yaml").write_text(CONFIG)
    model = "model={use: glm-moe, preset: quickstart, router: {use: token-hash}}"
    config, _ = load_run_config(tmp_path / "run.yaml", [model], Registry.discover())
    assert config.model.settings.router.entry.component.name == "token-hash"
