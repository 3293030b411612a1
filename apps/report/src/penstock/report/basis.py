"""What a figure was measured on. Figures are ranked only if they were measured on the same thing.

Two texts differ by more bits per byte than two models, and two processors by more tokens per second than two routers,
so a ranking across them says nothing about the runs.
"""

from __future__ import annotations

from dataclasses import dataclass

from penstock.pages.formats import count, size
from penstock.report.data import Run


@dataclass(frozen=True, slots=True)
class Basis:
    """`key` is equal for figures that may be ranked, and empty if what was measured is not recorded; `text` says it."""

    key: tuple[str, ...]
    text: str


UNRECORDED = Basis((), "")


def heldout_text(run: Run) -> Basis:
    """All held-out text, as the evaluation read it: the text, the windows and the version of the task."""
    text = run.evaluation.heldout_text if run.evaluation else None
    if run.evaluation is None or text is None:
        return UNRECORDED
    task = run.evaluation.tasks.get("heldout")
    metric = next((name for name in task.metrics if "bits_per_byte@" in name), "") if task else ""
    version = (task and task.version) or ""
    return Basis((text.sha256, metric, version), f"{size(text.bytes)}, {text.documents:,} documents")


def heldout_part(run: Run) -> Basis:
    """The windows of held-out text that training reads at each evaluation."""
    tokens, length, data = evaluate_tokens(run), _number(run, "data", "sequence_length"), data_of(run)
    text = f"{count(tokens)} tokens" if tokens else "a part"
    return Basis((data, str(tokens), str(length)) if data and tokens else (), text)


def evaluate_tokens(run: Run) -> int | None:
    """Tokens of held-out text that training reads at each evaluation."""
    return _number(run, "train", "evaluate_tokens")


def training_data(run: Run) -> Basis:
    data = data_of(run)
    return Basis((data,) if data else (), "")


def data_of(run: Run) -> str:
    """The SHA-256 of the prepared data's manifest; empty if it is not recorded."""
    return run.load.data if run.load else ""


def machine(run: Run) -> Basis:
    """The processor or device that trained the run."""
    where, status = run.environment, run.status
    if where is None:
        return UNRECORDED
    device = (status and status.device) or "cpu"
    ranks = (status and status.ranks) or 1
    threads = f", {where.threads} threads" if where.threads else ""
    processor = where.processor or "unknown processor"
    words = f"{processor}{threads}" if device == "cpu" else f"{device} of {where.host or 'an unknown host'}"
    key = (where.host, where.processor, str(where.cores), str(where.threads), device, str(ranks))
    return Basis(key, words + (f", {ranks} ranks" if ranks > 1 else ""))


def profiled_text(run: Run) -> Basis:
    """The text whose routing was profiled."""
    profile = run.profile
    if profile is None or profile.tokens is None:
        return UNRECORDED
    words = f"{count(profile.tokens)} tokens"
    return Basis((profile.data, str(profile.tokens)) if profile.data else (), words)


def _number(run: Run, section: str, name: str) -> int | None:
    settings = run.config.get(section)
    value = settings.get(name) if isinstance(settings, dict) else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None
