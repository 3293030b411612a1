"""A loaded model: the same text from a run and its export, ends, stops, streams and templates."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from penstock.cli.main import run
from penstock.generate import load
from penstock.generate.chat import Chat, Turn, rendered
from penstock.generate.model import Sampling, StoppedBy
from penstock.generate.stops import StopTexts
from penstock.hooks.problems import ProblemError

GREEDY = {"temperature": 0.0, "tokens": 20}


def test_a_run_its_folder_and_its_checkpoint_are_the_same_model(trained: Path) -> None:
    (checkpoint,) = (trained / "checkpoints").glob("step-*")
    texts = {load(path).generate("Is mill", **GREEDY) for path in (trained, str(trained.parent), checkpoint)}
    assert len(texts) == 1
    assert load(trained.parent).config == load(trained).config


def test_a_folder_continues_like_transformers(exported: Path) -> None:
    ours, tokenizer = load(exported), AutoTokenizer.from_pretrained(exported)
    theirs: Any = AutoModelForCausalLM.from_pretrained(exported, dtype=torch.float32)
    asked = tokenizer("Is mill", return_tensors="pt")
    new = theirs.generate(**asked, max_new_tokens=20, do_sample=False)[0, asked["input_ids"].shape[1] :]
    assert ours.generate("Is mill", **GREEDY) == tokenizer.decode(new, skip_special_tokens=True)


@pytest.mark.parametrize("prompt", ["Is mill", "", "<|endoftext|> 水"])
def test_a_run_its_export_and_transformers_give_the_same_tokens(trained: Path, exported: Path, prompt: str) -> None:
    ours, folder, tokenizer = load(trained), load(exported), AutoTokenizer.from_pretrained(exported)
    start = ours.prompt_tokens(prompt)
    assert start == folder.prompt_tokens(prompt) == tokenizer(prompt, split_special_tokens=True)["input_ids"]
    assert start.count(*ours.begins) == 1
    texts = [model.generate(prompt, **GREEDY) for model in (ours, folder)]
    theirs: Any = AutoModelForCausalLM.from_pretrained(exported, dtype=torch.float32)
    new = theirs.generate(torch.tensor([start]), max_new_tokens=20, do_sample=False)[0, len(start) :]
    assert texts == [tokenizer.decode(new, skip_special_tokens=True)] * 2


def test_the_export_of_a_run_with_the_tokenizer_of_an_export_begins_once(exported: Path, workplace: Path) -> None:
    overrides = [f"data.tokenizer={{file: {exported}}}", "train.tokens=64", "name=again"]
    result: Any = run(["train", str(workplace / "tiny.yaml"), *overrides, "--runs", str(workplace / "runs"), "--json"])
    again = Path(result["run_dir"])
    run(["export", str(again), "--out", str(workplace / "exported-again")])
    for path in (again, workplace / "exported-again"):
        model = load(path)
        assert model.prompt_tokens("Is mill") == load(exported).prompt_tokens("Is mill"), path
    written = [(folder / "tokenizer.json").read_bytes() for folder in (exported, workplace / "exported-again")]
    assert written[0] == written[1]


def test_only_generated_tokens_end_a_text(trained: Path) -> None:
    model = load(trained)
    assert model.prompt_tokens("") == [*model.begins]
    assert set(model.begins) <= model.ends
    assert model.stream("", **GREEDY).new_tokens == 0  # nothing is computed before the first piece is asked for
    assert model.generate("", **GREEDY)


def test_a_piece_comes_with_its_token(trained: Path) -> None:
    stream = load(trained).stream("Is mill", **GREEDY)
    seen = [stream.new_tokens for _ in stream]
    assert seen[:3] == [1, 2, 3]
    assert stream.stopped_by is StoppedBy.TOKENS


def test_a_text_ends_with_the_first_token_that_ends_texts(trained: Path) -> None:
    model = load(trained)
    free = model.stream("Is mill", **GREEDY)
    whole = "".join(free)
    third = model.tokenizer.prompt(whole)[2]
    ended = replace(model, ends=frozenset([third])).stream("Is mill", **GREEDY)
    assert whole.startswith("".join(ended))
    assert ended.stopped_by is StoppedBy.END_OF_TEXT
    assert ended.new_tokens <= 3


def test_a_stop_text_is_not_shown_even_if_it_comes_in_pieces(trained: Path) -> None:
    model = load(trained)
    whole = model.generate("Is mill", **GREEDY)
    stop = whole[5:9]
    stopped = model.stream("Is mill", stop=[stop], **GREEDY)
    assert "".join(stopped) == whole[: whole.index(stop)] == stopped.text
    assert stopped.stopped_by is StoppedBy.STOP_TEXT


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("text", ["one\nUser: two", "\nUse\nUser:", "no end\nUser", "aab"])
def test_stops_cut_like_a_search_in_the_whole_text(text: str, size: int) -> None:
    stops = StopTexts(["\nUser:", "aab"])
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    shown = "".join(stops.push(piece) for piece in pieces) + stops.finish()
    ends = [at for at in (text.find("\nUser:"), text.find("aab")) if at >= 0]
    assert shown == (text[: min(ends)] if ends else text)
    assert stops.found == bool(ends)


def test_everything_wrong_with_sampling_is_said_at_once() -> None:
    with pytest.raises(ProblemError) as caught:
        Sampling(tokens=0, temperature=-1, top_k=0, top_p=1.5, stop=[""])
    assert [problem.where for problem in caught.value.problems] == ["tokens", "temperature", "top_k", "top_p", "stop"]


TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message.role }}|>\n{{ message.content }}{{ eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


@pytest.fixture
def with_template(exported: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "with-template"
    shutil.copytree(exported, folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config |= {"chat_template": TEMPLATE, "bos_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def test_a_chat_template_is_rendered_and_encoded_as_transformers_does(with_template: Path) -> None:
    theirs: Any = AutoTokenizer.from_pretrained(with_template)
    messages = [
        {"role": "user", "content": "Is it?"},
        {"role": "assistant", "content": "水"},
        {"role": "user", "content": "And now?"},
    ]
    model = load(with_template)
    assert model.template is not None
    chat = Chat(model, Sampling(tokens=4, temperature=0))
    chat.keep("Is it?", " 水 ")
    expected = theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert chat.reply("And now?").prompt_tokens == len(expected)
    turns = [Turn("Is it?", "水"), Turn("And now?")]
    text = rendered(model.template, turns, model.special, "here")
    assert text == theirs.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert model.prompt_tokens(text, spelled=True) == expected


@pytest.mark.parametrize("template", ["{{ raise_exception('no') }}", "{% for %}", "{{ messages[9].role.upper() }}"])
def test_a_template_that_fails_is_a_problem_of_the_model(template: str) -> None:
    with pytest.raises(ProblemError, match="the chat template fails"):
        rendered(template, [Turn("a")], {}, "model")


def test_a_template_reaches_nothing_of_this_process() -> None:
    with pytest.raises(ProblemError, match="unsafe"):
        rendered("{{ messages.__class__.__mro__[1].__subclasses__() }}", [Turn("a")], {}, "model")


@pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
def test_a_damaged_file_of_a_folder_is_named(exported: Path, tmp_path: Path, file: str) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(exported, folder)
    (folder / file).write_text("{")
    with pytest.raises(ProblemError, match=rf"damaged/{file}.*not valid JSON"):
        load(folder)


def test_a_folder_that_only_its_run_can_build_is_refused(exported: Path, tmp_path: Path) -> None:
    folder = tmp_path / "own"
    shutil.copytree(exported, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "penstock_glm_moe"}))
    with pytest.raises(ProblemError, match="which only its run can build"):
        load(folder)


def test_a_folder_without_tokenizer_or_weights_is_named(exported: Path, tmp_path: Path) -> None:
    for missing in ("tokenizer.json", "model.safetensors"):
        folder = tmp_path / missing
        shutil.copytree(exported, folder)
        (folder / missing).unlink()
        with pytest.raises(ProblemError, match=missing):
            load(folder)


def test_one_stop_may_be_a_text_alone() -> None:
    assert Sampling(stop="\n") == Sampling(stop=("\n",))


def test_an_end_that_is_no_token_of_its_own_ends_nothing(exported: Path, tmp_path: Path) -> None:
    folder = tmp_path / "spelled"
    shutil.copytree(exported, folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "eos_token": "Is mill"}))
    assert load(folder).ends == load(exported).ends
