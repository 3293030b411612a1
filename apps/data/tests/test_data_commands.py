from __future__ import annotations

import json
from pathlib import Path

import pytest

from penstock.cli.main import run
from penstock.data.picture import picture_of
from penstock.data_prep.cleaning.clean import read_cleaned
from penstock.data_prep.cleaning.cleaned import CleanedCorpus
from penstock.hooks.problems import ExitCode, ProblemError

PLUGIN = """
from penstock.hooks import Component, hookimpl
from penstock.hooks.contracts import Decision


class Short:
    def judge(self, document):
        words = len(document.text.split())
        return Decision("short", f"{words} words") if words < 3 else None


@hookimpl
def cleaners():
    return [Component("cleaner", "short", f"{__name__}:Short", "Removes short texts")]
"""
CLEAN = """
corpus: {use: jsonl, paths: [rows.jsonl], url: url}
stages: [short]
launcher: {use: local, workers: 2}
shard_mb: 0.0001
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "short_texts.py").write_text(PLUGIN)
    (tmp_path / "clean.yaml").write_text(CLEAN)
    rows = [{"text": "water " * (1 + number % 4), "url": f"http://a.b/{number}"} for number in range(40)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def data(*arguments: object) -> dict:
    return run(["--plugin", "short_texts.py", "data", *map(str, arguments)])


def test_a_corpus_is_cleaned_by_workers_and_again_only_read(place, capsys):
    result = data("clean", "clean.yaml", "--out", "out")
    assert (result["documents"], result["left"]) == (40, 20)
    assert result["stages"][0]["did"]["rules"] == {"short": 20}
    assert "20 of 40 documents are left (50.0%)" in capsys.readouterr().out
    assert len(list(place.glob("out/documents/*.jsonl"))) > 4
    assert data("clean", "clean.yaml", "--out", "out", "--json") == result
    assert len(list(CleanedCorpus("out").documents())) == 20


def test_a_dry_run_says_which_stages_are_done_and_writes_nothing(place):
    planned = data("clean", "clean.yaml", "--out", "out", "--dry-run")
    assert [stage["did"] for stage in planned["stages"]] == [None]
    assert not (place / "out").exists()
    done = data("clean", "clean.yaml", "--out", "out")
    assert data("clean", "clean.yaml", "--out", "out", "--dry-run")["stages"] == done["stages"]


def test_documents_are_taken_back(place):
    data("clean", "clean.yaml", "--out", "out")
    assert data("undo", "out", 4, 0)["back"] == [0, 4]
    assert len(list(CleanedCorpus("out").documents())) == 22
    with pytest.raises(ProblemError, match="no stage has removed or changed document 3"):
        data("undo", "out", 3)


@pytest.mark.parametrize(
    ("override", "said"),
    [("stages=[long]", "long"), ("stages=[]", "stages"), ("corpus.paths=[nowhere.jsonl]", "not found")],
)
def test_what_is_wrong_is_said_before_anything_is_written(place, override, said):
    with pytest.raises(ProblemError, match=said) as raised:
        data("clean", "clean.yaml", override, "--out", "out")
    assert raised.value.exit_code == ExitCode.USAGE
    assert not (place / "out").exists()


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_settings_that_only_a_stage_knows_are_refused_at_their_lines(place, dry):
    (place / "texts.jsonl").write_text('{"text": "When did the mill stand still?"}')
    (place / "clean.yaml").write_text(
        "corpus: {use: jsonl, paths: [rows.jsonl]}\nstages:\n  - short\n  - use: language\n    languages: [xx]\n"
        "  - {use: contrastive, model: rows.jsonl}\n"
        "  - use: decontaminate\n    paths: [texts.jsonl]\n    words: 5\n    shortest: 8\n"
        "  - {use: near, threshold: 0.01}\n"
    )
    with pytest.raises(ProblemError) as raised:
        data("clean", "clean.yaml", "--out", "out", *dry)
    language, model, texts, near = (str(problem) for problem in raised.value.problems)
    assert "clean.yaml:5:5: stages.1.languages: py3langid does not know the language 'xx'" in language
    assert "clean.yaml:6:5: stages.2: rows.jsonl: is no classifier" in model
    assert "clean.yaml:10:5: stages.3.shortest: 8 words at least, 5 at most" in texts
    assert "clean.yaml:11:" in near
    assert raised.value.exit_code == ExitCode.USAGE
    assert not (place / "out").exists()


def test_documents_without_a_url_are_counted_and_a_corpus_without_any_is_warned_of(place, capsys):
    data("clean", "clean.yaml", "corpus.url=nosuch", "stages=[urls]", "--out", "out")
    told = capsys.readouterr()
    assert "40 documents without a URL that can be read" in told.out
    assert "found no URL that can be read in any document" in told.err
    assert "40 documents without a URL" in Path(data("report", "out")["report"]).read_text()
    (place / "rows.jsonl").write_text('{"text": "water", "url": "http://a.b"}\n{"text": "fire"}\n')
    result = data("clean", "clean.yaml", "stages=[urls]", "--out", "other")
    assert list(result["stages"][0]["did"]["told"].values()) == [1]
    assert "found no URL" not in capsys.readouterr().err


def test_a_stage_that_fails_in_a_worker_names_its_document_and_its_fix(place):
    (place / "rows.jsonl").write_text('{"text": "water", "url": "http://a.b"}\n{"text": "fire"}\n')
    with pytest.raises(ProblemError) as raised:
        data("clean", "clean.yaml", "stages=[{use: urls, missing: refuse}]", "--out", "out")
    (problem,) = raised.value.problems
    assert (problem.code, problem.what) == ("missing-url", "the document has no URL")
    assert problem.where.startswith("01-urls-")
    assert problem.where.endswith("/00000: rows.jsonl:2")
    assert problem.fix == "name the field of the URL in the corpus, or set `missing` to keep or remove"
    assert raised.value.exit_code == ExitCode.FAILED


def test_memory_of_all_processes_decides_how_many_work_and_too_little_is_refused(place):
    result = data("clean", "clean.yaml", "--out", "out", "--max-ram", "500MB")
    assert result["left"] == 20
    assert [path.name for path in place.glob("out/.logs/*")] == ["worker-0.log"]
    with pytest.raises(ProblemError, match=r"max_ram: a worker with a shard of 16 MB .* needs at least 592 MB"):
        data("clean", "clean.yaml", "shard_mb=16", "--out", "other", "--max-ram", "591MB")
    assert not (place / "other").exists()
    rows = [{"text": f"the same {number % 3} words come again and again in each"} for number in range(9)]
    (place / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    near = "stages=[{use: near, size: 2, max_ram: 300MB}]"
    assert data("clean", "clean.yaml", near, "--out", "near", "--max-ram", "500MB")["left"] == 3


FIRST = """
import numpy as np

from penstock.hooks import Component, hookimpl
from penstock.hooks.contracts import Decision


class First:
    def sketch(self, documents):
        return np.array([len(document.text) for document in documents], dtype=np.int64)

    def compare(self, sketches, read):
        seen = {}
        for place, length in enumerate(np.concatenate(sketches).tolist()):
            if seen.setdefault(length, place) != place:
                yield place, Decision("first/length", f"{length} again", read(seen[length]).source)


@hookimpl
def cleaners():
    return [Component("cleaner", "first", f"{__name__}:First", "Keeps one of each length")]
"""


def test_a_report_shows_stages_rules_sources_and_pairs(place):
    (place / "first_texts.py").write_text(FIRST)
    run(
        [
            "--plugin",
            "short_texts.py",
            "--plugin",
            "first_texts.py",
            "data",
            "clean",
            "clean.yaml",
            "stages=[short, first]",
            "--out",
            "out",
        ]
    )
    page = Path(data("report", "out")["report"]).read_text()
    for shown in ("2 of 40 documents are left", "first/length", "rows.jsonl", "24 again", "8 to 15", "rows.jsonl:3"):
        assert shown in page, shown
    data("undo", "out", 0)
    stages = ["--plugin", "first_texts.py", "data", "clean", "clean.yaml", "stages=[short, first]", "--out", "out"]
    for dry in ([], ["--dry-run"]):
        again = run(["--plugin", "short_texts.py", *stages, *dry])
        first = again["stages"][1]["did"]
        assert (first["documents"], first["documents"] - first["removed"]) == (21, 3)
    assert "3 of 40 documents are left" in Path(data("report", "out")["report"]).read_text()
    with pytest.raises(ProblemError, match="holds no cleaned corpus"):
        data("report", "nowhere")


def test_a_report_counts_the_languages_of_kept_and_removed_documents(place):
    written = {
        "The old mill stands by the river, and nobody has opened its gate since winter number": 4,
        "Die alte Mühle steht am Fluss, und seit dem Winter öffnet niemand mehr ihr Tor, Jahr": 2,
        "Le vieux moulin se dresse près de la rivière, et personne n'ouvre sa porte, année": 3,
    }
    rows = [{"text": f"{text} {number}."} for text, count in written.items() for number in range(count)]
    rows.append({"text": "Mill"})
    (place / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data("clean", "clean.yaml", "stages=[short, {use: language, languages: [en, de]}]", "--out", "out")
    data("undo", "out", 6)
    cleaned = read_cleaned(place / "out")
    (counts,) = picture_of(cleaned).languages.values()
    assert counts.came == {"en": 4, "de": 2, "fr": 3}
    assert counts.left == {"en": 4, "de": 2, "fr": 1}
    page = Path(data("report", "out")["report"]).read_text()
    for shown in ("Languages", "Of the 9 documents that came to the stage 02-language", "left after all stages"):
        assert shown in page, shown


def test_a_classifier_is_trained_from_two_corpora(place, capsys):
    for kind, words in {"good": "river turns the wheel", "ordinary": "click here to buy"}.items():
        rows = [{"text": f"{words} and {number} of {number % 7}"} for number in range(200)]
        (place / f"{kind}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (place / "learn.yaml").write_text(
        "good: {use: jsonl, paths: [good.jsonl]}\nordinary: {use: jsonl, paths: [ordinary.jsonl]}\nbuckets: 4096\n"
    )
    result = data("learn", "learn.yaml", "--out", "model.npz")
    assert result["auc"] == 1
    assert "AUC 1.000" in capsys.readouterr().out
    with pytest.raises(ProblemError, match="held-out texts of a kind"):
        data("learn", "learn.yaml", "good.paths=[rows.jsonl]", "--out", "model.npz")


def test_the_texts_of_tasks_are_written_and_found_in_a_corpus(place):
    pytest.importorskip("penstock.eval_suite", reason="penstock-eval-suite is not installed")
    questions = [
        {
            "question": f"When did mill number {number} of the long river stand still?",
            "choices": ["in May", "never"],
            "answer": number % 2,
        }
        for number in range(5)
    ]
    (place / "questions.jsonl").write_text("".join(json.dumps(each) + "\n" for each in questions))
    told = data("evaluations", "{use: choices, path: questions.jsonl}", "--out", "texts")
    assert told["texts"] == {"choices": 10}
    leaked = "They asked: when did mill number 3 of the long river stand still? In May."
    rows = [{"text": "the gate of a mill " * 5}, {"text": leaked}]
    (place / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    stage = "stages=[{use: decontaminate, paths: [texts], words: 9}]"
    result = data("clean", "clean.yaml", stage, "--out", "out")
    assert result["stages"][0]["did"]["rules"] == {"decontaminate/choices": 1}
    (place / "texts" / "choices.jsonl").write_text('{"text": "nothing of the kind"}')
    assert data("clean", "clean.yaml", stage, "--out", "out")["stages"][0]["did"]["rules"] == {}
    with pytest.raises(ProblemError):
        data("evaluations", "heldout", "--out", "texts")
