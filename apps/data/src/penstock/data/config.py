"""The files of `penstock data clean` and `penstock data learn`."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import Field

from penstock.data_prep.cleaning.memory import MemorySize
from penstock.hooks.config import OfKind, Schema
from penstock.hooks.registry import Choice

CorpusChoice: TypeAlias = Annotated[Choice, OfKind("corpus")]
CleanerChoice: TypeAlias = Annotated[Choice, OfKind("cleaner")]
LauncherChoice: TypeAlias = Annotated[Choice, OfKind("launcher")]


class CleanConfig(Schema):
    """A corpus and the stages that clean it."""

    corpus: CorpusChoice
    """What is cleaned."""
    stages: list[CleanerChoice] = Field(min_length=1)
    """The stages, in their order: each sees what the ones before it left."""
    launcher: LauncherChoice | None = None
    """Who works on the shards. null: `local`, a process on each core."""
    shard_mb: float = Field(default=16.0, gt=0)
    """Megabytes of text in a shard, which a process works on at a time and loses when it is killed."""
    max_ram: MemorySize | None = None
    """Most memory of all processes together, such as `4GB`: fewer workers are started, and it takes the place of
    `max_ram` of `near`. `substrings` takes 4 to 6 bytes a byte of text nevertheless, and a document that is larger than
    a shard 12. null: a worker on each core."""
    longest_mb: float = Field(default=268.0, gt=0)
    """Most megabytes of a document. A worker needs up to 12 times as much memory."""


class LearnConfig(Schema):
    """Texts that teach what good ones are."""

    good: CorpusChoice
    """Texts as one wants them."""
    ordinary: CorpusChoice
    """Texts as they come, such as a sample of the corpus that is to be cleaned. The sample itself is judged too
    strictly by what it taught, so clean other texts, or many more."""
    texts: int = Field(default=50_000, ge=100)
    """Most texts of each kind that are read, from the first."""
    buckets: int = Field(default=2**18, ge=2**10)
    """Buckets into which words and pairs of words are hashed."""
    seed: int = 0
    """Chooses the texts that are held out."""
