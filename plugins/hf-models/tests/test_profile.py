"""`penstock profile` of models of transformers: from the folder that save_pretrained writes to figures and pages."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import MIXTURES, build
from penstock_hf_models.recording import record
from transformers import AutoModelForCausalLM, AutoTokenizer

from penstock.cli.main import run as run_command
from penstock.data_prep.tokenizer import train_tokenizer, write_tokenizer
from penstock.hooks import ProblemError
from penstock.profile.reassignment import STRATEGIES, modified
from penstock.traces.trace import RoutingTrace

LETTERS = {"early": "abcdefg", "late": "tuvwxyz"}
"""What the words of each domain are made of."""
VOCABULARY = 340

Command = Callable[..., Any]


def text_of(domain: str, words: int = 1500) -> str:
    draw = random.Random(domain)
    return " ".join("".join(draw.choices(LETTERS[domain], k=draw.randint(2, 6))) for _ in range(words))


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two domains."""
    folder = tmp_path_factory.mktemp("texts")
    for domain in LETTERS:
        (folder / f"{domain}.txt").write_text(text_of(domain))
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes a model of a family, once, as its authors would: with weights and a tokenizer of its own."""
    root = tmp_path_factory.mktemp("models")
    tokenizer = write_tokenizer(train_tokenizer(map(text_of, LETTERS), vocabulary_size=VOCABULARY))

    def write(family: str, change: Callable[[Any], None] = lambda network: None) -> Path:
        folder = root / f"{family}-{change.__name__.strip('<>')}"
        if not folder.exists():
            model = build(family, eos_token_id=0)
            model.network.resize_token_embeddings(VOCABULARY, mean_resizing=False)
            change(model.network)
            model.network.save_pretrained(folder)
            for name, content in tokenizer.items():
                (folder / name).write_bytes(content)
        return folder

    return write


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Command]:
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.iterdir())
    yield lambda *arguments: run_command([str(argument) for argument in arguments])
    assert not [path for path in set(tmp_path.rglob("*")) - before if path.name.startswith(".")]  # nothing is left half


def windows(folder: Path, text: str, length: int) -> torch.Tensor:
    """The tokens [B, S] of a text and its end, in whole windows."""
    tokens = AutoTokenizer.from_pretrained(folder)(text)["input_ids"] + [0]
    count = len(tokens) // length
    return torch.tensor(tokens[: count * length]).view(count, length)


@pytest.mark.parametrize("family", MIXTURES)
def test_counts_are_those_of_the_recorder(command, models, texts, family) -> None:
    folder = models(family)
    result = command("profile", folder, "--corpus", texts / "early.txt", "--sequence-length", 32, "--trace", "t.npz")
    network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad(), record(network) as recording:
        for batch_BS in windows(folder, text_of("early"), 32).split(8):
            network(batch_BS)
    kept = [row for row, site in enumerate(recording.sites) if "self_attention" not in site.name]
    trace = RoutingTrace.load(Path("t.npz"))
    assert np.array_equal(trace.counts_SLE, recording.counts_SLE[:, kept])
    assert trace.header["layers"] == [recording.sites[row].layer for row in kept]
    assert [layer["counts"] for layer in result["layers"]] == recording.counts_LE[kept].tolist()
    expert_NLK = recording.expert_NLK
    assert trace.expert_NLK is not None
    assert expert_NLK is not None
    assert np.array_equal(trace.expert_NLK, expert_NLK[:, kept])


def sees_letters_in_its_first_layer(network: Any) -> None:
    """The first layer has no attention, an embedding says which domain a token is of, and its router sends early
    letters to the experts 0 to 3 and late ones to the others."""
    tokenizer = train_tokenizer(map(text_of, LETTERS), vocabulary_size=VOCABULARY)
    side_V = torch.zeros(VOCABULARY)
    for domain, side in zip(LETTERS, (1.0, -1.0), strict=True):
        for token, index in tokenizer.get_vocab().items():
            if set(token) & set(LETTERS[domain]) and not token.startswith("<"):
                side_V[index] = side
    with torch.no_grad():
        network.get_input_embeddings().weight[:, 0] = 3 * side_V
        layer = network.model.layers[0]
        layer.self_attn.o_proj.weight.zero_()
        layer.post_attention_layernorm.weight.fill_(1.0)
        layer.mlp.gate.weight[:4, 0] = 10.0
        layer.mlp.gate.weight[4:, 0] = -10.0


def test_a_specialisation_that_was_planted_is_found(command, models, texts, capsys) -> None:
    folder = models("olmoe", sees_letters_in_its_first_layer)
    result = command(
        "profile", folder, "--corpus", texts, "--domains", "--sequence-length", 32, "--report", "page.html"
    )
    assert result["domains"] == ["early", "late"]
    first = result["layers"][0]["specialisation"]
    assert first["verdict"].endswith("load, specialised")
    assert first["information_bits"] > 0.7
    for domain, own in (("early", {0, 1, 2, 3}), ("late", {4, 5, 6, 7})):
        found = first["domains"][domain]
        assert set(found["prefers"]) <= own
        assert len(found["prefers"]) >= 3  # the router takes three
        assert set(found["avoids"]) >= {*range(8)} - own
        assert found["uniform"] == 3 / 8
        low_E, share_E, high_E = (np.array(found[name]) for name in ("low", "share", "high"))
        assert (low_E <= share_E + 1e-9).all()
        assert (share_E <= high_E + 1e-9).all()
        assert (high_E - low_E < 0.05).all()
    assert sum(first["domains"]["early"]["share"][:4]) > 2.7  # spaces are of both
    printed = capsys.readouterr().out
    assert "load, specialised: layer 0" in printed
    assert "A domain prefers an expert whose 95 % interval is above" in printed
    html = Path("page.html").read_text()
    assert all(title in html for title in ("Load", "Domain preferences", "Experts of the same token"))


def test_two_halves_of_one_text_show_no_specialisation(command, models) -> None:
    words = text_of("early", 6000).split()
    for name, half in (("one", words[:3000]), ("two", words[3000:])):
        Path(name).write_text(" ".join(half))
    arguments = ["--corpus", "one", "--corpus", "two", "--domains", "--sequence-length", 32]
    result = command("profile", models("olmoe"), *arguments)
    assert all(layer["specialisation"]["verdict"].endswith("no specialisation") for layer in result["layers"])


def test_the_trace_is_one_for_simulate_and_profile(command, models, texts) -> None:
    text = ["--corpus", f"words={texts}/early.txt", "--corpus", texts / "late.txt", "--domains", "--max-tokens", 256]
    result = command("profile", models("qwen3_moe"), *text, "--sequence-length", 64, "--trace", "out/t.npz")
    assert result["tokens"] == 512
    (again,) = command("profile", "out/t.npz")["models"]
    assert again["layers"] == result["layers"]
    assert again["domains"] == result["domains"] == ["words", "late"]
    assert command("simulate", "out/t.npz", "--gpus", "4,8")["hidden_size"] == 32


@pytest.mark.parametrize("family", ["mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "deepseek_v3", "glm4_moe"])
def test_other_assignments_are_measured_from_the_models_own_perplexity(command, models, texts, family) -> None:
    folder = models(family)
    text = ["--corpus", texts / "early.txt", "--corpus", texts / "late.txt", "--sequence-length", 32]
    asked = ["--modify", "all", "--fraction", "0,1", "--max-tokens", 512, "--report", "page.html"]
    result = command("profile", folder, *text, *asked)
    rows = {row["strategy"]: row for row in result["rows"]}
    assert list(rows) == ["router", *STRATEGIES]
    network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokens = [AutoTokenizer.from_pretrained(folder)(text_of(each))["input_ids"] + [0] for each in LETTERS]
    stream = torch.tensor([token for text in tokens for token in text][:513])
    with torch.no_grad():
        logits = network(stream[:-1].view(16, 32)).logits.flatten(0, 1)
    nats = torch.nn.functional.cross_entropy(logits, stream[1:])
    assert rows["router"]["perplexity"] == pytest.approx(nats.exp().item(), rel=1e-4)
    size = len(AutoTokenizer.from_pretrained(folder).decode(stream[1:], skip_special_tokens=True).encode())
    assert rows["router"]["bits_per_byte"] == pytest.approx(512 * nats.item() / np.log(2) / size, rel=1e-4)
    assert rows["router"]["changed"] == 0
    assert rows["balanced"]["max_violation"] == rows["round-robin"]["max_violation"] == 0
    assert rows["balanced"]["slowdown"] == pytest.approx(1)
    assert rows["random"]["changed"] > 0.3
    assert rows["random"]["perplexity"] != rows["router"]["perplexity"]
    assert "Quality against communication" in Path("page.html").read_text()
    assert list(Path().iterdir()) == [Path("page.html")]


@pytest.mark.parametrize("family", MIXTURES)
@torch.no_grad()
def test_no_fraction_computes_the_same_bits_and_the_routers_are_given_back(family: str) -> None:
    model, token_BS = build(family), torch.arange(64).view(2, 32)
    own = model.logits(model(token_BS).hidden_BSD)
    for strategy in STRATEGIES:
        with modified(model, strategy, 0) as found:
            assert torch.equal(own, model.logits(model(token_BS).hidden_BSD))
        assert (found.changed, found.total) == (0, 64 * sum(router.k for router in model.routers.values()))
    with modified(model, "round-robin", 1):
        assert not torch.equal(own, model.logits(model(token_BS).hidden_BSD))
    assert torch.equal(own, model.logits(model(token_BS).hidden_BSD))


def damaged(folder: Path, copy: Path, name: str, content: bytes | None) -> Path:
    shutil.copytree(folder, copy)
    if content is None:
        (copy / name).unlink()
    else:
        (copy / name).write_bytes(content)
    return copy


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", None, r"the model has no tokenizer\.json"),
        ("tokenizer.json", b"{", r"its tokenizer\.json cannot be read"),
        ("config.json", b"{", "not a valid JSON file"),
        ("config.json", b'{"model_type": "none-such"}', "model not found"),
        ("config.json", b"null", r"its config\.json cannot be used"),
        ("config.json", None, "neither a run .no config.resolved.yaml. nor a model .no config.json."),
        ("model.safetensors", None, "weights cannot be read"),
        ("model.safetensors", b"\x08" + 20 * b"\0", "weights cannot be read"),
    ],
)
def test_a_damaged_model_is_said_and_nothing_is_written(command, models, texts, tmp_path, name, content, message):
    folder = damaged(models("olmoe"), tmp_path / "copy", name, content)
    with pytest.raises(ProblemError, match=message) as raised:
        command("profile", folder, "--corpus", texts, "--report", "page.html", "--trace", "t.npz")
    assert all(str(folder) in problem.where for problem in raised.value.problems)
    assert sorted(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": "x"}, r"its config\.json cannot be used .*hidden_size"),
        ({"hidden_act": "nope"}, "model cannot be loaded .KeyError: 'nope'"),
        ({"quantization_config": {"quant_method": "fbgemm_fp8"}}, "model cannot be loaded .*fbgemm"),
        ({"num_experts_per_tok": 99}, "layer 0 chooses 99 experts per token, but has only 8"),
    ],
)
def test_a_config_that_makes_no_model_is_said(command, models, texts, tmp_path, change, message) -> None:
    config = json.loads((models("olmoe") / "config.json").read_text())
    folder = damaged(models("olmoe"), tmp_path / "copy", "config.json", json.dumps(config | change).encode())
    with pytest.raises(ProblemError, match=message) as raised:
        command("profile", folder, "--corpus", texts)
    assert raised.value.problems[0].where == str(folder)


def test_a_pickle_that_is_none_is_said(command, models, texts, tmp_path) -> None:
    folder = damaged(models("olmoe"), tmp_path / "copy", "model.safetensors", None)
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x02junk")
    with pytest.raises(ProblemError, match=f"{folder}: model cannot be loaded"):
        command("profile", folder, "--corpus", texts)


def test_a_tokenizer_of_another_model_is_said(command, models, texts, tmp_path) -> None:
    other = write_tokenizer(train_tokenizer(map(text_of, LETTERS), vocabulary_size=500))["tokenizer.json"]
    folder = damaged(models("olmoe"), tmp_path / "copy", "tokenizer.json", other)
    with pytest.raises(ProblemError, match=rf"produces token \d+, but the model has only {VOCABULARY} embeddings"):
        command("profile", folder, "--corpus", texts)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "a model has no held-out text, give files or folders of text with --corpus"),
        (["--domains"], "a model has no held-out text"),
        (["--corpus", "nowhere"], "nowhere: file or folder not found"),
        (["--corpus", "blank", "--corpus", "TEXTS", "--domains"], "domain 'blank' has no text"),
        (["--corpus", "{use: jsonl, paths: [blank.jsonl]}"], "the text has no text"),
        (["--corpus", "{use: jsonl, paths: [blank.jsonl]}", "--modify", "random"], "the text has no text"),
        (["--corpus", "no={use: jsonl, paths: [blank.jsonl]}", "--corpus", "TEXTS", "--domains"], "'no' has no text"),
        (["--corpus", "short", "--corpus", "TEXTS", "--domains"], r"domain 'short' has \d tokens, but a window of 32"),
        (["--corpus", "binary"], "not a text file"),
        (["--corpus", "TEXTS", "--max-tokens", "31"], "31 tokens do not fill one window of 32"),
        (["--corpus", "TEXTS", "--sequence-length", "999999"], "the model has 4096 positions"),
        (["--corpus", "TEXTS", "--domains", "--modify", "random"], "--domains: --modify measures all text"),
        (["--corpus", "TEXTS", "--trace", "t.npz", "--modify", "random"], "--trace: --modify writes no trace"),
        (["--corpus", "TEXTS", "--modify", "best"], "unknown strategy 'best'"),
        (["--corpus", "TEXTS", "--trace", "t.zip"], r"'t\.zip' is not an \.npz file"),
        (["--corpus", "TEXTS", "--trace", "TEXTS"], "is a folder"),
        (["--corpus", "TEXTS", "--report", "TEXTS"], "is a folder"),
        (["--corpus", "TEXTS", "--report", "short/page.html"], r"page\.html: cannot write the file"),
        (["--corpus", "TEXTS", "--trace", "short/t.npz"], r"t\.npz: cannot write the file"),
    ],
)
def test_bad_input_is_said_and_nothing_is_written(command, models, texts, tmp_path, arguments, message):
    Path("blank").write_text(" \n")
    Path("blank.jsonl").write_text('{"text": ""}\n' * 200)
    Path("short").write_text("ab")
    Path("binary").write_bytes(b"\xff\0")
    before = sorted(tmp_path.iterdir())
    usual = [] if "--sequence-length" in arguments else ["--sequence-length", 32]
    with pytest.raises(ProblemError, match=message):
        command("profile", models("olmoe"), *[texts if each == "TEXTS" else each for each in arguments], *usual)
    assert sorted(tmp_path.iterdir()) == before


def test_a_model_without_experts_has_nothing_to_profile(command, models, texts) -> None:
    for arguments in ([], ["--modify", "random"]):
        with pytest.raises(ProblemError, match="the model has no experts"):
            command("profile", models("llama"), "--corpus", texts, *arguments)


def test_a_model_that_predicts_otherwise_is_said(command, models, texts, tmp_path) -> None:
    config = json.dumps({"model_type": "switch_transformers"}).encode()
    folder = damaged(models("olmoe"), tmp_path / "copy", "config.json", config)
    with pytest.raises(ProblemError, match="no causal model of type switch_transformers"):
        command("profile", folder, "--corpus", texts)


def test_a_name_that_the_hub_does_not_give_is_said(command, texts, monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        ProblemError, match="nobody/nothing: folder not found, and no tokenizer of that name on the hub"
    ):
        command("profile", "nobody/nothing", "--corpus", texts)
    with pytest.raises(ProblemError, match="x: folder not found, and no tokenizer of that name on the hub"):
        command("profile", "x" * 300, "--corpus", texts)
    with pytest.raises(ProblemError, match="run, model or trace not found, check the path; for a hub model"):
        command("profile", "nobody/nothing")
    for path in ("a/b/c", "/nowhere"):
        with pytest.raises(ProblemError, match=f"{path}: run, model or trace not found, check the path"):
            command("profile", path, "--corpus", texts)
