from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from penstock.data_prep.cleaning.clean import Cleaned, clean, read_cleaned
from penstock.data_prep.cleaning.cleaned import CleanedCorpus, undo, without_undone
from penstock.hooks.contracts import Document
from penstock.hooks.discovery import Selection
from penstock.hooks.problems import ProblemError
from penstock.hooks.registry import Registry

PLUGIN = Path(__file__).with_name("small_cleaners.py")
REGISTRY = Registry.discover(Selection(files=(str(PLUGIN),)))
TEXTS = ["one", "TWO", "", "six", "tea", "four", "TEN 水", "\u2028", "OAK", "seven", "five", "tan"]
LEFT = ["one", "two", "six", "four", "ten 水", "seven"]

TWO_SHARDS = 24  # bytes of text in a shard


class Texts:
    def __init__(self, texts: Sequence[str] = TEXTS) -> None:
        self.texts = texts

    def documents(self) -> Iterator[Document]:
        for number, text in enumerate(self.texts):
            yield Document(text, f"text:{number}", f"http://a.b/{number}" if number % 2 else None)


def cleaned(folder: Path, *stages: str, texts: Sequence[str] = TEXTS, shard: int = 6) -> Cleaned:
    cleaners = [({"use": stage}, "code") for stage in stages or ("shout", "once")]
    return clean(Texts(texts), cleaners, folder, REGISTRY, describe={"corpus": "texts"}, shard_bytes=shard)


def left(folder: Path) -> list[str]:
    return [document.text for document in CleanedCorpus(folder).documents()]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("shard", [1, 6, 1000])
def test_each_stage_sees_what_the_ones_before_it_left(tmp_path, shard):
    result = cleaned(tmp_path / "out", shard=shard)
    assert left(tmp_path / "out") == LEFT
    assert (result.documents, result.left) == (12, 6)
    (_, shout), (_, once) = result.stages
    assert (shout.documents, shout.removed, shout.changed, shout.removed_bytes) == (12, 2, 3, 3)
    assert shout.rules == {"shout/empty": 2, "shout/upper": 3}
    assert (once.documents, once.removed, once.removed_bytes) == (10, 4, 13)
    assert read_cleaned(tmp_path / "out") == result


def test_decisions_are_attributes_beside_the_documents(tmp_path):
    out = tmp_path / "out"
    cleaned(out)
    rows = [json.loads(line) for path in sorted(out.glob("decisions/02-once-*/*.jsonl")) for line in path.open()]
    assert rows[0] == {"document": 4, "rule": "once", "detail": "two", "repeats": "text:1"}
    documents = [json.loads(line) for path in sorted(out.glob("documents/*.jsonl")) for line in path.open()]
    assert [row["text"] for row in documents] == TEXTS
    assert documents[1] == {"text": "TWO", "source": "text:1", "url": "http://a.b/1"}
    assert not (out / "sketches").exists()


def test_the_same_command_again_changes_no_file_and_the_cleaned_is_clean(tmp_path):
    cleaned(tmp_path / "out")
    before = files(tmp_path / "out")
    cleaned(tmp_path / "out")
    assert files(tmp_path / "out") == before
    again = cleaned(tmp_path / "again", texts=left(tmp_path / "out"))
    assert (again.left, [counts.changed for _, counts in again.stages]) == (len(LEFT), [0, 0])


def test_shards_change_no_decision(tmp_path):
    for shard in (1, 1000):
        cleaned(tmp_path / str(shard), shard=shard)
    one, other = (
        [line for path in sorted(folder.glob("decisions/*/*.jsonl")) for line in path.open()]
        for folder in (tmp_path / "1", tmp_path / "1000")
    )
    assert one == other


def test_stages_before_the_first_changed_one_are_kept(tmp_path):
    out = tmp_path / "out"
    cleaned(out, "shout", "once")
    kept = {path: path.stat().st_ino for path in out.glob("decisions/01-*/*")}
    cleaned(out, "shout")
    assert left(out) == ["one", "two", "six", "tea", "four", "ten 水", "oak", "seven", "five", "tan"]
    assert {path: path.stat().st_ino for path in kept} == kept
    assert [path.name[:8] for path in (out / "decisions").iterdir()] == ["01-shout"]


def test_documents_are_taken_back_by_number(tmp_path):
    out = tmp_path / "out"
    cleaned(out)
    before = CleanedCorpus(out).fingerprint()
    assert undo(out, [4, 1]) == [1, 4]
    assert undo(out, [2]) == [1, 2, 4]
    assert left(out) == ["one", "TWO", "", "six", "tea", "four", "ten 水", "seven"]
    assert CleanedCorpus(out).fingerprint() != before
    with pytest.raises(ProblemError, match="no stage has removed or changed document 0"):
        undo(out, [0])


def test_counts_leave_out_what_was_undone_and_each_stage_gets_what_the_one_before_left(tmp_path):
    out = tmp_path / "out"
    result = cleaned(out)
    undo(out, [1, 2, 4])
    kept = without_undone(out, result.stages)
    (_, shout), (_, once) = kept.stages
    assert (shout.documents, shout.removed, shout.changed, shout.removed_bytes) == (12, 1, 2, 3)
    assert shout.rules == {"shout/empty": 1, "shout/upper": 2}
    assert (once.documents, once.removed, once.removed_bytes, once.rules) == (11, 3, 10, {"once": 3})
    assert once.documents - once.removed == len(left(out)) == 8
    assert (kept.back, kept.unjudged) == (3, 1)  # `once` never saw the empty text


def test_an_undo_lifts_what_was_decided_up_to_its_stage_and_no_more(tmp_path):
    out = tmp_path / "out"
    cleaned(out, "shout")
    undo(out, [1, 8])
    assert {"TWO", "OAK"} <= set(left(out))
    result = cleaned(out, "shout", "once")  # which removes "oak" of place 8, "six" stays
    assert left(out) == ["one", "TWO", "six", "four", "ten 水", "seven"]
    assert without_undone(out, result.stages).back == 2
    result = cleaned(out, "once")
    assert without_undone(out, result.stages).back == 0
    assert "TWO" in left(out)
    assert undo(out, [11]) == [11]


def test_an_undo_of_an_earlier_release_is_refused_by_name(tmp_path):
    out = tmp_path / "out"
    cleaned(out)
    (out / "undone.json").write_text("[1, 4]")
    with pytest.raises(ProblemError, match=r"undone\.json: was written by another release.*undo`: 1 4"):
        left(out)


def test_a_stage_that_fails_is_named_and_the_other_shards_are_kept(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(ProblemError, match="ArithmeticError: no factor") as raised:
        cleaned(out, "raising", texts=["good", "bad", "fine"], shard=1)
    assert raised.value.problems[0].where.endswith("/00001")
    assert [path.name for path in sorted(out.glob("decisions/*/*"))] == ["00000.jsonl", "00002.jsonl"]
    with pytest.raises(ProblemError, match="holds a cleaning that has not ended"):
        read_cleaned(out)


def test_folders_of_others_are_left_alone(tmp_path):
    with pytest.raises(ProblemError, match="the corpus has no documents"):
        cleaned(tmp_path / "none", texts=[])
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(ProblemError, match=r"contains other files, such as note\.txt"):
        cleaned(tmp_path)
    cleaned(tmp_path / "out")
    with pytest.raises(ProblemError, match="documents of another corpus"):
        cleaned(tmp_path / "out", shard=7)
    with pytest.raises(ProblemError, match="holds no cleaned corpus"):
        read_cleaned(tmp_path / "nowhere")
    shard = next((tmp_path / "out").glob("documents/*.jsonl"))
    shard.write_text(shard.read_text().replace("one", "two"))
    with pytest.raises(ProblemError, match="is missing or has changed"):
        left(tmp_path / "out")


def test_what_a_killed_process_left_is_finished_to_the_same_bytes(tmp_path):
    """The process ends at each file that it puts in place."""
    whole = tmp_path / "whole"
    cleaned(whole, shard=TWO_SHARDS)
    wanted, event = files(whole), 0
    while True:
        folder = tmp_path / str(event)
        if not _killed_at(event, folder):
            break
        cleaned(folder, shard=TWO_SHARDS)
        assert files(folder) == wanted, f"killed before rename {event}"
        shutil.rmtree(folder)
        event += 1
    assert event > 10


def _killed_at(event: int, folder: Path) -> bool:
    """Cleans in a fork that kills itself before a rename; whether it came there."""
    pid = os.fork()
    if pid == 0:
        rename, left = Path.rename, iter(range(event, -1, -1))

        def counting(path: Path, target: Path) -> Path:
            if not next(left):
                os.kill(os.getpid(), 9)
            return rename(path, target)

        Path.rename = Path.replace = counting  # type: ignore[method-assign]
        cleaned(folder, shard=TWO_SHARDS)
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])
