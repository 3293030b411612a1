"""llama2.c's tokenizer files become tokenizers that give llama2.c's tokens, and lose no text."""

from __future__ import annotations

import lzma
import os
import struct
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from penstock.data_prep.dataset import TokenDataset
from penstock.data_prep.prepare import prepare
from penstock.data_prep.tokenizer import BpeTokenizer
from penstock.hooks.contracts import Document
from penstock.hooks.problems import ProblemError

Pieces = Sequence[tuple[str, float]]
BYTES = [("<unk>", 0.0), ("\n<s>\n", 0.0), ("\n</s>\n", 0.0), *((f"<0x{byte:02X}>", 0.0) for byte in range(256))]
MERGED = [" a", "ab", "ba", "abc", " ab", "cc", "ccc", "東b", " a東b", "aa", "  "]
SMALL: Pieces = [
    *BYTES,
    *((piece, -float(rank)) for rank, piece in enumerate(MERGED)),
    *((letter, -100.0) for letter in " abc東"),
]


def write(pieces: Pieces) -> bytes:
    """The file that llama2.c's tokenizer.py writes."""
    longest = max(len(piece.encode()) for piece, _ in pieces)
    records = (struct.pack("<fi", score, len(piece.encode())) + piece.encode() for piece, score in pieces)
    return struct.pack("<i", longest) + b"".join(records)


def dumb_encode(pieces: Pieces, text: str) -> list[int]:
    """What llama2.c's `encode` does, in its order, without its begin and end tokens."""
    index = {piece: number for number, (piece, _) in enumerate(pieces)}
    tokens: list[int] = []
    for character in f" {text}" if text else "":
        tokens += [index[character]] if character in index else [byte + 3 for byte in character.encode()]
    while True:
        best = None
        for at in range(len(tokens) - 1):
            merged = index.get(pieces[tokens[at]][0] + pieces[tokens[at + 1]][0])
            if merged is not None and (best is None or pieces[merged][1] > best[0]):
                best = (pieces[merged][1], merged, at)
        if best is None:
            return tokens
        tokens[best[2] : best[2] + 2] = [best[1]]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> BpeTokenizer:
    path = tmp_path_factory.mktemp("llama2c") / "small.bin"
    path.write_bytes(write(SMALL))
    return BpeTokenizer.load(path)


TEXT = st.text() | st.text("abc東é \n<s>")


@settings(deadline=None)
@given(text=TEXT)
@example(text="ababa aab\0")
def test_tokens_are_those_of_greedy_merging_by_score(small: BpeTokenizer, text: str) -> None:
    assert small.encode(text) == dumb_encode(SMALL, text)


@settings(deadline=None)
@given(text=TEXT)
@example(text="  two spaces, <s></s><unk><|endoftext|><0x41>")
def test_no_text_is_lost_and_one_space_is_counted(small: BpeTokenizer, text: str) -> None:
    tokens = small.encode(text)
    assert small.decode(tokens) == text
    assert small.byte_lengths()[tokens].sum() == len(text.encode()) + bool(text)
    assert list(small.parts(text)) == [text]


def test_the_separator_of_texts_is_the_token_that_begins_one(small: BpeTokenizer) -> None:
    assert small.end_of_text == 1
    assert small.vocabulary_size == len(SMALL)
    assert small.byte_lengths()[:3].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (write(SMALL)[:-1], "ends in the middle of a piece"),
        (write(SMALL)[:-7], "unpack_from requires"),
        (write(SMALL[:200]), "not the bytes"),
        (b"", "not the bytes"),
        (write([*SMALL, ("ab", -7.0)]), "occurs twice"),
        (write(SMALL).replace(b"abc", b"ab\xff"), "invalid start byte"),
        (b"\0\0\0\0" + struct.pack("<fi", 0.0, -5), "ends in the middle of a piece"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, data: bytes, why: str) -> None:
    path = tmp_path / "tok.bin"
    path.write_bytes(data)
    with pytest.raises(ProblemError, match=why) as caught:
        BpeTokenizer.load(path)
    assert (caught.value.problems[0].code, caught.value.problems[0].where) == ("damaged-file", str(path))


@pytest.fixture(scope="module")
def tok512() -> Path:
    if "PENSTOCK_DATA" not in os.environ:
        pytest.skip("PENSTOCK_DATA is not set")
    return Path(os.environ["PENSTOCK_DATA"]) / "stories260k" / "tok512.bin"


def read(path: Path) -> Pieces:
    data, at = path.read_bytes(), 4
    pieces: list[tuple[str, float]] = []
    while at < len(data):
        score, length = struct.unpack_from("<fi", data, at)
        pieces.append((data[at + 8 : at + 8 + length].decode(), score))
        at += 8 + length
    return pieces


def test_real_stories_have_the_tokens_of_greedy_merging(tok512: Path) -> None:
    tokenizer, pieces = BpeTokenizer.load(tok512), read(tok512)
    packed = Path(os.environ["PENSTOCK_DATA"]) / "tinystories" / "tinystories_head_2MiB.txt.xz"
    stories = lzma.decompress(packed.read_bytes()).decode().split("<|endoftext|>")
    for story in stories[:2000:100]:
        assert tokenizer.encode(story) == dumb_encode(pieces, story)
        assert tokenizer.decode(tokenizer.encode(story)) == story


@settings(deadline=None)
@given(text=st.text("abehilnoprstwy. '\n"))
def test_any_letters_have_the_tokens_of_greedy_merging(tok512: Path, text: str) -> None:
    assert BpeTokenizer.load(tok512).encode(text) == dumb_encode(read(tok512), text)


class Lines:
    """A corpus of a few texts."""

    def documents(self):
        return (Document(f"ab abc {number} ccc 東b", str(number)) for number in range(40))


def test_text_is_prepared_with_an_existing_tokenizer(tmp_path: Path, small: BpeTokenizer) -> None:
    file = tmp_path / "small.bin"
    file.write_bytes(write(SMALL))
    settings = {"tokenizer_file": file, "sequence_length": 8, "heldout_share": 0.3}
    prepared = prepare(Lines(), [], tmp_path / "tokens", **settings)
    dataset = TokenDataset.open(prepared.folder)
    assert dataset.tokenizer().hash == small.hash
    assert dataset.manifest.vocabulary_size == len(SMALL)
    split = dataset.split("train")
    first = split.slice(0, len(split)).tolist()
    assert first[: first.index(1)] in [dumb_encode(SMALL, document.text) for document in Lines().documents()]
    assert prepare(Lines(), [], tmp_path / "tokens", **settings).reused
    file.write_bytes(write([*SMALL, ("b ", -200.0)]))
    with pytest.raises(ProblemError, match="tokenizer_sha256 was"):
        prepare(Lines(), [], tmp_path / "tokens", **settings)
    with pytest.raises(ProblemError, match="the tokenizer cannot be read"):
        prepare(Lines(), [], tmp_path / "tokens", **{**settings, "tokenizer_file": tmp_path / "missing.json"})
