"""`penstock generate` and `penstock chat` as a user runs them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from penstock.cli.main import root, run
from penstock.generate import load
from penstock.hooks.problems import ProblemError


def penstock(*arguments: object, given: str | bytes | None = None) -> Result:
    return CliRunner().invoke(root, [str(argument) for argument in arguments], input=given)


def problem(*arguments: str | Path) -> str:
    with pytest.raises(ProblemError) as caught:
        run([str(argument) for argument in arguments])
    return str(caught.value)


def test_the_same_seed_gives_the_text_that_python_gives(trained: Path) -> None:
    printed = penstock("generate", trained, "--prompt", "Zwölf", "--tokens", 12, "--seed", 3).stdout
    assert printed == load(trained).generate("Zwölf", tokens=12, seed=3) + "\n"
    assert printed != penstock("generate", trained, "--prompt", "Zwölf", "--tokens", 12, "--seed", 4).stdout


def test_json_says_what_was_generated_and_why_it_ended(trained: Path) -> None:
    result = json.loads(penstock("generate", trained, "--prompt", "User", "--tokens", 3, "--json").stdout)
    assert result["text"] == load(trained).generate("User", tokens=3)
    assert (result["prompt"], result["new_tokens"], result["stopped_by"]) == ("User", 3, "tokens")


def test_a_prompt_from_stdin_loses_only_the_line_break_at_its_end(trained: Path) -> None:
    piped = penstock("generate", trained, "--tokens", 3, "--json", given="Is mill\n3\n\n")
    assert json.loads(piped.stdout)["prompt"] == "Is mill\n3\n"


def test_a_prompt_that_is_not_text_is_named(trained: Path) -> None:
    piped = penstock("generate", trained, given=b"ab\xff")
    assert "stdin: the prompt is not valid UTF-8 (byte 2 is 0x" in str(piped.exception)
    assert "character 1 of the prompt is half of a surrogate pair" in problem(
        "generate", trained, "--prompt", "a\udcff"
    )


@pytest.mark.parametrize("wrong", [["--tokens", "-1"], ["--tokens", "0"], ["--temperature", "-1"], ["--top-p", "0"]])
def test_a_number_out_of_range_is_a_usage_error(trained: Path, wrong: list[str]) -> None:
    result = penstock("generate", trained, "--prompt", "a", *wrong)
    assert result.exit_code == 2
    assert wrong[0] in result.output


@pytest.mark.parametrize("value", ["1e-42", "nan", "inf"])
def test_a_temperature_that_overflows_is_refused(trained: Path, value: str) -> None:
    assert "temperature: is" in problem("generate", trained, "--prompt", "a", "--temperature", value)


def test_a_text_ends_where_the_positions_end_and_says_so(trained: Path) -> None:
    result = penstock("generate", trained, "--prompt", "a", "--tokens", 500, "--json")
    printed = json.loads(result.stdout)
    assert printed["prompt_tokens"] + printed["new_tokens"] == 48
    assert printed["stopped_by"] == "positions"
    assert "stopped: the model has only 48 positions" in result.stderr


def test_a_prompt_longer_than_the_positions_is_refused(trained: Path) -> None:
    assert "but the model reads at most 48" in problem("generate", trained, "--prompt", "水" * 60)


def test_what_is_no_model_is_named(tmp_path: Path, trained: Path) -> None:
    assert "folder not found" in problem("generate", tmp_path / "nowhere", "--prompt", "a")
    assert "not a run, nor a folder with config.json" in problem("generate", tmp_path, "--prompt", "a")
    untrained = tmp_path / "untrained"
    shutil.copytree(trained, untrained)
    shutil.rmtree(untrained / "checkpoints")
    assert "the run has no checkpoint" in problem("generate", untrained, "--prompt", "a")
    alone = tmp_path / "alone"
    shutil.copytree(next((trained / "checkpoints").glob("step-*")), alone)
    assert "a checkpoint without its run" in problem("generate", alone, "--prompt", "a")


def test_a_chat_keeps_the_conversation_as_context(trained: Path) -> None:
    result = penstock("chat", trained, "--tokens", 4, "--temperature", 0, given="Is it?\n\nAnd now?\n/quit\nnever\n")
    model = load(trained)
    first = model.generate("User: Is it?\nAssistant:", tokens=4, temperature=0, stop=["\nUser:"])
    context = f"User: Is it?\nAssistant: {first.strip()}\nUser: And now?\nAssistant:"
    second = model.generate(context, tokens=4, temperature=0, stop=["\nUser:"])
    assert result.stdout == f"{first}\n{second}\n"
    assert "transcript" in result.stderr


def test_a_chat_ends_at_the_end_of_stdin(trained: Path) -> None:
    result = penstock("chat", trained, "--tokens", 2, given="Hello")
    assert (result.exit_code, result.stdout.count("\n") >= 1) == (0, True)


def test_a_long_chat_leaves_out_its_beginning_and_a_message_too_long_ends_nothing(trained: Path) -> None:
    messages = "".join(f"mill number {number}\n" for number in range(4))
    result = penstock("chat", trained, "--tokens", 4, given=f"{messages}{'水' * 60}\nshort\n")
    assert result.exit_code == 0
    assert "the first 1 turns are left out" in result.stderr
    assert "but the model reads at most 48" in result.stderr
    assert len(result.stdout.splitlines()) >= 5


def test_a_message_that_is_not_utf8_ends_nothing(trained: Path) -> None:
    result = penstock("chat", trained, "--tokens", 2, given=b"a\xff\nshort\n")
    assert result.exit_code == 0
    assert "stdin: the message is not valid UTF-8 (byte " in result.stderr
    assert len(result.stdout) > 1


def test_help_stands_alone() -> None:
    for command in ("generate", "chat"):
        text = penstock(command, "--help").output
        assert "RUN|ARTIFACT|FOLDER" in text
        assert "--temperature" in text
