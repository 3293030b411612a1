"""Texts at which a streamed text ends."""

from __future__ import annotations

from collections.abc import Sequence


class StopTexts:
    """Passes a text on, up to the first of some texts. What may be the beginning of one is held back."""

    def __init__(self, stops: Sequence[str]) -> None:
        self.found = False
        self._stops = stops
        self._held = ""

    def push(self, piece: str) -> str:
        """What can be shown after this piece."""
        if self.found:
            return ""
        text = self._held + piece
        ends = [at for at in map(text.find, self._stops) if at >= 0]
        if ends:
            self.found, self._held = True, ""
            return text[: min(ends)]
        shown = len(text) - max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[shown:]
        return text[:shown]

    def finish(self) -> str:
        """What was held back."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of `text` that begins `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((length for length in range(longest, 0, -1) if text.endswith(stop[:length])), 0)
