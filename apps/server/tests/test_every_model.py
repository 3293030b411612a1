"""Every kind of model that is trained is served, and says what `penstock generate` says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from penstock.cli.main import run
from penstock.conformance import slots as laws
from penstock.generate import load
from penstock.generate.loading import load_artifact
from penstock.generate.model import Sampling, TextModel
from penstock.hooks.contracts import Draw, Inputs, ModelOutput, Row, SlotDecoder
from penstock.hooks.registry import Registry
from penstock.moe_core.layers.generation import generate
from penstock.moe_core.layers.slot_decoder import ModelSlots
from penstock.quant158 import native
from penstock.server.engine.artifact import ArtifactSlots
from penstock.server.engine.decoders import slots_of
from penstock.server.engine.request import Job, Step
from penstock.server.engine.scheduler import Scheduler
from penstock.server.engine.sequential import SequentialSlots

PROMPTS = ["User: Is", "Zw\u00f6lf \u6c34", "", "Assistant: Zw\u00f6lf M\u00fchlen laufen"]
NEW = 12
GLM = (
    "use: glm-moe, hidden_size: 32, num_hidden_layers: 2, first_k_dense_replace: 2, num_attention_heads: 2, "
    "num_key_value_heads: 1, head_dim: 16, intermediate_size: 32, max_position_embeddings: 256"
)
NEO = (
    "use: hf, model_type: gpt_neo, settings: {hidden_size: 32, num_layers: 2, num_heads: 2, "
    "attention_types: [[[global], 2]], max_position_embeddings: 256}"
)
EXPERTS = "layers: [1], experts: 4, router: {use: softmax-topk, k: 2}"
TERNARY = "model.quantizer={weights: {use: ternary, group: row}, embedding: int8, head: int8}"
KINDS: dict[str, tuple[type, list[str]]] = {
    "mixture": (ModelSlots, []),
    "experts by the token's id": (ModelSlots, ["model.router={use: token-hash, k: 1}"]),
    "experts by the tokens beside": (SequentialSlots, ["model.router={use: round-robin, k: 2}"]),
    "gpt": (
        ModelSlots,
        [
            "model={use: gpt, hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 2, "
            "max_position_embeddings: 64}"
        ],
    ),
    "frozen base": (ModelSlots, [f"model={{use: frozen-base, {EXPERTS}, base: {{{GLM}}}}}"]),
    "frozen base of transformers": (SequentialSlots, [f"model={{use: frozen-base, {EXPERTS}, base: {{{NEO}}}}}"]),
    "recurrent": (
        SequentialSlots,
        ["model={use: hf, model_type: mamba, settings: {hidden_size: 16, num_hidden_layers: 1, state_size: 4}}"],
    ),
    "ternary": (ModelSlots, [TERNARY]),
}


def trained_as(workplace: Path, name: str, overrides: Sequence[str]) -> Path:
    arguments = ["train", str(workplace / "tiny.yaml"), f"name={name}", *overrides, "train.tokens=128"]
    result: Any = run([*arguments, "--runs", str(workplace / "runs"), "--json"])
    return Path(result["run_dir"])


@pytest.fixture(scope="module")
def ternary(workplace: Path) -> Path:
    return trained_as(workplace, "ternary", KINDS["ternary"][1])


@pytest.fixture(scope="module")
def artifact(ternary: Path) -> Path:
    result: Any = run(["export", str(ternary), "--format", "penstock", "--json"])
    return Path(result["artifact"])


def expect_parity(model: TextModel, kind: type) -> None:
    """Greedy and drawn texts that join in turn, share slots and are read in parts are those of `generate`."""
    decoder = slots_of(model, slots=2, positions=64)
    assert type(decoder) is kind
    samplings = [
        Sampling(NEW, 0.0),
        Sampling(NEW, 0.8, seed=5),
        Sampling(NEW, 0.0),
        Sampling(NEW, 1.2, top_k=9, seed=6),
    ]
    jobs = [
        Job(number, model.prompt_tokens(prompt), NEW, Draw(each.temperature, each.top_k), seed=each.seed)
        for number, (prompt, each) in enumerate(zip(PROMPTS, samplings, strict=True))
    ]
    found = stepped(Scheduler(decoder, chunk=3), jobs)
    for job, sampling in zip(jobs, samplings, strict=True):
        assert found[job.id] == list(model.next_tokens(job.tokens, sampling, NEW)), PROMPTS[job.id]


def stepped(scheduler: Scheduler, jobs: Sequence[Job]) -> dict[int, list[int | None]]:
    waiting, found = list(jobs), {job.id: list[int | None]() for job in jobs}
    while waiting or not scheduler.idle:
        if waiting:
            scheduler.add(waiting.pop(0))
        for step in scheduler.step():
            found[step.id].append(step.token)
    return found


@pytest.mark.parametrize("name", [name for name in KINDS if name != "ternary"])
def test_a_run_says_what_generate_says(workplace: Path, name: str):
    kind, overrides = KINDS[name]
    expect_parity(load(trained_as(workplace, name.replace(" ", "-").replace("'", ""), overrides)), kind)


def test_a_ternary_run_says_what_generate_says(ternary: Path):
    expect_parity(load(ternary), ModelSlots)


@pytest.mark.skipif(not native.built(), reason="built without a compiler")
def test_an_artifact_says_what_generate_says_by_the_library_and_by_torch(artifact: Path):
    expect_parity(load(artifact), ArtifactSlots)
    expect_parity(load_artifact(artifact, Registry.discover())[0], ModelSlots)


class State:
    """What a recurrent model keeps, however long its text is."""

    def __init__(self, hidden_BD: Tensor) -> None:
        self.hidden_BD = hidden_BD


class Recurrent(nn.Module):
    """An Elman network; `keeps` False: one without a cache."""

    def __init__(self, *, keeps: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.keeps = keeps
        self.embedding, self.head = nn.Embedding(48, 16), nn.Linear(16, 48)
        self.step = nn.Linear(16, 16)
        with torch.no_grad():
            self.head.weight.mul_(8)

    def forward(self, inputs: Inputs | Tensor, *, cache: State | None = None) -> ModelOutput:
        token_BS = Inputs.of(inputs).token_BS
        hidden_BD = torch.zeros(len(token_BS), 16) if cache is None else cache.hidden_BD
        found: list[Tensor] = []
        for x_BD in self.embedding(token_BS).unbind(1):
            hidden_BD = torch.tanh(x_BD + self.step(hidden_BD))
            found.append(hidden_BD)
        if cache is not None:
            cache.hidden_BD = hidden_BD
        return ModelOutput(torch.stack(found, dim=1), {})

    def logits(self, hidden_BSD: Tensor) -> Tensor:
        return self.head(hidden_BSD)

    def new_cache(self, batch: int, capacity: int) -> State | None:
        return State(torch.zeros(batch, 16)) if self.keeps else None


def recurrent(slots: int, positions: int) -> SlotDecoder:
    return SequentialSlots(Recurrent(), slots=slots, positions=positions, vocabulary_size=48)


def without_cache(slots: int, positions: int) -> SlotDecoder:
    return SequentialSlots(Recurrent(keeps=False), slots=slots, positions=positions, vocabulary_size=48)


def read_whole(slots: int, positions: int) -> SlotDecoder:
    return SequentialSlots(Recurrent(), slots=slots, positions=positions, vocabulary_size=48, whole=True)


@pytest.mark.parametrize("make", [recurrent, without_cache, read_whole])
def test_slots_of_any_model_keep_the_laws(make: laws.MakeSlots):
    laws.expect_texts_as_alone(make)
    laws.expect_a_cut_text_to_go_on(make)
    laws.expect_a_copied_text_to_go_on(make)
    laws.expect_a_seed_to_be_one_text(make)


@pytest.mark.skipif(not native.built(), reason="built without a compiler")
def test_slots_of_an_artifact_keep_the_laws(artifact: Path):
    decoder = load(artifact).model

    def make(slots: int, positions: int) -> SlotDecoder:
        return ArtifactSlots(decoder, slots=slots, positions=positions)

    laws.expect_texts_as_alone(make)
    laws.expect_a_cut_text_to_go_on(make)
    laws.expect_a_copied_text_to_go_on(make)
    laws.expect_a_seed_to_be_one_text(make)


def test_a_recurrent_text_is_read_in_parts_and_goes_on_where_it_ended():
    scheduler = Scheduler(recurrent(2, 64), chunk=4)
    prompt = [*range(11), 7, 7]

    def steps_of(job: Job) -> list[Step]:
        scheduler.add(job)
        found: list[Step] = []
        while not scheduler.idle:
            found += scheduler.step()
        return found

    def alone(tokens: Sequence[int]) -> list[int]:
        return generate(Recurrent(), torch.tensor([tokens]), tokens=4)[0, len(tokens) :].tolist()

    first = steps_of(Job(1, prompt, 4, Draw()))
    reply = [step.token for step in first if step.token is not None]
    assert reply == alone(prompt)
    longer = [*prompt, *reply, 9]
    second = steps_of(Job(2, longer, 4, Draw()))
    assert {step.cached for step in second} == {len(prompt) + 3}  # the last token of the reply was not read
    assert [step.token for step in second] == alone(longer)
    third = steps_of(Job(3, [*prompt[:5], 1], 4, Draw()))
    assert {step.cached for step in third} == {0}  # the state cannot go back
    assert [step.token for step in third] == alone([*prompt[:5], 1])


def test_a_state_is_copied_whole():
    decoder = recurrent(2, 64)
    decoder.read(0, [1, 2, 3])
    decoder.copy(0, 1, 3)
    assert decoder.length(1) == 3
    first = decoder.step([Row(0, [4])])
    assert decoder.step([Row(1, [4])]) == first  # the copy did not move with its source
