"""`penstock evaluate` of a folder of transformers; transformers itself is the oracle."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from penstock.conformance.full_disk import file_size_limit
from penstock.data_prep.tokenizer import tokenizer_files, train_tokenizer
from penstock.evaluate.published import with_published
from penstock.hooks.problems import ProblemError
from penstock.run.records.evaluation import Evaluation, TaskFigures

transformers = pytest.importorskip("transformers")

TEXT = Path(json.__file__).read_text(encoding="utf-8")
WORDS = TEXT.split()
PASSAGES = [" ".join(WORDS[start : start + 5]) for start in range(0, 300, 5)]
TYPES = ["gpt2", "llama"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A gpt2, which an architecture of ours reads, and a llama, which only transformers does."""
    root = tmp_path_factory.mktemp("folders")
    tokenizer = train_tokenizer([TEXT], vocabulary_size=400)
    rows, ends = tokenizer.get_vocab_size(), {"bos_token_id": 0, "eos_token_id": 0}
    torch.manual_seed(0)
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64}
    dropout = dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), 0.0)
    gpt2 = transformers.GPT2Config(vocab_size=rows, initializer_range=0.08, **sizes, **dropout, **ends)
    llama = transformers.LlamaConfig(
        vocab_size=rows,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        initializer_range=0.08,
        **ends,
    )
    for config in (gpt2, llama):
        folder = root / config.model_type
        transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
        for name, content in tokenizer_files(tokenizer.to_str().encode()).items():
            (folder / name).write_bytes(content)
    return {kind: root / kind for kind in TYPES}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "data" / "lambada").mkdir(parents=True)
    rows = "".join(json.dumps({"text": text}) + "\n" for text in PASSAGES)
    (tmp_path / "data" / "lambada" / "lambada_test.jsonl").write_text(rows)
    return tmp_path / "data"


def perplexity(folder: Path) -> float:
    """Of the last words, one passage at a time."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).double().eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    nats = 0.0
    for passage in PASSAGES:
        before = len(tokenizer(passage.rpartition(" ")[0])["input_ids"])
        tokens = torch.tensor([tokenizer(passage)["input_ids"]])
        with torch.no_grad():
            log_1SV = model(tokens).logits.log_softmax(-1)
        nats -= sum(float(log_1SV[0, at - 1, tokens[0, at]]) for at in range(before, tokens.shape[1]))
    return float(torch.tensor(nats / len(PASSAGES), dtype=torch.float64).exp())


def figure(result: Any, name: str = "lambada.perplexity@openai-last-word-of-60-passages") -> float:
    return result["tasks"]["lambada"]["metrics"][name]


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize(("dtype", "tolerance"), [("fp64", 1e-9), ("fp32", 1e-5)])
def test_figures_are_those_of_transformers(command, folders, data, kind, dtype, tolerance) -> None:
    result = command("evaluate", folders[kind], "--task", "lambada", "--data", data, "--dtype", dtype)
    assert figure(result) == pytest.approx(perplexity(folders[kind]), rel=tolerance)
    found = result["tasks"]["lambada"]["provenance"]
    assert (found["dtype"], found["sequence_length"]) == (dtype, 64)
    assert found["weights"].keys() == {"config.json", "model.safetensors"}


def test_answers_are_kept_where_one_says_and_the_result_too(command, folders, data, tmp_path, read_json) -> None:
    options = ("--task", "lambada", "--data", data, "--answers", tmp_path / "answers", "--out", tmp_path / "out.json")
    first = command("evaluate", folders["gpt2"], *options)
    assert read_json(tmp_path / "out.json") == first
    (kept,) = (tmp_path / "answers").iterdir()
    before = kept.read_bytes()
    assert figure(command("evaluate", folders["gpt2"], *options)) == figure(first)
    assert kept.read_bytes() == before
    command("evaluate", folders["gpt2"], *options, "--dtype", "bf16")  # other answers
    assert len(list((tmp_path / "answers").iterdir())) == 2


def _changed(folder: Path, to: Path, **fields: Any) -> Path:
    shutil.copytree(folder, to)
    config = json.loads((to / "config.json").read_text())
    (to / "config.json").write_text(json.dumps({**config, **fields}))
    return to


def test_what_is_wrong_with_a_folder_is_said_before_weights_are_read(command, folders, data, tmp_path) -> None:
    options = ("--task", "lambada", "--data", data)
    weights = (tmp_path / "damaged" / "model.safetensors",)
    folder = _changed(folders["gpt2"], tmp_path / "damaged")
    weights[0].write_bytes(b"damaged")
    for wrong, options_now in {
        "name them with --task": (),
        "reads at most 64": (*options, "--sequence-length", 65),
        "lambada_test.jsonl": ("--task", "lambada", "--data", tmp_path),
        "unknown task": ("--task", "lambda"),
    }.items():
        with pytest.raises(ProblemError, match=wrong):
            command("evaluate", folder, *options_now)
    for wrong, fields in {
        "does not predict the next token": {"architectures": ["GPT2ForSequenceClassification"]},
        "has only 300 embeddings": {"vocab_size": 300},
        "reads the type 'gpt3'|no model type|not found": {"model_type": "gpt3"},
        "model_type": {"model_type": None},
    }.items():
        other = _changed(folders["gpt2"], tmp_path / str(len(list(tmp_path.iterdir()))), **fields)
        with pytest.raises(ProblemError, match=wrong):
            command("evaluate", other, *options)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ProblemError, match="no weights"):
        command("evaluate", folder, *options)


def test_a_checkpoint_is_not_taken_for_a_model(command, trained, data) -> None:
    checkpoint = next((trained / "checkpoints").glob("step-*"))
    with pytest.raises(ProblemError, match=r"a checkpoint of a run.*give the run"):
        command("evaluate", checkpoint, "--task", "lambada", "--data", data)


def test_a_comparison_takes_no_options_of_one_model(command, folders) -> None:
    with pytest.raises(ProblemError, match="--compare does not take --dtype"):
        command("evaluate", folders["gpt2"], folders["gpt2"], "--compare", "--dtype", "fp64")


def test_samples_are_every_prompt_answer_and_score(command, folders, data, tmp_path) -> None:
    file = tmp_path / "samples.jsonl"
    result = command("evaluate", folders["gpt2"], "--task", "lambada", "--data", data, "--samples", file)
    first, *items = map(json.loads, file.read_text().splitlines())
    assert first == {"evaluation": result}
    assert [item["answers"][0]["prompt"] + item["answers"][0]["asked"] for item in items] == PASSAGES
    nats = torch.tensor([item["scores"][0]["nll"] for item in items], dtype=torch.float64)
    assert figure(result) == pytest.approx(float(nats.mean().exp()), rel=1e-12)
    worst = result["tasks"]["lambada"]["worst"]
    assert [each["scores"]["nll"] for each in worst] == sorted(nats.tolist(), reverse=True)[:10]


def test_against_itself_nothing_differs_and_pairs_are_closer_than_two_estimates(command, folders, data, tmp_path):
    options = ("--task", "lambada", "--data", data)
    kept = ("--samples", tmp_path / "fp32.jsonl", "--out", tmp_path / "fp32.json")
    command("evaluate", folders["gpt2"], *options, *kept)
    same = command("evaluate", folders["gpt2"], *options, "--against", tmp_path / "fp32.jsonl")["against"]["changes"]
    assert [each["difference"] for each in same] == [0, 0]
    found = {
        name: command("evaluate", folders["gpt2"], *options, "--dtype", "bf16", "--against", tmp_path / name)["against"]
        for name in ("fp32.jsonl", "fp32.json")
    }
    (paired,), (alone,) = (
        [each for each in one["changes"] if "perplexity" in each["metric"]] for one in found.values()
    )
    assert (paired["paired"], alone["paired"]) == (True, False)
    assert paired["difference"] == alone["difference"] == paired["now"] - paired["stored"] != 0
    width = {name: each["interval"]["high"] - each["interval"]["low"] for name, each in (("p", paired), ("a", alone))}
    assert 0 < width["p"] < width["a"] / 10


def test_figures_of_other_data_or_prompts_are_refused_by_name_before_weights_are_read(
    command, folders, data, tmp_path
) -> None:
    stored, options = tmp_path / "stored.json", ("--task", "lambada", "--data", data)
    command("evaluate", folders["gpt2"], *options, "--out", stored)
    broken = _changed(folders["gpt2"], tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"damaged")
    text = tmp_path / "text.txt"
    text.write_text(TEXT)
    other = f"{{use: text, paths: [{text}]}}"
    with pytest.raises(ProblemError, match=r"stored\.json: it has no figures of text, only of lambada"):
        command("evaluate", broken, "--task", other, "--against", stored)
    command("evaluate", folders["gpt2"], "--task", other, "--out", tmp_path / "text.json")
    with pytest.raises(ProblemError, match="'text' are of other prompts: they were read 64 tokens at a time"):
        command("evaluate", broken, "--task", other, "--sequence-length", 32, "--against", tmp_path / "text.json")
    file = data / "lambada" / "lambada_test.jsonl"
    file.write_text(file.read_text().replace("JavaScript", "river"))
    with pytest.raises(ProblemError) as caught:
        command("evaluate", broken, *options, "--against", stored)
    assert [problem.code for problem in caught.value.problems] == ["not-comparable"]
    assert "figures of 'lambada' are of other data" in str(caught.value)
    with pytest.raises(ProblemError, match="not an evaluation"):
        command("evaluate", broken, *options, "--against", broken / "config.json")
    with pytest.raises(ProblemError, match="folder of the file was not found"):
        command("evaluate", broken, *options, "--samples", tmp_path / "nowhere" / "samples.jsonl")


def test_what_was_measured_is_printed_where_it_cannot_be_written(command, folders, data, tmp_path, capsys) -> None:
    options = ("evaluate", folders["gpt2"], "--task", "lambada", "--data", data)
    os.mkfifo(tmp_path / "pipe")
    for name, place in (("--out", tmp_path / "pipe"), ("--samples", "/dev/stdout"), ("--out", tmp_path / ("x" * 300))):
        with pytest.raises(ProblemError) as caught:
            command(*options, name, place)
        assert [problem.where for problem in caught.value.problems] == [str(place)]
    capsys.readouterr()
    for option in ("--out", "--samples"):
        with file_size_limit(4_000), pytest.raises(ProblemError, match="cannot be written") as caught:
            command(*options, option, tmp_path / "figures")
        assert caught.value.exit_code == 1
        assert "lambada.accuracy@" in capsys.readouterr().out
    assert not (tmp_path / "figures").exists()


def test_of_a_folder_of_runs_the_newest_evaluation_is_compared_with(command, folders, data, tmp_path, caplog) -> None:
    options = ("evaluate", folders["gpt2"], "--task", "lambada", "--data", data)
    for age, name in enumerate(("new", "old")):
        (tmp_path / name).mkdir()
        command(*options, "--out", tmp_path / name / "evaluation.json")
        os.utime(tmp_path / name / "evaluation.json", (1e9 - age, 1e9 - age))
    (tmp_path / "empty").mkdir()
    found = command(*options, "--against", tmp_path, "--json")
    assert found["against"]["file"] == str(tmp_path / "new" / "evaluation.json")
    with pytest.raises(ProblemError, match=r"no evaluation\.json in the folder, nor in the runs in it"):
        command(*options, "--against", tmp_path / "empty")


def test_a_question_shows_scores_and_none_of_the_notes_of_its_task(command, folders, data, tmp_path) -> None:
    found = command("evaluate", folders["gpt2"], "--task", "lambada", "--data", data, "--json")
    assert {frozenset(each["scores"]) for each in found["tasks"]["lambada"]["worst"]} == {frozenset({"right", "nll"})}


def test_a_damaged_line_of_samples_is_named(command, folders, data, tmp_path) -> None:
    file, options = tmp_path / "samples.jsonl", ("--task", "lambada", "--data", data)
    command("evaluate", folders["gpt2"], *options, "--samples", file)
    file.write_text(file.read_text()[:-20])
    with pytest.raises(ProblemError, match=rf"samples\.jsonl:{len(PASSAGES) + 1}: not a line of --samples"):
        command("evaluate", folders["gpt2"], *options, "--against", file)


def test_questions_go_through_a_template_and_the_record_names_it(command, folders, data, tmp_path) -> None:
    template = tmp_path / "template.jinja"
    template.write_text("{% for m in messages %}<|user|>{{ m.content }}{% endfor %}<|assistant|>")
    options = ("--task", "{use: quality, prompts: [Gate], samples: 1, tokens: 4, temperature: 0}")
    result = command("evaluate", folders["gpt2"], *options, "--chat-template", template)
    assert len(result["tasks"]["quality"]["provenance"]["chat_template"]) == 64
    assert all(name.endswith("-chat") for name in result["tasks"]["quality"]["metrics"])
    with pytest.raises(ProblemError, match="asks nothing through a chat template"):
        command("evaluate", folders["gpt2"], "--task", "lambada", "--data", data, "--chat-template", template)
    with pytest.raises(ProblemError, match="template"):
        command("evaluate", folders["gpt2"], *options, "--chat-template", "own")
    with pytest.raises(ProblemError, match="only a chat template has turns"):
        command("evaluate", folders["gpt2"], *options, "--shots-in-one-turn")


def test_published_figures_stand_beside_ours() -> None:
    names = ("lambada.accuracy@openai-last-word", "wikitext2.word_perplexity@lm-eval-1024")
    tasks = {name: TaskFigures({name: value}) for name, value in zip(names, (0.32557, 38.0), strict=True)}
    rows = {row.metric: row for row in with_published("gpt2", Evaluation(tasks=tasks)).published or []}
    accuracy, words = (rows[name] for name in names)
    assert (accuracy.published, accuracy.ours, accuracy.agrees) == (0.3256, 0.32557, True)
    assert (words.published, words.difference, words.agrees) == (37.37, pytest.approx(0.63), False)
    assert rows["lambada.perplexity@openai-last-word"].ours is None


def test_published_figures_need_weights_and_decide_tasks_and_length(command, folders, data, tmp_path) -> None:
    options = ("--published", "gpt2", "--data", data)
    for wrong, path, more in (
        ("the weights of gpt2 are not here", tmp_path / "nowhere", ()),
        ("1024 tokens, but the model reads at most 64", folders["gpt2"], ()),
        ("decide which tasks run", folders["gpt2"], ("--task", "lambada")),
    ):
        with pytest.raises(ProblemError, match=wrong):
            command("evaluate", path, *options, *more)
    with pytest.raises(ProblemError, match="no figures of 'gpt-2' are known, did you mean 'gpt2'"):
        command("evaluate", folders["gpt2"], "--published", "gpt-2", "--data", data)


def test_two_folders_are_compared_on_text_and_questions(command, folders, data, tmp_path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(TEXT[:4000])
    one, other = (_changed(folders[kind], tmp_path / kind) for kind in TYPES)
    tasks = ("--task", f"{{use: text, paths: [{text}]}}", "--task", "lambada", "--data", data)
    found = command("evaluate", one, other, "--compare", *tasks)
    assert found["kl_divergence"]["value"] > 0
    for side, folder, name in ((found["baseline"], one, "baseline"), (found["compressed"], other, "compressed")):
        alone = command("evaluate", folder, *tasks)["tasks"]
        (bits,) = (value for metric, value in alone["text"]["metrics"].items() if "bits_per_byte" in metric)
        assert found["bits_per_byte"][name] == pytest.approx(bits, rel=1e-6)
        compared = found["tasks"]["lambada"]["metrics"]
        assert {metric: each[name] for metric, each in compared.items()} == pytest.approx(
            alone["lambada"]["metrics"], rel=1e-6
        )
        assert side["bytes"] == (folder / "model.safetensors").stat().st_size
    assert json.loads((tmp_path / "llama.comparison.json").read_text()) == found
    with pytest.raises(ProblemError, match="has no held-out documents, name what to compare on with --task"):
        command("evaluate", one, other, "--compare")


def test_samples_and_worst_questions_say_which_choice_is_right(command, folders, tmp_path) -> None:
    rows = [
        {"question": f"Which gate, {number}?", "choices": ["north", "south"], "answer": number % 2}
        for number in range(8)
    ]
    (tmp_path / "gates.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    file = tmp_path / "samples.jsonl"
    task = f"{{use: choices, path: {tmp_path / 'gates.jsonl'}}}"
    result = command("evaluate", folders["gpt2"], "--task", task, "--samples", file)
    told = [json.loads(line)["gold"] for line in file.read_text().splitlines()[1:]]
    assert told == ["north", "south"] * 4
    assert all(each["gold"] in told for each in result["tasks"]["choices"]["worst"])
