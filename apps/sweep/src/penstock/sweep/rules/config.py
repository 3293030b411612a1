"""Settings of the stop rules."""

from __future__ import annotations

from pydantic import Field

from penstock.hooks.config import Schema


class PairedConfig(Schema):
    """How sure it must be that a cell is worse."""

    confidence: float = Field(default=0.95, gt=0, lt=1)
    """Probability that no decision at any rung stops a cell whose result would be no worse than the other's."""
    seed_noise: float = Field(default=0.01, ge=0)
    """Standard deviation of the bits per byte of one cell over seeds. A rung has too few seeds to tell it; train one
    cell with several to know yours."""
    catch_up: float = Field(default=0.05, ge=0)
    """Bits per byte that a cell may be behind for each doubling of the tokens that are left of its whole training:
    cells differ in how fast they learn."""
    keep: float = Field(default=0.4, gt=0, le=1)
    """Largest share of the cells that goes on at a rung, however close they are; it bounds what a sweep costs. With
    rungs at 2 and 4 % of the tokens, 48 cells cost at most 9.04 whole runs: 20 and then 8 of them go on."""
    fewest: int = Field(default=8, ge=1)
    """So many cells go on at a rung whatever share they are, unless they are surely worse."""


class PerplexityConfig(Schema):
    """How far behind a cell may be, and for how long."""

    behind: float = Field(default=0.5, gt=0)
    """Held-out perplexity of a token above that of the best cell."""
    tokens: int = Field(default=1_000_000, gt=0)
    """Tokens of training over which a cell is so far behind at every rung before it stops."""


class AshaConfig(Schema):
    """Where and how many cells stop."""

    reduction: int = Field(default=4, ge=2)
    """One of so many cells goes on, and the next decision comes after so many times the tokens."""
    first: int = Field(default=1, ge=1)
    """Tokens of the first decision: it is made at the first rung that has them."""


class HalvingConfig(Schema):
    """How many cells stop."""

    reduction: int = Field(default=2, ge=2)
    """One of so many cells goes on at each rung, rounded up."""
