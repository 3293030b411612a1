"""Which texts a step continues. A text joins when a slot is free and leaves when it ends, and no other waits for it.

Long prompts are read in parts, at most `chunk` tokens a step in all, so that texts that already run keep their pace. A
slot keeps what it has read after its text has ended: a prompt that begins alike is read from there on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from penstock.hooks.contracts import Array, Chosen, Row, SlotDecoder
from penstock.server.engine.request import Ended, Job, Step

CHUNK = 512
"""Tokens of prompts that a step reads, by default."""
Tokens = NDArray[np.int64]


@dataclass(slots=True)
class Running:
    """A text in a slot. `fresh` are the tokens that the slot has still to read, at least one."""

    job: Job
    fresh: list[int]
    cached: int
    made: int = 0


@dataclass(slots=True)
class Slot:
    """What a slot has read, which it keeps after its text has ended; `used` orders slots by when they last ran."""

    tokens: list[int] = field(default_factory=list)
    running: Running | None = None
    used: int = 0


class Scheduler:
    """Steps the texts of a decoder. `waiting` are the jobs without a slot, the first of which is next."""

    def __init__(self, decoder: SlotDecoder, *, chunk: int = CHUNK) -> None:
        self.waiting: deque[Job] = deque()
        self.cached_tokens = self.prompt_tokens = 0
        self._decoder, self._chunk = decoder, chunk
        self._slots = [Slot() for _ in range(decoder.slots)]
        self._steps = 0

    @property
    def running(self) -> int:
        return sum(slot.running is not None for slot in self._slots)

    @property
    def held(self) -> int:
        """Tokens that the slots of running texts have read."""
        return sum(len(slot.tokens) for slot in self._slots if slot.running is not None)

    @property
    def idle(self) -> bool:
        return not self.waiting and not self.running

    def add(self, job: Job) -> None:
        """Raises ValueError for a job that no slot has room for, or with a token that the model does not know."""
        if not job.tokens or len(job.tokens) + job.most - 1 > self._decoder.positions:
            asked, most = f"{len(job.tokens)} and {job.most} tokens", self._decoder.positions
            raise ValueError(f"a prompt and its continuation of {asked}, but a slot has room for {most}")
        if not 0 <= min(job.tokens) <= max(job.tokens) < self._decoder.vocabulary_size:
            raise ValueError(f"a token outside the vocabulary of {self._decoder.vocabulary_size}")
        self.waiting.append(job)

    def cancel(self, id: int) -> None:
        """Forgets a job. One that is not known has ended."""
        self.waiting = deque(job for job in self.waiting if job.id != id)
        for slot in self._slots:
            if slot.running is not None and slot.running.job.id == id:
                slot.running = None

    def expert_loads(self) -> Mapping[int, Array]:
        """See `penstock.hooks.contracts.SlotDecoder`."""
        return self._decoder.expert_loads()

    def step(self) -> list[Step]:
        """Reads and chooses tokens; nothing where there is nothing to do, and for prompts that are not read yet."""
        self._steps += 1
        self._admit()
        rows, left = list[Row](), self._chunk
        by_age = sorted(self._busy(), key=lambda each: self._slots[each].running.job.id)  # pyright: ignore
        for index in by_age:
            running = self._running(index)
            if len(running.fresh) > 1:
                left -= self._read_part(index, running, left)
            if len(running.fresh) == 1 or 1 < len(running.fresh) <= left:
                left -= len(running.fresh) - 1
                rows.append(Row(index, running.fresh, running.job.draw))
        if not rows:
            return []
        return [self._continue(row.slot, chosen) for row, chosen in zip(rows, self._decoder.step(rows), strict=True)]

    def _busy(self) -> list[int]:
        return [index for index, slot in enumerate(self._slots) if slot.running is not None]

    def _running(self, index: int) -> Running:
        running = self._slots[index].running
        assert running is not None
        return running

    def _read_part(self, index: int, running: Running, left: int) -> int:
        """Reads as much of a prompt that is longer than what is `left` of the step."""
        if len(running.fresh) <= left or left < 1:
            return 0
        part, running.fresh = running.fresh[:left], running.fresh[left:]
        self._decoder.read(index, part)
        self._slots[index].tokens += part
        return len(part)

    def _continue(self, index: int, chosen: Chosen) -> Step:
        slot, running = self._slots[index], self._running(index)
        slot.tokens += running.fresh
        slot.used = self._steps
        job = running.job
        if chosen.token is None:
            slot.running = None
            return Step(job.id, None, Ended.ERROR)
        running.made += 1
        running.fresh = [chosen.token]
        ended = Ended.STOP if chosen.token in job.ends else Ended.LENGTH if running.made == job.most else None
        if ended:
            slot.running = None
        return Step(job.id, chosen.token, ended, chosen.logprob, chosen.top, running.cached)

    def _admit(self) -> None:
        """Gives free slots to waiting jobs, the oldest first."""
        while self.waiting and (free := [index for index, slot in enumerate(self._slots) if slot.running is None]):
            job = self.waiting.popleft()
            index, cached = self._placed(np.array(job.tokens), free)
            self._decoder.begin(index, job.seed)
            self.prompt_tokens += len(job.tokens)
            self.cached_tokens += cached
            self._slots[index].running = Running(job, list(job.tokens[cached:]), cached)

    def _placed(self, token_N: Tokens, free: Sequence[int]) -> tuple[int, int]:
        """The slot of a prompt and how many of its tokens it has read: all but the last at most. A slot that holds the
        beginning of the prompt alone is continued. Where it holds more, or still runs, the beginning is copied to the
        free slot that was used least recently; if the decoder copies none of it, a free slot is cut."""
        shared = [_beginning(token_N[:-1], slot.tokens) for slot in self._slots]
        source = max(range(len(shared)), key=lambda index: (shared[index], index in free, -index))
        target = min(free, key=lambda index: (self._slots[index].used, index))
        alone = len(self._slots[source].tokens) == shared[source]
        if shared[source] and source != target:
            if source in free and alone:
                target = source
            else:
                self._decoder.copy(source, target, shared[source])
                self._remember(target, token_N)
                if source in free and not self._slots[target].tokens:
                    target = source
        self._decoder.cut(target, shared[source])
        self._remember(target, token_N)
        return target, len(self._slots[target].tokens)

    def _remember(self, index: int, token_N: Tokens) -> None:
        """The slot holds as much of the prompt as the decoder says."""
        self._slots[index].tokens = token_N[: self._decoder.length(index)].tolist()


def _beginning(token_N: Tokens, other: Sequence[int]) -> int:
    """How many tokens two texts have in common before they differ.

    >>> _beginning(np.array([1, 2, 3]), [1, 2, 4, 5]), _beginning(np.array([1, 2]), [1, 2, 4])
    (2, 2)
    """
    most = min(len(token_N), len(other))
    if not most or token_N[0] != other[0]:
        return 0
    unlike = np.flatnonzero(token_N[:most] != np.array(other[:most]))
    return int(unlike[0]) if len(unlike) else most
