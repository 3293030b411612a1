"""Reads prepared tokens: files are checked once, then memory-mapped and sliced."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from pathlib import Path

import numpy as np

from penstock.data_prep.shards import MANIFEST, FileRecord, Manifest, SplitRecord, shard_name
from penstock.data_prep.tokenizer import BpeTokenizer
from penstock.hooks.json_text import parse_json
from penstock.hooks.problems import Problem, ProblemError, did_you_mean

_OPEN_SHARDS = 64
_REMEDY = "delete the folder and prepare the data again"


class TokenDataset:
    """A folder that `prepare` wrote. `hash` is the SHA-256 of its manifest, which lists the SHA-256 of every file."""

    def __init__(self, folder: Path, manifest: Manifest, hash: str) -> None:
        self.folder = folder
        self.manifest = manifest
        self.hash = hash

    @classmethod
    def open(cls, folder: str | Path, *, verify: bool = True) -> TokenDataset:
        """Checks that every file exists at its full size, and with `verify` its SHA-256 (about 250 MB/s per core).

        Raises `ProblemError` with every file that is missing, truncated or changed.
        """
        folder = Path(folder)
        manifest, manifest_hash = read_manifest(folder)
        problems = damage(folder, manifest, verify=verify)
        if problems:
            raise ProblemError(problems)
        return cls(folder, manifest, manifest_hash)

    def tokenizer(self) -> BpeTokenizer:
        """The tokenizer of these tokens; raises `ProblemError` if the file is a different tokenizer."""
        path = self.folder / "tokenizer.json"
        tokenizer = BpeTokenizer.load(path)
        if tokenizer.hash != self.manifest.tokenizer_sha256:
            raise ProblemError(Problem("damaged-file", "not the tokenizer that made these tokens", str(path), _REMEDY))
        return tokenizer

    def split(self, name: str) -> TokenSplit:
        """ "train" or "heldout"; raises `ProblemError` for one that was not prepared."""
        splits = self.manifest.splits
        if name not in splits:
            fix = did_you_mean(name, splits)
            raise ProblemError(Problem("unknown-split", f"unknown split '{name}'", str(self.folder), fix))
        return TokenSplit(self.folder, splits[name], np.dtype(f"<u{self.manifest.token_bytes}"))


class TokenSplit:
    """The tokens of one split as one array of `tokens` ids, across all its shards."""

    def __init__(self, folder: Path, record: SplitRecord, dtype: np.dtype) -> None:
        self.tokens = record.tokens
        self._paths = [folder / f"{shard.name}.bin" for shard in record.shards]
        self._ends = np.array(list(accumulate(shard.tokens for shard in record.shards)), dtype=np.int64)
        self._dtype = dtype
        self._maps: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return self.tokens

    def slice(self, start: int, stop: int) -> np.ndarray:
        """Tokens [start, stop) as int64 [stop - start]; raises IndexError outside [0, tokens]."""
        if not 0 <= start <= stop <= self.tokens:
            raise IndexError(f"slice [{start}, {stop}) is outside [0, {self.tokens}]")
        out = np.empty(stop - start, dtype=np.int64)
        at = start
        while at < stop:
            shard = int(np.searchsorted(self._ends, at, side="right"))
            end = int(self._ends[shard])
            upto = min(stop, end)
            tokens_N = self._mapped(shard)
            offset = end - len(tokens_N)
            out[at - start : upto - start] = tokens_N[at - offset : upto - offset]
            at = upto
        return out

    def _mapped(self, shard: int) -> np.ndarray:
        """The shard's tokens. Few shards stay open, because each one takes a file handle; opening costs 50 us."""
        found = self._maps.pop(shard, None)
        if found is None:
            found = np.memmap(self._paths[shard], dtype=self._dtype, mode="r")
            if len(self._maps) >= _OPEN_SHARDS:
                del self._maps[next(iter(self._maps))]
        self._maps[shard] = found  # the dictionary's order is that of use
        return found


def read_manifest(folder: Path) -> tuple[Manifest, str]:
    """The manifest and its SHA-256; raises `ProblemError` if it is missing, damaged or of another version."""
    path = folder / MANIFEST
    try:
        data = path.read_bytes()
    except OSError as error:
        what = f"not a folder of prepared tokens ({error.strerror})"
        raise ProblemError(Problem("missing-file", what, str(path))) from None
    try:
        version = parse_json(data).get("version")
        if version != 1:
            fix = "prepare the data again with this version of penstock-data-prep"
            raise ProblemError(Problem("unknown-version", f"unknown manifest version {version}", str(path), fix))
        manifest = Manifest.model_validate_json(data)
    except (ValueError, AttributeError) as error:
        raise ProblemError(Problem("damaged-file", f"not a manifest ({error})", str(path), _REMEDY)) from error
    return manifest, hashlib.sha256(data).hexdigest()


def damage(folder: Path, manifest: Manifest, *, verify: bool) -> list[Problem]:
    """Every file that differs from the one that was written; without `verify`, only sizes are compared."""
    shards = [shard for split in manifest.splits.values() for shard in split.shards]
    expected = {f"{shard.name}.bin": shard.tokens * manifest.token_bytes for shard in shards}
    unlisted = sorted({*expected, "tokenizer.json"} - manifest.files.keys()) + _contradictory_splits(manifest)
    listed = expected.keys() & manifest.files.keys()
    mismatched = sorted(name for name in listed if manifest.files[name].bytes != expected[name])
    problems = [
        Problem("damaged-file", f"contradicts itself about '{name}'", str(folder / MANIFEST), _REMEDY)
        for name in unlisted + mismatched
    ]
    with ThreadPoolExecutor() as pool:  # hashing releases the interpreter lock
        checked = pool.map(lambda item: _check(folder / item[0], item[1], verify), manifest.files.items())
        return problems + [problem for problem in checked if problem is not None]


def _contradictory_splits(manifest: Manifest) -> list[str]:
    """Splits whose shards are not theirs, not in order, or do not add up."""
    return [
        name
        for name, split in manifest.splits.items()
        if [shard.name for shard in split.shards] != [shard_name(name, number) for number in range(len(split.shards))]
        or split.tokens != sum(shard.tokens for shard in split.shards)
        or split.documents != sum(shard.documents for shard in split.shards)
    ]


def _check(path: Path, record: FileRecord, verify: bool) -> Problem | None:
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            if size != record.bytes:
                return Problem("damaged-file", f"has {size} bytes, expected {record.bytes}", str(path), _REMEDY)
            file.seek(0)
            if verify and hashlib.file_digest(file, "sha256").hexdigest() != record.sha256:
                return Problem("damaged-file", "its SHA-256 differs from the manifest's", str(path), _REMEDY)
    except OSError as error:
        return Problem("missing-file", f"cannot be read ({error.strerror})", str(path), _REMEDY)
    return None
