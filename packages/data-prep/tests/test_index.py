"""Laws of the index of near duplicates, against a dictionary of documents compared as Python sets."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from penstock.conformance.full_disk import file_size_limit
from penstock.data_prep.cleaning.index import Added, NearIndex
from penstock.data_prep.cleaning.index_state import IndexState
from penstock.data_prep.cleaning.near import NearDuplicates
from penstock.data_prep.cleaning.normalise import Normaliser
from penstock.hooks.contracts import Document
from penstock.hooks.problems import ProblemError


def documents(count: int, seed: int, name: str = "doc") -> list[Document]:
    """Edited copies of ten texts."""
    draw = random.Random(seed)
    texts = [[f"w{text}-{word}" for word in range(40 + 5 * text)] for text in range(10)]
    found = list[Document]()
    for number in range(count):
        words = list(draw.choice(texts))
        for _ in range(draw.randrange(3)):
            words[draw.randrange(len(words))] = f"new{draw.randrange(10)}"
        found.append(Document(" ".join(words), f"{name}\n{number} ü"))
    return found


def expected(near: NearDuplicates, held: Mapping[str, Document], asked: Sequence[Document]) -> list[dict[str, float]]:
    """What `ask` should find: everything that shares a band and is near, by comparing with everything."""
    known = list(held.values())
    sets = [set(near.signer.shingles(document.text)) for document in known]
    keys, asked_keys = near.sketch(known), near.sketch(asked)
    answers = list[dict[str, float]]()
    for document, row in zip(asked, asked_keys, strict=True):
        own = set(near.signer.shingles(document.text))
        similar = {each.source: len(own & other) / len(own | other) for each, other in zip(known, sets, strict=True)}
        shares = {each.source for each, other in zip(known, keys, strict=True) if (row == other).any()}
        near_ones = {source for source in shares if similar[source] >= near.threshold} - {document.source}
        answers.append({source: similar[source] for source in near_ones})
    return answers


def answers(index: NearIndex, asked: Sequence[Document]) -> list[dict[str, float]]:
    return [{match.source: match.jaccard for match in found} for found in index.ask(asked)]


@pytest.mark.parametrize("room", [312_000_000, 150_000])
def test_an_index_is_a_dictionary_through_additions_removals_replacements_and_merges(tmp_path: Path, room: int) -> None:
    draw, near = random.Random(5), NearDuplicates()
    near.room = room
    index, held = NearIndex(tmp_path, near), dict[str, Document]()
    asked = documents(25, 99, "asked")
    for step in range(8):
        added = [Document(each.text, f"{draw.randrange(60)}") for each in documents(draw.randrange(1, 25), step)]
        index.add(added)
        held |= {each.source: each for each in added}
        gone = [f"{draw.randrange(60)}" for _ in range(4)]
        assert index.remove(gone) == len(set(gone) & set(held))
        held = {source: each for source, each in held.items() if source not in gone}
        if step == 5:
            index.compact()
            assert len(list(tmp_path.glob("run-*"))) == 1
        if step % 2:
            index = NearIndex(tmp_path, near)
            assert len(index) == len(held)
            assert answers(index, asked + added) == expected(near, held, asked + added)
    assert any(len(found) > 2 for found in answers(index, asked))
    index.remove(list(held))
    index.compact()
    assert len(NearIndex(tmp_path, near)) == 0
    assert answers(index, asked) == [{}] * len(asked)


def test_answers_are_in_order_of_similarity_and_leave_out_the_document_itself(tmp_path: Path) -> None:
    near = NearDuplicates()
    index, known = NearIndex(tmp_path, near), documents(60, 7)
    index.add(known)
    for document, found in zip(known, index.ask(known), strict=True):
        assert found == sorted(found, key=lambda match: (-match.jaccard, match.source))
        assert document.source not in {match.source for match in found}
    assert index.ask([]) == []


def test_runs_stay_few_and_of_falling_size(tmp_path: Path) -> None:
    index = NearIndex(tmp_path, NearDuplicates(permutations=32))
    for number, document in enumerate(documents(40, 8)):
        index.add([document])
        assert len(list(tmp_path.glob("run-*"))) <= (number + 1).bit_length()
    assert len(index) == 40


def test_an_index_without_documents_takes_other_settings(tmp_path: Path) -> None:
    def broken() -> Any:
        raise ValueError("not UTF-8")
        yield

    with pytest.raises(ValueError, match="not UTF-8"):
        NearIndex(tmp_path, NearDuplicates()).add(broken())
    added = documents(3, 1)
    index = NearIndex(tmp_path, NearDuplicates(threshold=0.7))
    index.add(added)
    index.remove([document.source for document in added])
    again = NearIndex(tmp_path, NearDuplicates(size=3))
    assert again.add(added) == Added(new=3)
    again.check()
    assert NearIndex.open(tmp_path).summary().settings["shingle"]["size"] == 3
    with pytest.raises(ProblemError, match="'size': 3"):
        NearIndex(tmp_path, NearDuplicates())


def test_an_index_of_other_settings_is_refused_with_the_setting_that_differs(tmp_path: Path) -> None:
    NearIndex(tmp_path, NearDuplicates()).add(documents(3, 1))
    before = (tmp_path / "index.json").read_bytes()
    others: list[tuple[dict[str, Any], str]] = [
        ({"scheme": "legacy"}, "scheme affine32 instead of legacy"),
        ({"hash": "sha1"}, "hash xxh32 instead of sha1"),
        ({"seed": 2}, "seed 1 instead of 2"),
        ({"size": 4}, "'size': 5"),
        ({"threshold": 0.7}, "bands 14 instead of 21, rows 8 instead of 6"),
    ]
    for settings, differs in others:
        with pytest.raises(ProblemError, match=differs):
            NearIndex(tmp_path, NearDuplicates(**settings))
    assert (tmp_path / "index.json").read_bytes() == before
    assert len(NearIndex(tmp_path, NearDuplicates())) == 3


@pytest.mark.parametrize("version", ["1", "2"])
def test_an_index_of_an_earlier_normaliser_is_refused_by_name(tmp_path: Path, version: str) -> None:
    NearIndex(tmp_path, NearDuplicates()).add(documents(3, 1))
    state = IndexState.read(tmp_path)
    earlier = f"{version}-nfkc-lower-space-single"
    replace(state, settings={**state.settings, "normaliser": earlier}).write()
    for use in (partial(NearIndex, tmp_path, NearDuplicates()), partial(NearIndex.open, tmp_path)):
        with pytest.raises(ProblemError, match=f"normaliser {earlier} instead of {Normaliser().version}") as caught:
            use()
        assert caught.value.problems[0].code == "other-index"


@pytest.mark.parametrize(
    "part", ["bands.keys", "bands.places", "hashes.keys", "sources.values", "sets.ends", "sets.values"]
)
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, part: str) -> None:
    NearIndex(tmp_path, NearDuplicates()).add(documents(5, 2))
    (path,) = tmp_path.glob(f"run-*/{part}")
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ProblemError, match=rf"{part}: \d+ bytes, not \d+"):
        NearIndex(tmp_path, NearDuplicates())
    path.unlink()
    with pytest.raises(ProblemError, match=part):
        NearIndex(tmp_path, NearDuplicates())


def test_a_changed_byte_is_found_by_a_check_and_before_a_merge_and_nothing_is_lost(tmp_path: Path) -> None:
    index = NearIndex(tmp_path, NearDuplicates())
    index.add(documents(5, 2))
    index.check()
    (path,) = tmp_path.glob("run-*/sets.values")
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ProblemError, match=r"sets\.values: its SHA-256"):
        index.check()
    more = documents(9, 3, "more")
    with pytest.raises(ProblemError, match=r"sets\.values: its SHA-256"):
        index.add(more)
    path.write_bytes(whole)
    index.add(more)
    assert (len(index), len(list(tmp_path.glob("run-*")))) == (14, 1)
    index.check()


def test_a_damaged_manifest_is_refused(tmp_path: Path) -> None:
    NearIndex(tmp_path, NearDuplicates())
    whole = (tmp_path / "index.json").read_text()
    edited = whole.replace("affine32", "legacy")
    assert edited != whole
    codes = {
        "{": "damaged-file",
        edited: "damaged-file",
        whole.replace("runs", "rums"): "damaged-file",
        "{}": "no-index",
    }
    for damaged, code in codes.items():
        (tmp_path / "index.json").write_text(damaged)
        with pytest.raises(ProblemError, match="index") as raised:
            NearIndex(tmp_path, NearDuplicates())
        assert raised.value.problems[0].code == code


def test_a_folder_that_is_no_index_is_left_as_it_was(tmp_path: Path) -> None:
    NearIndex(tmp_path / "index", NearDuplicates()).add(documents(3, 1))
    (tmp_path / "index" / "index.json").unlink()
    (tmp_path / "notes.txt").write_text("mine")
    for folder in (tmp_path, tmp_path / "index"):
        before = sorted(folder.rglob("*"))
        for opened in (lambda folder=folder: NearIndex(folder, NearDuplicates()), partial(NearIndex.open, folder)):
            with pytest.raises(ProblemError, match="holds no index"):
                opened()
        assert sorted(folder.rglob("*")) == before
    with pytest.raises(ProblemError, match="holds no index"):
        NearIndex.open(tmp_path / "nowhere")


def test_an_opened_index_has_the_settings_that_it_was_made_with(tmp_path: Path) -> None:
    near = NearDuplicates(threshold=0.7, recall=0.8, permutations=64, seed=3, scheme="legacy", hash="sha1", size=3)
    NearIndex(tmp_path, near).add(documents(3, 1))
    opened = NearIndex.open(tmp_path, max_ram=300_000_000).near
    assert opened.describe() == near.describe()
    assert opened.room == 100_000_000


def test_adding_the_same_again_changes_no_byte_and_other_texts_replace(tmp_path: Path) -> None:
    near = NearDuplicates()
    near.room = 150_000
    index, known = NearIndex(tmp_path, near), documents(20, 1)
    assert index.add(known) == Added(new=20)
    before = contents(tmp_path)
    assert index.add(known) == Added(known=20)
    index.compact()
    assert index.add(known) == Added(known=20)
    changed = [Document(f"{each.text} and more", each.source) for each in known[:2]]
    assert index.add([*changed, *known[2:]]) == Added(replaced=2, known=18)
    assert len(index) == 20
    assert before != contents(tmp_path)


def test_a_text_that_memory_does_not_hold_is_refused_with_what_it_needs(tmp_path: Path) -> None:
    index = NearIndex(tmp_path, NearDuplicates(max_ram=232_000_000))
    with pytest.raises(ProblemError, match=r"max_ram: b of 1,000,000 characters needs at least 320 MB"):
        index.add([Document("a", "a"), Document("x" * 1_000_000, "b")])
    raised_to = NearIndex.open(tmp_path, max_ram=320_000_000)
    assert raised_to.add([Document("x" * 1_000_000, "b")]) == Added(new=1)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_files_of_others_in_the_folder_are_kept(tmp_path: Path) -> None:
    NearIndex(tmp_path, NearDuplicates())
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "run.txt").write_text("mine")
    (tmp_path / "removed.npy").write_text("mine")
    NearIndex(tmp_path, NearDuplicates()).add(documents(3, 1))
    assert (tmp_path / "notes" / "run.txt").exists()
    assert (tmp_path / "removed.npy").exists()


def in_child(work: Callable[[], object], seconds: float) -> bool:
    """Runs `work` in a forked process that is killed after `seconds`; True if it had ended by itself."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    return os.WIFEXITED(os.waitpid(child, 0)[1])


def test_a_killed_addition_leaves_whole_documents_and_ends_with_equal_bytes_when_it_is_repeated(tmp_path: Path) -> None:
    near, draw = NearDuplicates(permutations=32), random.Random(9)
    near.room = 400_000
    first, second, asked = documents(30, 3, "first"), documents(60, 4, "second"), documents(10, 5, "asked")
    begun = time.monotonic()
    for added in (first, second):
        NearIndex(tmp_path / "whole", near).add(added)
    seconds, whole = time.monotonic() - begun, contents(tmp_path / "whole")
    kills = 0
    for attempt in range(12):
        folder = tmp_path / str(attempt)
        NearIndex(folder, near).add(first)
        kills += not in_child(lambda folder=folder: NearIndex(folder, near).add(second), draw.uniform(0, seconds))
        index = NearIndex(folder, near)
        assert 30 <= len(index) <= 90
        index.add(second)
        assert len(index) == 90
        assert contents(folder) == whole
        assert answers(index, asked) == expected(near, {each.source: each for each in first + second}, asked)
        assert {path.name.split("-")[0] for path in folder.iterdir()} == {"index.json", "run"}
        if kills == 3:
            return
    pytest.fail(f"only {kills} of 12 additions were killed before their end")


def test_a_full_disk_is_said_and_leaves_the_index_as_it_was(tmp_path: Path) -> None:
    near = NearDuplicates()
    index = NearIndex(tmp_path, near)
    index.add(documents(3, 1))
    with pytest.raises(ProblemError, match="writing failed") as raised, file_size_limit(20_000):
        index.add(documents(300, 6, "more"))
    assert raised.value.problems[0].code == "cannot-write"
    assert len(NearIndex(tmp_path, near)) == 3
    index.add(documents(300, 6, "more"))
    assert len(index) == 303
