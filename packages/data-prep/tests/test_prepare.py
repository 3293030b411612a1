"""Laws of preparing: the same input gives the same bytes, a kill leaves nothing half done, and reuse is exact."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from penstock.conformance.full_disk import file_size_limit
from penstock.data_prep.corpora import TextCorpus
from penstock.data_prep.dataset import TokenDataset
from penstock.data_prep.dedup import ExactDedup
from penstock.data_prep.prepare import Prepared, held_out, prepare, tail_start
from penstock.hooks.contracts import Document
from penstock.hooks.problems import ProblemError

STORIES = [f"Story {number}.\n" + f"The {number}th cat saw dog number {number * 7}.\n" * 12 for number in range(120)]
SMALL = {"sequence_length": 32, "vocabulary_size": 400, "heldout_share": 0.1, "shard_tokens": 3_000}


class Listed:
    """A corpus of given texts."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = texts

    def documents(self) -> Iterator[Document]:
        for number, text in enumerate(self.texts):
            yield Document(text, f"listed:{number}")


def run(folder: Path, texts: Sequence[str] = STORIES, **changes: Any) -> Prepared:
    return prepare(Listed(texts), [ExactDedup()], folder, **{**SMALL, **changes})


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def documents_of(folder: Path, split: str) -> list[str]:
    dataset = TokenDataset.open(folder)
    tokenizer = dataset.tokenizer()
    tokens = dataset.split(split).slice(0, dataset.split(split).tokens)
    ends = np.flatnonzero(tokens == tokenizer.end_of_text)
    assert ends[-1] == len(tokens) - 1
    return [tokenizer.decode(part[:-1].tolist()) for part in np.split(tokens, ends + 1)[:-1]]


def test_splits_hold_every_document_once_each_before_its_end_of_text(tmp_path: Path) -> None:
    texts = [*STORIES, STORIES[3], "", STORIES[7] + "<|endoftext|>", "東京 \x00"]
    manifest = run(tmp_path / "data", texts).manifest
    kept = list(dict.fromkeys(text for text in texts if text))
    expected = {
        name: [t for t in kept if held_out(t.encode(), 0.1, 0) == (name == "heldout")] for name in manifest.splits
    }
    for name, split in manifest.splits.items():
        assert documents_of(tmp_path / "data", name) == expected[name]
        assert split.documents == len(expected[name])
        assert split.text_bytes == sum(len(text.encode()) for text in expected[name])
    assert len(manifest.splits["train"].shards) > 1
    (stage,) = manifest.filters
    assert (stage.name, stage.documents_in, stage.documents_out) == ("ExactDedup", len(texts), len(texts) - 1)
    assert stage.bytes_in - stage.bytes_out == len(STORIES[3])
    assert (manifest.corpus.documents, manifest.corpus.empty) == (len(texts), 1)


def test_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    run(tmp_path / "one")
    run(tmp_path / "two")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]


@given(text=st.text(), share=st.floats(0, 0.99), seed=st.integers(0, 2**64 - 1))
def test_held_out_depends_on_text_and_seed_alone_and_grows_with_the_share(text: str, share: float, seed: int) -> None:
    data = text.encode()
    place = int.from_bytes(xxhash.xxh3_64_digest(data, seed), "big") / 2**64
    assert held_out(data, share, seed) == (place < share)


def test_held_out_share_is_kept_and_the_seed_moves_it() -> None:
    texts = [str(number).encode() for number in range(20_000)]
    chosen = {text for text in texts if held_out(text, 0.05, 1)}
    # 1,000 expected, standard deviation 31.
    assert abs(len(chosen) - 1_000) < 155
    assert chosen != {text for text in texts if held_out(text, 0.05, 2)}


def test_no_share_means_no_heldout_split(tmp_path: Path) -> None:
    assert list(run(tmp_path / "data", heldout_share=0).manifest.splits) == ["train"]


@pytest.mark.parametrize("seed", range(3))
def test_a_lone_document_is_held_out_by_its_last_lines(tmp_path: Path, seed: int) -> None:
    text = "".join(STORIES)
    manifest = run(tmp_path / "data", ["", text, text], seed=seed).manifest
    (head,), (tail,) = documents_of(tmp_path / "data", "train"), documents_of(tmp_path / "data", "heldout")
    assert head + tail == text
    assert head.endswith("\n")
    assert len(tail) == pytest.approx(0.1 * len(text), abs=50)
    assert manifest.heldout.rule == "the last share of the only document"
    assert (manifest.corpus.documents, manifest.corpus.empty) == (3, 1)


@given(text=st.text(st.sampled_from("a東😀\n"), min_size=8, max_size=60), share=st.floats(0.05, 0.95))
def test_a_tail_begins_between_characters_and_has_its_share(text: str, share: float) -> None:
    data = text.encode()
    at = tail_start(data, share)
    assert data[:at].decode() + data[at:].decode() == text
    rest, wanted = len(data) - at, len(data) - round(len(data) * (1 - share))
    assert wanted / 2 <= rest <= 2 * wanted or (wanted - 3 <= rest <= wanted)


def test_tokenizer_has_not_seen_the_heldout_split(tmp_path: Path) -> None:
    held = [text for text in STORIES if held_out(text.encode(), 0.1, 0)]
    run(tmp_path / "all")
    run(tmp_path / "train", [text for text in STORIES if text not in held], heldout_share=0)
    assert contents(tmp_path / "all")["tokenizer.json"] == contents(tmp_path / "train")["tokenizer.json"]


def test_progress_reaches_every_total(tmp_path: Path) -> None:
    calls: list[tuple[str, int, int | None]] = []
    run(tmp_path / "data", progress=lambda stage, done, total: calls.append((stage, done, total)))
    assert list(dict.fromkeys(stage for stage, _, _ in calls)) == ["read", "tokenizer", "encode"]
    for stage in ("read", "tokenizer", "encode"):
        _, done, total = [call for call in calls if call[0] == stage][-1]
        assert done == total


def test_long_document_is_encoded_as_if_whole(tmp_path: Path) -> None:
    text = "".join(STORIES) * 12
    assert len(text) > 1 << 19
    prepare(Listed([text]), [], tmp_path / "data", sequence_length=8, vocabulary_size=400, heldout_share=0)
    dataset = TokenDataset.open(tmp_path / "data")
    tokens = dataset.split("train").slice(0, dataset.split("train").tokens)
    assert tokens.tolist() == [*dataset.tokenizer().encode(text), 0]


# ---------------------------------------------------------------------------------------------- reuse


def test_finished_folder_is_reused_without_reading_the_corpus(tmp_path: Path) -> None:
    class Unreadable(Listed):
        def documents(self) -> Iterator[Document]:
            raise AssertionError("read again")

    first = run(tmp_path / "data", describe={"corpus": "stories"})
    again = prepare(Unreadable([]), [], tmp_path / "data", describe={"corpus": "stories"}, **SMALL)
    assert (first.reused, again.reused) == (False, True)
    assert again.manifest == first.manifest


def test_folder_with_other_settings_is_refused_and_says_which(tmp_path: Path) -> None:
    run(tmp_path / "data", describe={"corpus": {"use": "a"}})
    before = contents(tmp_path / "data")
    with pytest.raises(ProblemError) as caught:
        run(tmp_path / "data", describe={"corpus": {"use": "b"}}, seed=3)
    what = caught.value.problems[0].what
    assert 'describe.corpus.use was "a" and is now "b"' in what
    assert "seed was 0 and is now 3" in what
    assert contents(tmp_path / "data") == before


def test_changed_input_is_noticed_and_input_that_is_gone_is_not_missed(tmp_path: Path, source: Path) -> None:
    corpus = TextCorpus([source])
    prepare(corpus, [], tmp_path / "data", **SMALL)
    (source / "7.txt").write_text("other")
    with pytest.raises(ProblemError, match="input files or their version changed"):
        prepare(corpus, [], tmp_path / "data", **SMALL)
    for path in source.iterdir():
        path.unlink()
    assert prepare(corpus, [], tmp_path / "data", **SMALL).reused


def test_reused_folder_must_hold_a_sequence_of_the_new_length(tmp_path: Path) -> None:
    run(tmp_path / "data")
    with pytest.raises(ProblemError, match="need 1000001"):
        run(tmp_path / "data", sequence_length=1_000_000)


def test_folder_with_other_things_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ProblemError) as caught:
        run(tmp_path)
    assert caught.value.problems[0].code == "folder-in-use"
    assert contents(tmp_path) == {"thesis.tex": b"years of work"}
    (tmp_path / "empty").mkdir()
    assert not run(tmp_path / "empty").reused


def test_cut_shard_is_noticed_at_reuse(tmp_path: Path) -> None:
    run(tmp_path / "data")
    shard = tmp_path / "data" / "train-00000.bin"
    shard.write_bytes(shard.read_bytes()[:-2])
    with pytest.raises(ProblemError, match="train-00000"):
        run(tmp_path / "data")


# ---------------------------------------------------------------------------------------------- kills and company


SCRIPT = """
import json, os, signal, sys
from penstock.data_prep.corpora import TextCorpus
from penstock.data_prep.prepare import prepare

source, folder, die_at, settings = sys.argv[1], sys.argv[2], int(sys.argv[3]), json.loads(sys.argv[4])
calls = []

def progress(stage, done, total):
    calls.append(stage)
    if len(calls) == die_at:
        os.kill(os.getpid(), signal.SIGKILL)

print(prepare(TextCorpus([source]), [], folder, **settings, progress=progress).reused)
"""


@pytest.fixture
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    for number, text in enumerate(STORIES):
        (folder / f"{number}.txt").write_text(text)
    return folder


def start(source: Path, folder: Path, die_at: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SCRIPT, str(source), str(folder), str(die_at), json.dumps(SMALL)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_killed_anywhere_and_run_again_gives_the_same_bytes(tmp_path: Path, source: Path) -> None:
    calls: list[str] = []
    corpus = TextCorpus([source])
    prepare(corpus, [], tmp_path / "whole", **SMALL, progress=lambda stage, done, total: calls.append(stage))
    for die_at in range(1, len(calls) + 1):
        process = start(source, tmp_path / "data", die_at)
        process.communicate(timeout=120)
        assert process.returncode == -signal.SIGKILL
        assert not (tmp_path / "data").exists()
        assert (tmp_path / ".data.partial").exists()
    assert not prepare(corpus, [], tmp_path / "data", **SMALL).reused
    assert contents(tmp_path / "data") == contents(tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "whole"]


def test_of_many_at_once_one_prepares_and_the_others_reuse(tmp_path: Path, source: Path) -> None:
    prepare(TextCorpus([source]), [], tmp_path / "whole", **SMALL)
    processes = [start(source, tmp_path / "data", -1) for _ in range(3)]
    said = sorted(process.communicate(timeout=120)[0].strip() for process in processes)
    assert said == ["False", "True", "True"]
    assert contents(tmp_path / "data") == contents(tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "whole"]


def test_interrupt_leaves_nothing_behind(tmp_path: Path) -> None:
    def interrupt(stage: str, done: int, total: int | None) -> None:
        if stage == "encode":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "data", progress=interrupt)
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------------------------------- errors


def test_full_disk_names_the_place_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ProblemError) as caught, file_size_limit(20_000):
        run(tmp_path / "data")
    assert (caught.value.problems[0].code, caught.value.problems[0].where) == ("disk", str(tmp_path / "data"))
    assert list(tmp_path.iterdir()) == []


def test_parent_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ProblemError) as caught:
        run(tmp_path / "file" / "data")
    assert str(tmp_path / "file") in caught.value.problems[0].where


@pytest.mark.parametrize(
    ("texts", "changes", "code", "said"),
    [
        ([], {}, "empty-corpus", "the corpus has no documents"),
        (["", ""], {}, "empty-corpus", "no document with text is left (documents after Listed 2, ExactDedup 1)"),
        (["short"], {"heldout_share": 0}, "too-few-tokens", "has 6 tokens in 1 of 1 documents"),
        (STORIES[:1], {}, "too-few-tokens", "split 'heldout' has 12 tokens in 1 of 1 documents"),
        (STORIES[:2], {"seed": 2}, "too-few-tokens", "split 'heldout' has 0 tokens in 0 of 2 documents"),
        (["a\ud800"], {}, "not-text", "character 1 is a lone surrogate"),
        (STORIES, {"heldout_share": 1.0}, "invalid-value", "is 1.0"),
        (STORIES, {"vocabulary_size": 100}, "invalid-value", "a vocabulary of 100 is smaller"),
        (STORIES, {"shard_tokens": 0}, "invalid-value", "is 0"),
    ],
)
def test_what_cannot_be_prepared_says_why(
    tmp_path: Path, texts: list[str], changes: dict[str, Any], code: str, said: str
) -> None:
    with pytest.raises(ProblemError) as caught:
        run(tmp_path / "data", texts, **changes)
    problem = caught.value.problems[0]
    assert problem.code == code
    assert said in problem.what
    assert list(tmp_path.iterdir()) == []


def test_a_tokenizer_file_that_cuts_texts_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    good = run(tmp_path / "good").folder / "tokenizer.json"
    whole = json.loads(good.read_bytes())
    limit = {"direction": "Right", "max_length": 20, "strategy": "LongestFirst", "stride": 0}
    cutting = tmp_path / "cutting.json"
    cutting.write_text(json.dumps({**whole, "truncation": limit}))
    with pytest.raises(ProblemError, match=r"cutting.json: it cuts texts off after 20 tokens"):
        run(tmp_path / "bad", tokenizer_file=cutting)
    assert not (tmp_path / "bad").exists()
    again = run(tmp_path / "again", tokenizer_file=good)
    assert documents_of(again.folder, "train") == documents_of(tmp_path / "good", "train")
