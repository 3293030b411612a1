"""Learning-rate schedules: pure functions of the trained share of the run, so a resumed run continues the curve.

`warmup` and `decay` are fractions of the run, `final` is the factor at the end. Warm-up is linear from 0. Progress is
clamped to [0, 1]. A step is asked about at its middle, (step + 1/2) / steps, so neither the first nor the last step is
wasted on a rate of 0.

A share is another number of steps in a run of another length. Only with a warm-up in tokens do runs of all lengths
begin alike, so that a longer one can continue a shorter one from where that begins to decay.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Constant:
    """1 after the warm-up."""

    warmup: float = 0.0

    def __post_init__(self) -> None:
        _check_shares(warmup=self.warmup)

    def __call__(self, progress: float) -> float:
        return _warmed(_clamped(progress), self.warmup)


@dataclass(frozen=True, slots=True)
class Cosine:
    """Cosine decay from 1 to `final` after the warm-up; `final` is 0.1 as in Chinchilla and GLM-4.5."""

    warmup: float = 0.02
    final: float = 0.1

    def __post_init__(self) -> None:
        _check_shares(warmup=self.warmup, final=self.final)

    def __call__(self, progress: float) -> float:
        progress = _clamped(progress)
        if progress < self.warmup:
            return _warmed(progress, self.warmup)
        after = (progress - self.warmup) / (1 - self.warmup) if self.warmup < 1 else 0.0
        return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * after))


@dataclass(frozen=True, slots=True)
class WarmupStableDecay:
    """1 between the warm-up and a linear decay to `final` in the last share `decay` (MiniCPM, arXiv 2404.06395).

    Linear decay to 0 over the last fifth of the run matches a tuned cosine (arXiv 2405.18392).

    `warmup_tokens` and `decay_tokens` replace the shares and need `tokens`, which is how many the run has in whole
    steps. Runs of all lengths with the same `warmup_tokens` have the same factors, bit for bit, until they decay.

    Raises ValueError if warm-up and decay overlap, or if a number of tokens is given without that of the run.
    """

    warmup: float = 0.02
    decay: float = 0.2
    final: float = 0.0
    warmup_tokens: int | None = None
    decay_tokens: int | None = None
    tokens: int | None = None

    def __post_init__(self) -> None:
        _check_shares(warmup=self.warmup, decay=self.decay, final=self.final)
        if self.tokens is None and not (self.warmup_tokens is None and self.decay_tokens is None):
            raise ValueError("warmup_tokens and decay_tokens need the tokens of the run")
        if self._warmup_share + self._decay_share > 1:
            warmup, decay = self._as_set("warmup"), self._as_set("decay")
            most = "1" if self.tokens is None else f"the run, which has {self.tokens} tokens"
            raise ValueError(f"{warmup} and {decay} overlap: their sum may be at most {most}")

    def __call__(self, progress: float) -> float:
        progress = _clamped(progress)
        left = 1 - progress
        if left >= self._decay_share:
            return self._warmed(progress)
        return self.final + (1 - self.final) * left / self._decay_share

    def in_trunk(self, progress: float) -> bool:
        """Whether the factors up to here are those of every longer run with the same warm-up."""
        alike = self.warmup_tokens is not None or self.warmup == 0
        return alike and 1 - _clamped(progress) >= self._decay_share

    def _warmed(self, progress: float) -> float:
        if self.warmup_tokens is None or self.tokens is None:
            return _warmed(progress, self.warmup)
        # The middle of a step is a whole number of half tokens. Without this rounding, the last bits of a factor would
        # depend on the length of the run.
        seen = round(2 * progress * self.tokens) / 2
        return seen / self.warmup_tokens if seen < self.warmup_tokens else 1.0

    @property
    def _warmup_share(self) -> float:
        return self._share(self.warmup, self.warmup_tokens)

    @property
    def _decay_share(self) -> float:
        return self._share(self.decay, self.decay_tokens)

    def _share(self, share: float, tokens: int | None) -> float:
        return share if tokens is None or self.tokens is None else tokens / self.tokens

    def _as_set(self, name: str) -> str:
        tokens = getattr(self, f"{name}_tokens")
        return f"{name}={getattr(self, name)}" if tokens is None else f"{name}_tokens={tokens}"


def _warmed(progress: float, warmup: float) -> float:
    return progress / warmup if progress < warmup else 1.0


def _clamped(progress: float) -> float:
    return min(max(progress, 0.0), 1.0)


def _check_shares(**shares: float) -> None:
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise ValueError(f"{name}={share} is not a fraction of the run: use a number in [0, 1]")
