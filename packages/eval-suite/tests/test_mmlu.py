"""MMLU: its prompts letter by letter, and the layouts in which it is published."""

import csv
import json
import lzma
import os
from pathlib import Path

import pytest

from penstock.eval_suite.mmlu import Mmlu
from penstock.eval_suite.runner import prepare, run_task
from penstock.hooks import ProblemError
from penstock.hooks.contracts import TaskContext

SUBJECTS = ("abstract_algebra", "high_school_us_history")


def rows_of(split: str) -> list[dict]:
    """Five examples and three questions of each subject; one has white space around it, one a comma and quotes."""
    numbers = range(5) if split == "dev" else range(5, 8)
    return [
        {
            "subject": subject,
            "question": f' What, in "{subject}", is {number}? ',
            "choices": [str(number + step) for step in range(4)],
            "answer": number % 4,
        }
        for subject in SUBJECTS
        for number in numbers
    ]


def as_lines(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for split in ("dev", "test"):
        (folder / f"mmlu_{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows_of(split)))
    return folder


def as_archive(folder: Path) -> Path:
    for split in ("dev", "test"):
        (folder / split).mkdir(parents=True)
        for subject in SUBJECTS:
            with (folder / split / f"{subject}_{split}.csv").open("w", newline="") as file:
                csv.writer(file).writerows(
                    [row["question"], *row["choices"], "ABCD"[row["answer"]]]
                    for row in rows_of(split)
                    if row["subject"] == subject
                )
    return folder


def as_clone(folder: Path) -> Path:
    """As cais/mmlu: the answer is a class label, and `all` has the rows of all subjects."""
    datasets = pytest.importorskip("datasets", reason="the extra 'hf' is not installed")
    features = datasets.Features(
        {
            "question": datasets.Value("string"),
            "subject": datasets.Value("string"),
            "choices": datasets.List(datasets.Value("string")),
            "answer": datasets.ClassLabel(names=list("ABCD")),
        }
    )
    (folder / "all").mkdir(parents=True)
    for split in ("dev", "test"):
        rows = datasets.Dataset.from_list(rows_of(split), features=features)
        rows.to_parquet(folder / "all" / f"{split}-00000-of-00001.parquet")
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: all\n  data_files:\n"
        "  - split: test\n    path: all/test-*\n  - split: dev\n    path: all/dev-*\n---\n"
    )
    return folder


def context(tokenizer, length: int = 1024, **changes) -> TaskContext:
    return TaskContext(tokenizer, None, length, **changes)


def asked(task, given):
    return [(item.id, item.group, item.document, item.gold) for item in task.items(given)]


def test_the_prompt_letter_by_letter(tokenizer, tmp_path):
    """As `mmlu` of lm-evaluation-harness: the question without white space around it, the choices as they are."""
    given = context(tokenizer, shots=1)
    task = Mmlu(as_lines(tmp_path))
    first = next(iter(task.items(given)))
    assert first.document.text == (
        "The following are multiple choice questions (with answers) about abstract algebra.\n\n"
        'What, in "abstract_algebra", is 0?\nA. 0\nB. 1\nC. 2\nD. 3\nAnswer: A\n\n'
        'What, in "abstract_algebra", is 5?\nA. 5\nB. 6\nC. 7\nD. 8\nAnswer:'
    )
    requests = task.requests(first, given)
    assert [tokenizer.decode(request.continuation) for request in requests] == [" A", " B", " C", " D"]
    assert {tokenizer.decode(request.context) for request in requests} == {first.document.text}


def test_texts_are_asked_for_as_in_its_continuation(tokenizer, tmp_path):
    first = next(iter(Mmlu(as_lines(tmp_path), answers="texts").items(context(tokenizer, shots=1))))
    assert first.document.text == (
        "The following are questions (with answers) about abstract algebra.\n\n"
        'Question: What, in "abstract_algebra", is 0?\nAnswer: 0\n\n'
        'Question: What, in "abstract_algebra", is 5?\nAnswer:'
    )
    assert first.document.answers == ("5", "6", "7", "8")


@pytest.mark.parametrize(("folder", "answers"), [("default", "letters"), ("continuation", "texts")])
@pytest.mark.parametrize("shots", [0, 5])
def test_lm_evaluation_harness_asks_the_same(tokenizer, tmp_path, monkeypatch, folder, answers, shots):
    """Its own task files build the prompts, from the same rows."""
    harness = pytest.importorskip("lm_eval", reason="lm-eval is not installed")
    tasks = pytest.importorskip("lm_eval.tasks")
    monkeypatch.setattr(pytest.importorskip("datasets").config, "HF_DATASETS_CACHE", tmp_path / "cache")
    lines = as_lines(tmp_path / "lines")
    expected = {}
    for subject in SUBJECTS:
        for split in ("dev", "test"):
            rows = [json.dumps(row) + "\n" for row in rows_of(split) if row["subject"] == subject]
            (tmp_path / f"{subject}_{split}.jsonl").write_text("".join(rows))
        file = Path(harness.__file__).parent / "tasks" / "mmlu" / folder / f"mmlu_{subject}.yaml"
        (tmp_path / f"{subject}.yaml").write_text(
            f"include: {file}\ntask: our_{subject}\ntag: ours\ndataset_path: json\ndataset_name: null\n"
            f"dataset_kwargs:\n  data_files:\n    dev: {tmp_path}/{subject}_dev.jsonl\n"
            f"    test: {tmp_path}/{subject}_test.jsonl\n"
        )
    manager = tasks.TaskManager(include_defaults=False, include_path=str(tmp_path))
    for subject in SUBJECTS:
        task = tasks.get_task_dict([f"our_{subject}"], manager)[f"our_{subject}"]
        task.set_config("num_fewshot", shots)
        task.build_all_requests(limit=None, rank=0, world_size=1)
        for request in task.instances:
            expected.setdefault(f"{subject}/{request.doc_id + 1}", []).append(request.args)
    found = {
        identity: [(prompt.text, f" {answer}") for answer in prompt.answers]
        for identity, _, prompt, _ in asked(Mmlu(lines, answers=answers), context(tokenizer, shots=shots))
    }
    assert found == expected


def test_every_layout_gives_the_same_questions(tokenizer, tmp_path):
    given = context(tokenizer)
    expected = asked(Mmlu(as_lines(tmp_path / "lines")), given)
    assert len(expected) == 6
    assert asked(Mmlu(as_archive(tmp_path / "archive")), given) == expected
    assert asked(Mmlu(as_clone(tmp_path / "clone")), given) == expected
    (tmp_path / "data").mkdir()
    as_lines(tmp_path / "data" / "mmlu")
    assert asked(Mmlu(), context(tokenizer, data=tmp_path / "data")) == expected


def test_subjects_take_turns_so_that_a_limit_takes_as_many_of_each(tokenizer, tmp_path):
    task = Mmlu(as_lines(tmp_path))
    ids = [identity for identity, *_ in asked(task, context(tokenizer))]
    assert ids == [f"{subject}/{number}" for number in (1, 2, 3) for subject in SUBJECTS]
    limited = prepare(task, context(tokenizer, limit=4))
    assert [each.item.group for each in limited.asked] == [*SUBJECTS, *SUBJECTS]


def test_the_examples_are_those_of_the_subject(tokenizer, tmp_path):
    for _, subject, prompt, _ in asked(Mmlu(as_lines(tmp_path)), context(tokenizer)):
        other = SUBJECTS[1 - SUBJECTS.index(subject)]
        assert prompt.text.count(f'"{subject}"') == 6
        assert f'"{other}"' not in prompt.text


def test_figures_of_a_uniform_model_by_hand(uniform_model, tokenizer, tmp_path):
    """All letters are equally likely, so it chooses A, which is right where the number is a multiple of 4."""
    folder = as_lines(tmp_path)
    assert run_task(Mmlu(folder), uniform_model, context(tokenizer)).metrics == {
        "mmlu.accuracy@of-6-questions-5-shot": 0.0,
        "mmlu.choice_probability@of-6-questions-5-shot": pytest.approx(0.25),
    }
    zero = run_task(Mmlu(folder, answers="texts"), uniform_model, context(tokenizer, shots=0)).metrics
    assert list(zero) == [
        "mmlu.accuracy@texts-of-6-questions-0-shot",
        "mmlu.choice_probability@texts-of-6-questions-0-shot",
        "mmlu.accuracy_normalised@characters-texts-of-6-questions-0-shot",
        "mmlu.accuracy_normalised@bytes-texts-of-6-questions-0-shot",
    ]


def test_examples_that_do_not_fit_are_refused_or_fewer_are_taken(uniform_model, tokenizer, tmp_path):
    task = Mmlu(as_lines(tmp_path))
    with pytest.raises(
        ProblemError, match=r"with 5 examples it has \d+ tokens, but the model reads 300, use --shots fit"
    ):
        prepare(task, context(tokenizer, 300))
    fitted = run_task(task, uniform_model, context(tokenizer, 300, fit_shots=True)).metrics
    assert next(iter(fitted)) == "mmlu.accuracy@of-6-questions-1-shot"


def test_without_examples_the_dev_split_is_not_needed(tokenizer, tmp_path):
    (as_lines(tmp_path) / "mmlu_dev.jsonl").unlink()
    assert len(prepare(Mmlu(tmp_path), context(tokenizer, shots=0)).asked) == 6


def test_missing_parts_are_named(tokenizer, tmp_path):
    folder = as_lines(tmp_path / "mmlu")
    with pytest.raises(ProblemError, match=r"the dev split of .*mmlu: 6 examples .* there are 5"):
        prepare(Mmlu(folder), context(tokenizer, shots=6))
    (folder / "mmlu_dev.jsonl").write_text(json.dumps(rows_of("dev")[0]) + "\n")
    with pytest.raises(ProblemError, match=r"subject '\w+' of the dev split of .*mmlu: 5 examples .* there are 0"):
        prepare(Mmlu(folder), context(tokenizer))
    (folder / "mmlu_dev.jsonl").write_text("")
    with pytest.raises(ProblemError, match=r"mmlu_dev\.jsonl: has no rows"):
        prepare(Mmlu(folder), context(tokenizer))
    with pytest.raises(ProblemError, match="not a folder, give the folder of mmlu_test"):
        prepare(Mmlu(folder / "mmlu_dev.jsonl"), context(tokenizer))
    (folder / "mmlu_dev.jsonl").unlink()
    with pytest.raises(ProblemError, match=r"mmlu: the folder has no mmlu_dev\.jsonl, plain or compressed"):
        prepare(Mmlu(folder), context(tokenizer))
    with pytest.raises(ProblemError, match="absent: folder not found, give the folder of mmlu_test"):
        prepare(Mmlu(tmp_path / "absent"), context(tokenizer))


def test_a_bad_line_of_the_archive_is_named(tokenizer, tmp_path):
    folder = as_archive(tmp_path / "archive")
    path = folder / "test" / f"{SUBJECTS[0]}_test.csv"
    for line, message in (
        ("a,b,c,A\n", "4 cells, not a question"),
        ("q,1,2,3,4,E\n", "the answer 'E' .* is not one of the 4"),
    ):
        path.write_text(f"q,1,2,3,4,A\n{line}\n")
        with pytest.raises(ProblemError, match=rf"{path.name}:2: {message}"):
            prepare(Mmlu(folder), context(tokenizer))
    for file in (folder / "test").iterdir():
        file.write_text("")
    with pytest.raises(ProblemError, match="test: has no rows"):
        prepare(Mmlu(folder), context(tokenizer))


def test_an_unreachable_hub_says_to_give_a_path(tokenizer, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets", reason="the extra 'hf' is not installed")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    with pytest.raises(ProblemError, match=r"set `path` to a local mmlu_test\.jsonl"):
        prepare(Mmlu(), context(tokenizer))


def test_mmlu_itself_has_14042_questions_of_57_subjects(uniform_model, tokenizer):
    if "PENSTOCK_DATA" not in os.environ:
        pytest.skip("PENSTOCK_DATA is not set: no MMLU here")
    data = Path(os.environ["PENSTOCK_DATA"])
    if not (data / "mmlu").is_dir():
        pytest.skip(f"{data / 'mmlu'} is absent")
    given = context(tokenizer, 20_000, data=data, limit=57)
    items = list(Mmlu().items(given))
    rows = [json.loads(line) for line in lzma.decompress((data / "mmlu/mmlu_test.jsonl.xz").read_bytes()).splitlines()]
    assert len(items) == len(rows) == 14_042
    assert len({item.group for item in items[:57]}) == 57
    assert sum(item.gold[0] for item in items) == sum(row["answer"] for row in rows)
    metrics = run_task(Mmlu(), uniform_model, TaskContext(tokenizer, None, 600, shots=0, data=data, limit=57)).metrics
    assert next(iter(metrics)) == "mmlu.accuracy@0-shot-first-57"


class Tagged:
    """A chat template by hand."""

    sha256, shots_as_turns = "of the template", True

    def __init__(self, tokenizer) -> None:
        self.encode = tokenizer.encode

    def write(self, messages) -> str:
        return "".join(f"[{each.role}]{each.content}" for each in messages) + "[assistant]"


def test_through_a_chat_template_the_answer_has_no_space_before_it(tokenizer, tmp_path, uniform_model):
    """As lm-evaluation-harness: the description is the system's message, an example a turn of each side."""
    given = context(tokenizer, shots=1, chat=Tagged(tokenizer))
    task = Mmlu(as_lines(tmp_path))
    first = next(iter(task.items(given)))
    assert first.document.text == (
        "[system]The following are multiple choice questions (with answers) about abstract algebra.\n\n"
        '[user]What, in "abstract_algebra", is 0?\nA. 0\nB. 1\nC. 2\nD. 3\nAnswer:[assistant]A'
        '[user]What, in "abstract_algebra", is 5?\nA. 5\nB. 6\nC. 7\nD. 8\nAnswer:[assistant]'
    )
    asked = task.requests(first, given)
    assert [tokenizer.decode(each.continuation) for each in asked] == ["A", "B", "C", "D"]
    assert next(iter(run_task(task, uniform_model, given).metrics)).endswith("1-shot-chat")
