"""Learning-rate schedules: pure functions of the trained share of the run, so a resumed run continues the curve.

`warmup` and `decay` are fractions of the run, `final` is the factor at the end. Warm-up is linear from 0. Progress is
clamped to [0, 1]. A step is asked about at its middle, (step + 1/2) / steps, so neither the first nor the last step is
wasted on a rate of 0.
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
    """

    warmup: float = 0.02
    decay: float = 0.2
    final: float = 0.0

    def __post_init__(self) -> None:
        _check_shares(warmup=self.warmup, decay=self.decay, final=self.final)
        if self.warmup + self.decay > 1:
            raise ValueError(f"warmup={self.warmup} and decay={self.decay} overlap: their sum may be at most 1")

    def __call__(self, progress: float) -> float:
        progress = _clamped(progress)
        left = 1 - progress
        if left >= self.decay:
            return _warmed(progress, self.warmup)
        return self.final + (1 - self.final) * left / self.decay


def _warmed(progress: float, warmup: float) -> float:
    return progress / warmup if progress < warmup else 1.0


def _clamped(progress: float) -> float:
    return min(max(progress, 0.0), 1.0)


def _check_shares(**shares: float) -> None:
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise ValueError(f"{name}={share} is not a fraction of the run: use a number in [0, 1]")
