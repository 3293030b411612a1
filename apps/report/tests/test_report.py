"""The report page, from run directories that are fabricated here file by file."""

from __future__ import annotations

import json
import re
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock.hooks.problems import ProblemError
from penstock.report.labels import differences
from penstock.report.page import render_report
from penstock.traces.trace import RoutingTrace

CONFIG = """\
name: {name}
seed: 0
data:
  corpus: {{use: python-stdlib}}
  sequence_length: 256
model:
  use: glm-moe
  preset: quickstart
  router: {{use: sigmoid-topk, k: 2}}
  balance:
    - {{use: loss-free, rate: {rate}}}
train:
  tokens: 2_000_000
  evaluate_tokens: 8192
  optimizer: {{use: muon, lr: 0.02}}
"""


def metric_rows(steps: int, seed: int) -> list[dict[str, Any]]:
    """Training rows like those of a small run, with a held-out row every eighth of the way."""
    generator = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        done = step / steps
        loss = 3.1 + 5.2 * np.exp(-6 * done) + generator.normal(0, 0.07)
        factor = min(1.0, done / 0.06) if done < 0.7 else max(0.05, 1 - (done - 0.7) / 0.3)
        uneven = 0.28 + 1.5 * np.exp(-9 * done) + abs(generator.normal(0, 0.05))
        rows.append(
            {
                "step": step,
                "tokens": step * 8192,
                "loss": loss,
                "learning_rate_factor": factor,
                "learning_rate": 0.02 * factor,
                "gradient_norm": 0.6 + 5 * np.exp(-20 * done) + generator.gamma(2, 0.12),
                "tokens_per_second": 11_800 * (1 + generator.normal(0, 0.04)),
                "elapsed": step * 0.7,
                "seconds/data": 0.012,
                "seconds/forward": 0.21,
                "seconds/backward": 0.39,
                "seconds/optimizer": 0.085,
                "balance/loss-free": 0.001 * uneven,
                "load/max_violation": uneven,
                "load/max_violation_worst": 1.7 * uneven,
                "load/gini": 0.09 + 0.3 * uneven,
                "load/cv": 0.5 * uneven,
                "load/entropy": 2.77 - 0.12 * uneven,
                "load/dead_experts": 0,
            }
        )
        if step % max(1, steps // 8) == 0:
            rows.append(
                {"step": step, "heldout/loss": loss + 0.12, "heldout/bits_per_byte": 0.45 * (loss + 0.12) + 0.4}
            )
    return rows


def trace(steps: int, layers: int, experts: int, seed: int) -> RoutingTrace:
    """Routing that starts with favourites and evens out."""
    generator = np.random.default_rng(seed)
    taste_LE = generator.normal(0, 0.9, (layers, experts))
    fade_S11 = (0.18 + np.exp(-np.arange(steps) / (0.18 * steps)))[:, None, None]
    drift_SLE = generator.normal(0, 0.08, (steps, layers, experts))
    share_SLE = np.exp(taste_LE * fade_S11 + drift_SLE)
    counts_SLE = generator.poisson(16384 * share_SLE / share_SLE.sum(-1, keepdims=True))
    return RoutingTrace(
        counts_SLE.astype(np.int64), {"layers": list(range(1, layers + 1)), "k": 2, "steps": list(range(1, steps + 1))}
    )


def make_run(
    path: Path,
    *,
    name: str = "quickstart",
    steps: int = 240,
    layers: int = 4,
    experts: int = 16,
    seed: int = 0,
    rate: float = 0.001,
) -> Path:
    """Fabricates the directory of a run that went through every stage."""
    path.mkdir(parents=True)

    def dump(file: str, value: Any) -> None:
        (path / file).write_text(json.dumps(value), encoding="utf-8")

    (path / "config.resolved.yaml").write_text(CONFIG.format(name=name, rate=rate), encoding="utf-8")
    (path / "overrides.txt").write_text("train.tokens=2_000_000\n", encoding="utf-8")
    command = "penstock train configs/quickstart.yaml train.tokens=2_000_000"
    dump(
        "environment.json",
        {
            "python": "3.11.9",
            "platform": "Linux-6.1-x86_64",
            "packages": {"torch": "2.13.0", "numpy": "2.4.6", "deepspeed": None},
            "git": {"commit": "4f0c1d9e77aa", "dirty": True},
            "argv": command.split(),
            "seed": 0,
            "host": "laptop",
            "threads": 2,
            "command": command,
        },
    )
    dump(
        "plugins.lock.json",
        {
            "components": [
                {
                    "kind": kind,
                    "name": component,
                    "distribution": distribution,
                    "version": "0.1.0",
                    "hash": "9c41e0b7d2aa",
                    "contract": 1,
                }
                for kind, component, distribution in (
                    ("architectures", "glm-moe", "penstock-moe-core"),
                    ("routers", "sigmoid-topk", "penstock-routers"),
                    ("balancers", "loss-free", "penstock-routers"),
                    ("optimizers", "muon", "penstock-optim-muon"),
                )
            ]
        },
    )
    dump(
        "status.json",
        {
            "state": "finished",
            "step": steps,
            "steps": steps,
            "tokens_seen": steps * 8192,
            "seconds": 168.2,
            "parameters": {
                "total": 12_340_000,
                "active": 4_210_000,
                "by_role": {
                    "expert": 9_100_000,
                    "embedding": 2_100_000,
                    "attention": 980_000,
                    "router": 120_000,
                    "norm": 40_000,
                },
            },
        },
    )
    rows = metric_rows(steps, seed)
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    trace(steps, layers, experts, seed).save(path / "trace" / "train.npz")
    heldout = trace(8, layers, experts, seed + 1)
    heldout.save(path / "trace" / "heldout.npz")
    bits = next((row["heldout/bits_per_byte"] for row in reversed(rows) if "heldout/loss" in row), 1.9)
    dump(
        "evaluation.json",
        {
            "checkpoint": f"step-{steps:06d}",
            "heldout_bits_per_byte": bits,
            "heldout_text": {"sha256": "6a1f", "bytes": 1_200_000, "documents": 45},
            "seconds": 21.0,
            "tasks": {
                "heldout": {
                    "metrics": {"heldout.bits_per_byte@disjoint-256": bits, "heldout.perplexity@token": 25.1},
                    "details": {},
                },
                "code": {"metrics": {"code.parses@8": 0.375}, "details": {"n": 8}},
            },
            "baselines": {"unigram_bits_per_byte": 4.61, "bigram_bits_per_byte": 3.42, "xz_bits_per_byte": 2.38},
            "samples": [
                {
                    "prompt": "def ",
                    "temperature": 0.8,
                    "text": "__init__(self, path, mode='r'):\n    self.path = path\n    "
                    "if mode not in ('r', 'w'):\n        raise ValueError('mode must be r or w')\n",
                },
                {
                    "prompt": "import ",
                    "temperature": 0.2,
                    "text": "import os\nimport sys\n\n__all__ = ['open', 'close']\n",
                },
            ],
            "performance": {
                "prefill_ms": 38.2,
                "decode_ms_median": 4.6,
                "tokens_per_second": 214.0,
                "peak_memory_bytes": 412_000_000,
            },
        },
    )
    counts_LE = heldout.counts_LE
    violations = (counts_LE.max(-1) / counts_LE.mean(-1) - 1).tolist()
    dump(
        "profile.json",
        {
            "split": "heldout",
            "tokens": 65_536,
            "max_violation_global": max(violations),
            "max_violation_batch": 1.2 * max(violations),
            "layers": [
                {
                    "layer": index + 1,
                    "max_violation": violation,
                    "gini": 0.21,
                    "cv": 0.4,
                    "entropy": 2.6,
                    "dead_experts": 0,
                    "counts": counts_LE[index].tolist(),
                }
                for index, violation in enumerate(violations)
            ],
        },
    )
    dump(
        "simulation.json",
        {
            "hardware": "h800",
            "topology": "two-level",
            "hidden_size": 512,
            "tokens_per_gpu": 4096,
            "rows": [
                {
                    "gpus": gpus,
                    "nodes": max(1, gpus // 8),
                    "dispatch_seconds": 0.4 * seconds,
                    "combine_seconds": 0.6 * seconds,
                    "mean_seconds": seconds * slowdown,
                    "p99_seconds": 1.25 * seconds * slowdown,
                    "max_seconds": 1.4 * seconds,
                    "exchanges": 480,
                    "balanced_seconds": seconds,
                    "slowdown": slowdown,
                    "bytes_between_nodes": 3e6 * gpus,
                    "worst_layer": 2,
                }
                for gpus, seconds, slowdown in (
                    (8, 2.1e-4, 1.12),
                    (16, 4.4e-4, 1.21),
                    (32, 5.9e-4, 1.33),
                    (64, 7e-4, 1.47),
                )
            ],
        },
    )
    dump(
        "sizes.json",
        [
            {"format": "fp32", "bytes": 49_360_000},
            {"format": "bf16", "bytes": 24_680_000},
            {"format": "ternary", "bytes": 6_200_000},
        ],
    )
    dump(
        "stages.json",
        {"prepare": 31.0, "train": 168.2, "evaluate": 21.0, "profile": 9.4, "simulate": 3.1, "report": 2.2},
    )
    return path


class Page(HTMLParser):
    """What a browser would see: tags with attributes, ids, and text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html = html
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.parts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.parts.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.parts)).replace("\u00a0", " ")


def rendered(tmp_path: Path, *runs: Path) -> Page:
    return Page(render_report(list(runs), tmp_path / "out" / "report.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """The page of a run with every stage."""
    path = tmp_path_factory.mktemp("full")
    return rendered(path, make_run(path / "run"))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """The page of two runs, the second with fewer bits per byte."""
    path = tmp_path_factory.mktemp("pair")
    runs = []
    for name, bits, rate in (("slow", 2.5, 0.001), ("fast", 2.25, 0.01)):
        run = make_run(path / name, name=name, steps=40, layers=2, rate=rate)
        evaluation = json.loads((run / "evaluation.json").read_text())
        (run / "evaluation.json").write_text(json.dumps({**evaluation, "heldout_bits_per_byte": bits}))
        runs.append(run)
    return rendered(path, *runs)


def bare_run(path: Path, config: str = "name: bare\n", **files: Any) -> Path:
    """A run that stopped right after it wrote its config, and the JSON files that are named."""
    path.mkdir(parents=True)
    (path / "config.resolved.yaml").write_text(config, encoding="utf-8")
    for name, value in files.items():
        (path / f"{name}.json").write_text(json.dumps(value), encoding="utf-8")
    return path


def test_page_loads_nothing_from_anywhere(full: Page) -> None:
    for tag, attributes in full.tags:
        assert tag not in {"script", "link", "iframe", "object", "embed", "base"}
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href", "xlink:href", "srcset", "action", "data"):
            assert attributes.get(name, "#").startswith(("data:image/png;base64,", "#"))
    assert all(target.startswith("#") for target in re.findall(r"url\(\s*['\"]?([^)]*)", full.html))
    assert "@import" not in full.html


def test_page_forbids_scripts_and_requests_by_policy(full: Page) -> None:
    policies = [attributes["content"] for tag, attributes in full.tags if attributes.get("http-equiv")]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]


def test_page_of_a_full_run_has_every_section_and_no_hint(full: Page) -> None:
    for heading in ("Learning", "Balance of experts", "Time and size", "Evaluation", "Network prediction", "Reproduce"):
        assert heading in full.text
    for title in (
        "Loss",
        "Held-out text",
        "Learning rate",
        "Gradient norm",
        "Throughput",
        "Expert load while training",
        "MaxVio",
        "Gini coefficient",
        "Entropy of load",
        "Layers",
        "Time by stage",
        "Time within a step",
        "Parameters by role",
        "Size of the weights",
        "Tasks",
        "Inference",
        "Samples",
        "Exchange between experts",
        "Environment",
        "Components",
    ):
        assert any(title == part.strip() for part in full.parts), title
    assert not any(attributes.get("class") == "hint" for _, attributes in full.tags)
    assert "penstock train configs/quickstart.yaml train.tokens=2_000_000" in full.text
    assert sum(attributes.get("class") == "tile" for _, attributes in full.tags) == 6


CARDS = {
    "metrics.jsonl": ("Gradient norm", "penstock train"),
    "trace/train.npz": ("Expert load while training", "penstock train"),
    "profile.json": ("Layers", "penstock profile"),
    "evaluation.json": ("Samples", "penstock evaluate"),
    "simulation.json": ("Exchange between experts", "penstock simulate"),
    "sizes.json": ("Size of the weights", "penstock train"),
    "stages.json": ("Time by stage", "penstock quickstart"),
    "status.json": ("Parameters by role", "penstock train"),
    "environment.json": ("Environment", "penstock train"),
    "plugins.lock.json": ("Components", "penstock train"),
    "config.resolved.yaml": ("Resolved config", "penstock train"),
}
"""A file of the run directory, a card that needs it, and the command that writes it."""


@pytest.mark.parametrize("missing", [list(CARDS)[::2], list(CARDS)[1::2]], ids=["half", "other-half"])
def test_a_missing_file_leaves_its_card_out_and_names_the_command(tmp_path: Path, missing: list[str]) -> None:
    run = make_run(tmp_path / "run", steps=12, layers=2)
    for file in missing:
        (run / file).unlink()
    page = rendered(tmp_path, run)
    hints = re.findall(r'<p class="hint">No .*?<code>(.*?)</code>', page.html)
    for file, (title, command) in CARDS.items():
        assert any(title == part.strip() for part in page.parts) is (file not in missing), title
        assert file not in missing or any(hint.startswith(command) for hint in hints)


def test_a_run_with_only_a_config_still_gives_a_page(tmp_path: Path) -> None:
    page = rendered(tmp_path, bare_run(tmp_path / "run"))
    assert "bare" in page.text
    assert page.html.count('class="hint"') >= 8


def test_rendering_again_gives_the_same_bytes(tmp_path: Path, full: Page) -> None:
    make_run(tmp_path / "run")
    assert rendered(tmp_path, tmp_path / "run").html == full.html


def test_everything_a_run_can_say_is_escaped(tmp_path: Path) -> None:
    evil = '<script>alert(1)</script>"><img src=x onerror=alert(2)>\x1b[31m'
    run = make_run(tmp_path / "run", steps=12, layers=2)
    (run / "config.resolved.yaml").write_text(
        "name: " + json.dumps(evil) + "\nmodel: {use: " + json.dumps(evil) + "}\n"
    )
    (run / "overrides.txt").write_text(evil)
    for file in (
        "environment.json",
        "plugins.lock.json",
        "status.json",
        "evaluation.json",
        "profile.json",
        "simulation.json",
        "sizes.json",
        "stages.json",
    ):
        value = json.loads((run / file).read_text())
        (run / file).write_text(json.dumps(poisoned(value, evil)))
    rows = [
        {**row, **({f"balance/{evil}": 0.1, f"seconds/{evil}": 0.1} if "loss" in row else {})}
        for row in metric_rows(12, 0)
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    other = bare_run(tmp_path / "other", status={"state": evil, "tokens_seen": 7})
    for page in (rendered(tmp_path, run), rendered(tmp_path, run, other)):
        assert "<script>alert(1)</script>" in page.text
        assert not {"script"} & {tag for tag, _ in page.tags}
        assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
        assert all(attributes["src"].startswith("data:image/png") for tag, attributes in page.tags if tag == "img")
        assert "\x1b" not in page.html


def poisoned(value: Any, evil: str) -> Any:
    """The value with each string in it, and each key of a table of names, replaced."""
    if isinstance(value, dict):
        named = {"packages", "by_role", "tasks", "metrics"}
        return {
            key: {evil: next(iter(below.values()))}
            if key in named and key != "tasks" and below
            else poisoned(below, evil)
            for key, below in value.items()
        }
    if isinstance(value, list):
        return [poisoned(below, evil) for below in value]
    return evil if isinstance(value, str) else value


def test_text_that_cannot_be_shown_is_replaced(tmp_path: Path) -> None:
    run = bare_run(tmp_path / "run", evaluation={"samples": [{"prompt": "a", "text": "a\u0000b\u001b[1mc"}]})
    assert "a\ufffdb\ufffd[1mc" in rendered(tmp_path, run).text


def test_several_runs_are_compared_first_and_then_shown_each(pair: Page) -> None:
    assert "2 runs compared" in pair.text
    assert "fast has the lowest held-out bits per byte, 2.25, 0.25 below slow. Each is one run" in pair.text
    assert re.search(r'<td class="n best">2\.25</td>', pair.html)
    assert not re.search(r'best">2\.50', pair.html)
    assert "model.balance.0.rate" in pair.text
    assert pair.html.index("Headline figures") < pair.html.index('id="run-1"') < pair.html.index('id="run-2"')


def test_no_two_elements_share_an_id(pair: Page) -> None:
    ids = [attributes["id"] for _, attributes in pair.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    used = re.findall(r'url\(#([^)]*)\)|href="#([^"]*)"', pair.html)
    assert {left or right for left, right in used} <= set(ids)


def test_runs_of_one_name_and_one_config_are_numbered_and_their_directories_listed(tmp_path: Path) -> None:
    page = rendered(tmp_path, *(bare_run(tmp_path / name) for name in ("20260101-aa", "20260102-bb")))
    assert "2 runs of bare compared" in page.text
    for text in ("bare (1)", "bare (2)", "20260101-aa", "20260102-bb"):
        assert text in page.text


def test_a_dense_model_says_that_there_is_no_load(tmp_path: Path) -> None:
    parameters = {"total": 1000, "active": 1000, "by_role": {"embedding": 400, "attention": 600}}
    page = rendered(tmp_path, bare_run(tmp_path / "run", status={"state": "finished", "parameters": parameters}))
    assert "no mixture-of-experts layers" in page.text
    assert "penstock profile" not in page.text
    assert "Network prediction" not in page.text


def test_a_trace_without_layers_is_a_dense_model(tmp_path: Path) -> None:
    run = bare_run(tmp_path / "run")
    RoutingTrace(np.zeros((12, 0, 4), np.int64)).save(run / "trace" / "train.npz")
    assert "no mixture-of-experts layers" in rendered(tmp_path, run).text


def test_one_metric_row_is_enough(tmp_path: Path) -> None:
    run = bare_run(tmp_path / "run")
    (run / "metrics.jsonl").write_text(json.dumps(metric_rows(1, 0)[0] | {"loss": 7.25}) + "\n")
    assert "One step was recorded, step 1, with a loss of 7.25 nats per token." in rendered(tmp_path, run).text


def test_rows_that_are_not_finite_are_counted_and_left_out(tmp_path: Path) -> None:
    run = bare_run(tmp_path / "run")
    values = [8.0, 6.0, float("nan"), float("inf"), None, 4.0]
    rows = [{"step": step, "loss": value, "gradient_norm": float("nan")} for step, value in enumerate(values, start=1)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = rendered(tmp_path, run)
    assert (
        "Loss falls from 8.00 at step 1 to 4.00 nats per token (step 6); "
        "3 rows without a finite loss, the first at step 3." in page.text
    )
    assert "Gradient norm" not in page.text
    assert not re.search(r'd="[^"]*nan', page.html)


def test_captions_state_the_numbers_of_the_run(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", steps=12, layers=2)
    rows = [
        {
            "step": step,
            "tokens": step * 100,
            "loss": 8.0 if step == 1 else 4.0,
            "learning_rate": 0.5 if step == 3 else 0.125,
            "gradient_norm": 9.0 if step == 7 else 1.0,
            "tokens_per_second": 2500.0,
            "seconds/forward": 0.25,
            "seconds/backward": 0.75,
            "load/max_violation": 2.0 if step <= 10 else 0.5,
            "load/max_violation_worst": 3.0,
        }
        for step in range(1, 101)
    ]
    rows += [{"step": 6, "heldout/bits_per_byte": 2.0}, {"step": 12, "heldout/bits_per_byte": 1.1}]
    evaluation = json.loads((run / "evaluation.json").read_text())
    (run / "evaluation.json").write_text(json.dumps({**evaluation, "heldout_bits_per_byte": 1.5}))
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    counts_SLE = np.full((20, 2, 4), 10)
    counts_SLE[-2:, 1] = [25, 15, 0, 0]
    RoutingTrace(counts_SLE.astype(np.int64), {"layers": [3, 5]}).save(run / "trace" / "train.npz")
    text = rendered(tmp_path, run).text
    for sentence in (
        "Loss falls from 8.00 at step 1 to 4.00 nats per token (mean of the last 3 rows), level over the last tenth.",
        "All held-out text (1.20 MB, 45 documents) takes 1.50 bits per byte at step 12: 67 % below unigram (4.61), "
        "56 % below bigram (3.42), 37 % below xz (2.38). In training, 8,192 tokens of the held-out text take 1.10 at "
        "step 12. The two are not comparable: the text differs.",
        "Peaks at 0.5 at step 3 and ends at 0.125, 25 % of the peak.",
        "Median 1.00; the largest, 9.00, is at step 7.",
        "Median 2,500 tokens per second; nine steps in ten are between 2,500 and 2,500.",
        "falls from 2.00 in the first tenth of the run to 0.5 at its end (0 is even). The worst layer ends at 3.00.",
        "the busiest expert, number 0 of layer 5, has 2.50\u00d7 its fair share, and 2 of 8 experts are never chosen.",
        "Backward takes 75 % of an average step of 1.00 s.",
        "Train takes 72 % of a total of 3 min 55 s.",
        "74 % of 12.3 M parameters are expert weights; a token uses 4.21 M of all, 34 %.",
        "As ternary the weights take 6.20 MB, as fp32 7.96 times as much.",
        "With 64 GPUs an exchange takes 1.03 ms, 1.47\u00d7 the 700 \u00b5s of perfectly balanced experts. "
        "Means are over 480 exchanges.",
    ):
        assert sentence in text, sentence


def test_a_large_model_shows_eight_layers_and_says_so(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", steps=60, layers=89, experts=160)
    started = time.process_time()
    out = render_report([run], tmp_path / "report.html")
    assert time.process_time() - started < 8
    assert out.stat().st_size < 3_000_000
    page = Page(out.read_text(encoding="utf-8"))
    assert sum(tag == "figure" for tag, _ in page.tags) == 8
    assert "8 of 89 layers are shown, evenly spaced." in page.text
    assert sum(attributes.get("class") == "strip" for _, attributes in page.tags) == 89


def test_a_damaged_file_is_named_on_the_page(tmp_path: Path) -> None:
    run = bare_run(tmp_path / "run")
    (run / "profile.json").write_text('{"layers": [{"layer": "three"}]}')
    (run / "trace").mkdir()
    (run / "trace" / "train.npz").write_bytes(b"no trace")
    (run / "status.json").write_text("{")
    page = rendered(tmp_path, run)
    problems = page.html[page.html.index('class="problems"') :].split("</ul>")[0]
    for file in ("profile.json: layers.0.layer", "train.npz", "status.json"):
        assert file in problems


def test_a_network_without_a_named_hardware_is_shown(tmp_path: Path) -> None:
    rows = [{"gpus": 8, "mean_seconds": 1e-4}, {"gpus": 16, "mean_seconds": 2e-4}]
    page = rendered(
        tmp_path, bare_run(tmp_path / "run", simulation={"topology": "graph", "hardware": None, "rows": rows})
    )
    assert 'class="problems"' not in page.html
    assert "Exchange between experts" in page.text


def test_a_directory_that_is_no_run_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for wrong, code in ((tmp_path / "absent", "missing-file"), (tmp_path / "empty", "not-a-run")):
        with pytest.raises(ProblemError) as raised:
            render_report([wrong], tmp_path / "report.html")
        assert raised.value.problems[0].code == code
    with pytest.raises(ProblemError):
        render_report([], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_settings_that_differ_are_found_at_any_depth() -> None:
    configs = [
        {"name": "a", "model": {"balance": [{"rate": 1}], "tied": True}},
        {"name": "b", "model": {"balance": [], "tied": True}},
    ]
    assert differences(configs) == [("model.balance.0.rate", ["1", "\u2014"]), ("model.balance", ["\u2014", "[]"])]
