"""Laws of reading: slices equal one long array, and whatever is damaged is named."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.data_prep.dataset import TokenDataset
from penstock.data_prep.order import TokenOrder
from penstock.data_prep.prepare import prepare
from penstock.hooks.contracts import Document
from penstock.hooks.problems import ProblemError


class Stories:
    def documents(self) -> Iterator[Document]:
        for number in range(150):
            yield Document(f"Story {number}: " + f"{number} cats, {number * 3} dogs.\n" * 9, f"{number}")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dataset") / "data"
    return prepare(Stories(), [], folder, sequence_length=16, vocabulary_size=400, shard_tokens=700).folder


@pytest.fixture
def copy(prepared: Path, tmp_path: Path) -> Path:
    for path in prepared.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def test_shards_are_one_array(prepared: Path) -> None:
    dataset = TokenDataset.open(prepared)
    for name, record in dataset.manifest.splits.items():
        files = sorted(prepared.glob(f"{name}-*.bin"))
        whole = np.concatenate([np.fromfile(path, "<u2") for path in files]).astype(np.int64)
        split = dataset.split(name)
        assert split.tokens == len(split) == len(whole) == record.tokens
        assert np.array_equal(split.slice(0, split.tokens), whole)
    assert len(list(prepared.glob("train-*.bin"))) > 5


@settings(deadline=None)
@given(data=st.data())
def test_slice_is_numpys_across_shards(prepared: Path, data: st.DataObject) -> None:
    split = TokenDataset.open(prepared, verify=False).split("train")
    whole = split.slice(0, split.tokens)
    start = data.draw(st.integers(0, split.tokens))
    stop = data.draw(st.integers(start, split.tokens))
    part = split.slice(start, stop)
    assert part.dtype == np.int64
    assert np.array_equal(part, whole[start:stop])


def test_more_shards_than_file_handles_are_read(tmp_path: Path) -> None:
    folder = prepare(
        Stories(), [], tmp_path / "data", sequence_length=4, vocabulary_size=300, heldout_share=0, shard_tokens=1
    ).folder
    script = (
        "import resource, sys\n"
        "from penstock.data_prep.dataset import TokenDataset\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))\n"
        "split = TokenDataset.open(sys.argv[1]).split('train')\n"
        "print(len(split._paths), sum(split.slice(0, split.tokens)), sum(split.slice(at, at + 1)[0] for at in "
        "range(0, split.tokens, 97)))\n"
    )
    printed = subprocess.run([sys.executable, "-c", script, folder], capture_output=True, text=True, check=True).stdout
    split = TokenDataset.open(folder).split("train")
    whole = split.slice(0, split.tokens)
    assert list(map(int, printed.split())) == [150, whole.sum(), whole[::97].sum()]


@pytest.mark.parametrize(("start", "stop"), [(-1, 3), (5, 4), (0, 10**9)])
def test_slice_outside_is_refused(prepared: Path, start: int, stop: int) -> None:
    with pytest.raises(IndexError, match="outside"):
        TokenDataset.open(prepared, verify=False).split("train").slice(start, stop)


def test_an_order_reads_what_slices_hold(prepared: Path) -> None:
    split = TokenDataset.open(prepared).split("train")
    order = TokenOrder(split, sequence_length=16, batch_size=4, seed=0)
    whole = split.slice(0, split.tokens)
    for row, window in zip(order.batch(12), order.window(np.arange(48, 52)), strict=True):
        assert np.array_equal(row, whole[window * 16 : window * 16 + 17])


def names(folder: Path, *, verify: bool = True) -> list[str]:
    """The files that opening complains about."""
    with pytest.raises(ProblemError) as caught:
        TokenDataset.open(folder, verify=verify)
    return sorted(Path(problem.where).name for problem in caught.value.problems)


def test_flipped_bit_in_any_file_is_found_and_named(copy: Path) -> None:
    for path in sorted(copy.iterdir()):
        good = path.read_bytes()
        if path.name != "manifest.json":
            path.write_bytes(good[:50] + bytes([good[50] ^ 1]) + good[51:])
            assert names(copy) == [path.name]
            path.write_bytes(good)
    TokenDataset.open(copy)


def test_cut_and_missing_files_are_all_named_without_hashing(copy: Path) -> None:
    (copy / "train-00001.bin").write_bytes((copy / "train-00001.bin").read_bytes()[:-2])
    (copy / "train-00002.idx").unlink()
    (copy / "tokenizer.json").unlink()
    assert names(copy, verify=False) == ["tokenizer.json", "train-00001.bin", "train-00002.idx"]


def test_other_tokenizer_is_refused_even_unverified(copy: Path) -> None:
    data = (copy / "tokenizer.json").read_bytes()
    (copy / "tokenizer.json").write_bytes(data.replace(b"<|reserved_15|>", b"<|reserved_16|>"))
    with pytest.raises(ProblemError, match="not the tokenizer that made these tokens"):
        TokenDataset.open(copy, verify=False).tokenizer()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (b'"version": 1', b'"version": 2', "unknown manifest version 2"),
        (b'"splits"', b'"slits"', "not a manifest"),
        (b"{", b"", "not a manifest"),
        (b'"tokens": ', b'"tokens": 1', "contradicts itself"),
        (b'"name": "train-00001"', b'"name": "train-00000"', "contradicts itself about 'train'"),
        (b'"documents": ', b'"documents": 1', "contradicts itself about 'train'"),
    ],
)
def test_damaged_manifest_is_named(copy: Path, old: bytes, new: bytes, said: str) -> None:
    path = copy / "manifest.json"
    path.write_bytes(path.read_bytes().replace(old, new))
    with pytest.raises(ProblemError, match=said) as caught:
        TokenDataset.open(copy)
    assert caught.value.problems[0].where == str(path)


def test_folder_that_holds_no_tokens_and_unknown_split_are_named(tmp_path: Path, prepared: Path) -> None:
    assert names(tmp_path) == ["manifest.json"]
    with pytest.raises(ProblemError, match="did you mean 'heldout'"):
        TokenDataset.open(prepared, verify=False).split("held-out")
