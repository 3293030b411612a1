"""Every command does what the README says, on a small config in the place of the real one."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from penstock.hooks.problems import ExitCode, ProblemError
from penstock.optim_muon.schedules import Cosine, WarmupStableDecay
from penstock.traces.trace import RoutingTrace

ROOT = Path(__file__).parents[1]


def penstock(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The real command line, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "penstock.cli", *arguments], cwd=cwd, capture_output=True, text=True, timeout=900
    )


def test_quickstart_prints_one_json_document_with_the_promised_keys(workplace, tmp_path):
    result = penstock("quickstart", "--config", str(workplace / "configs" / "quickstart.yaml"), "--json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    printed = json.loads(result.stdout)
    assert set(printed) == {
        "run_dir",
        "seconds",
        "train_tokens",
        "tokens_per_second",
        "heldout_bits_per_byte",
        "baselines",
        "max_violation_global",
        "report",
    }
    assert set(printed["baselines"]) == {
        "unigram_bits_per_byte",
        "bigram_bits_per_byte",
        "five_gram_bits_per_byte",
        "xz_bits_per_byte",
    }
    assert (tmp_path / printed["report"]).stat().st_size > 10_000
    assert printed["train_tokens"] == 1536
    stages = json.loads((tmp_path / printed["run_dir"] / "stages.json").read_text())
    assert set(stages) == {"prepare", "train", "evaluate", "profile", "simulate", "report"}


def test_the_real_quickstart_beats_bigrams(tmp_path):
    # 300,000 of its 750,000 tokens: enough for the law, in a minute.
    result = penstock("quickstart", "train.tokens=300_000", "--json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    printed = json.loads(result.stdout)
    assert printed["heldout_bits_per_byte"] < printed["baselines"]["bigram_bits_per_byte"]
    assert printed["baselines"]["five_gram_bits_per_byte"] < printed["baselines"]["bigram_bits_per_byte"]
    assert printed["baselines"]["bigram_bits_per_byte"] < printed["baselines"]["unigram_bits_per_byte"]


def test_a_dense_quickstart_has_no_experts_to_measure(workplace, tmp_path):
    dense = ["model.first_k_dense_replace=3", "model.balance=[]", "evaluate.tasks=[]"]
    result = penstock("quickstart", *dense, "--config", str(workplace / "configs" / "quickstart.yaml"), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "not measured" in result.stdout


def test_the_packaged_quickstart_is_the_one_in_configs_and_is_valid():
    from importlib.resources import files

    assert (ROOT / "configs" / "quickstart.yaml").read_text() == (
        files("penstock.quickstart") / "quickstart.yaml"
    ).read_text()
    assert penstock("config", "validate", "configs/quickstart.yaml", cwd=ROOT).stdout.endswith("valid\n")


def test_training_lowers_the_loss_and_writes_what_it_says(trained, read_json):
    rows = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    steps = [row for row in rows if "loss" in row]
    assert [row["step"] for row in steps] == list(range(1, 13))
    assert steps[-1]["loss"] < steps[0]["loss"] - 0.3
    assert [row["step"] for row in rows if "heldout/bits_per_byte" in row] == [4, 8, 12]
    assert {"balance/switch-loss", "load/max_violation", "gradient_norm", "learning_rate"} <= steps[0].keys()
    trace = RoutingTrace.load(trained / "trace" / "train.npz")
    assert trace.counts_SLE.shape == (12, 2, 8)
    assert (trace.counts_SLE.sum(axis=2) == 4 * 32 * 2).all()  # every token of a step, k times, padding never
    status = read_json(trained / "status.json")
    assert (status["state"], status["step"], status["tokens_seen"]) == ("finished", 12, 1536)
    assert sorted(path.name for path in (trained / "checkpoints").iterdir()) == [
        "latest",
        "step-00000010",
        "step-00000012",
    ]
    assert (trained / "checkpoints" / "latest").read_text() == "step-00000012\n"


def test_dry_run_counts_without_writing(command, config_file, workplace):
    before = sorted(workplace.rglob("*"))
    plan = command("train", config_file, "--dry-run", "--json", "--runs", "nowhere")
    assert plan["steps"] == 12
    assert plan["parameters"]["total"] > plan["parameters"]["active"]
    assert sorted(workplace.rglob("*")) == before


def test_a_dry_run_says_what_it_would_continue_and_refuses_what_training_refuses(command, config_file, trained, capsys):
    plan = command("train", config_file, "--dry-run", "--resume", trained)
    assert plan["continues"] == {"run": str(trained), "step": 12, "changes": []}
    assert f"would continue {trained} from step 12" in capsys.readouterr().out
    with pytest.raises(ProblemError, match=r"train\.tokens: was 1536, is 3072"):
        command("train", config_file, "train.tokens=3072", "--dry-run", "--resume", trained)
    with pytest.raises(ProblemError, match="nowhere"):
        command("train", config_file, "--dry-run", "--resume", "nowhere")


def test_the_first_and_the_last_step_have_the_rate_of_their_middle(trained):
    rows = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    factors = [row["learning_rate_factor"] for row in rows if "learning_rate_factor" in row]
    schedule = Cosine()
    assert factors == [schedule((step + 0.5) / 12) for step in range(12)]
    assert factors[0] > 0.99  # the middle of the first of 12 steps is beyond a warm-up of 2 %
    one_step = [WarmupStableDecay(warmup=0.5, decay=0.5)(progress) for progress in (0.0, 0.5, 1.0)]
    assert one_step == [0.0, 1.0, 0.0]


def test_an_export_generates_the_same_tokens_in_transformers(command, trained, tmp_path):
    from penstock.hooks.registry import Registry
    from penstock.train.restore import restore

    command("export", trained, "--format", "{use: hf, dtype: float32}", "--out", tmp_path / "export")
    ours, tokenizer = restore(trained, Registry.discover()), AutoTokenizer.from_pretrained(tmp_path / "export")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "export", dtype=torch.float32)
    prompt = torch.tensor([tokenizer.encode("def gate_3")])
    end = ours.dataset.tokenizer().end_of_text
    assert prompt.tolist()[0] == [end, *ours.dataset.tokenizer().encode("def gate_3")]
    logits = ours.model.logits(ours.model(prompt).hidden_BSD)
    torch.testing.assert_close(theirs(prompt).logits, logits, rtol=1e-5, atol=1e-5)
    generated = theirs.generate(prompt, max_new_tokens=20, do_sample=False)  # pyright: ignore[reportAttributeAccessIssue]
    assert torch.equal(generated, ours.model.generate(prompt, tokens=20, stop_token=end))
    assert (theirs.config.bos_token_id, theirs.config.eos_token_id) == (end, end)
    assert theirs.generation_config.bos_token_id == tokenizer.bos_token_id == end


def test_a_model_that_no_transformers_class_computes_is_not_exported(command, config_file, tmp_path):
    result = command("train", config_file, "model.router=softmax-topk", "train.tokens=128", "--runs", tmp_path)
    failed = penstock("export", str(Path(result["run_dir"])), cwd=tmp_path)
    assert failed.returncode == ExitCode.USAGE
    assert "no transformers class has a softmax router with a selection bias" in failed.stderr


def test_other_tasks_are_evaluated_on_request(command, trained, tmp_path, capsys):
    for name in ("one.txt", "two.txt"):
        (tmp_path / name).write_text(f"The gate feeds turbine {name} .\n" * 40)
    own = command("evaluate", trained)
    capsys.readouterr()
    asked = [("--task", f"{{use: text, paths: [{tmp_path / name}]}}") for name in ("one.txt", "two.txt")]
    result = command("evaluate", trained, *asked[0], *asked[1])
    assert set(result["tasks"]) == {"text", "text-2", "heldout"}  # what was measured before is kept
    assert result["measured"] == ["text", "text-2"]
    assert result["heldout_bits_per_byte"] == own["heldout_bits_per_byte"]
    (figure,) = result["tasks"]["text-2"]["metrics"].items()
    assert figure[0].startswith("text.bits_per_byte@two.txt-")
    assert figure[1] > 0
    now, earlier = capsys.readouterr().out.split("from earlier evaluations of this checkpoint")
    assert "text.bits_per_byte@one.txt" in now
    assert "heldout.bits_per_byte" not in now
    assert "heldout.bits_per_byte" in earlier


def test_ternary_training_runs_and_its_size_is_reported(command, config_file, tmp_path, read_json):
    result = command("train", config_file, "model.quantizer=ternary", "train.tokens=640", "--runs", tmp_path)
    sizes = {row["format"]: row["bytes"] for row in read_json(Path(result["run_dir"]) / "sizes.json")}
    packed = next(size for name, size in sizes.items() if "ernary" in name)
    assert packed < sizes["bf16"] < sizes["fp32"]


def test_layers_can_have_routers_of_their_own(command, config_file, tmp_path):
    override = "model.overrides=[{match: layers.2.mlp, router: {use: softmax-topk, k: 3}}]"
    result = command("train", config_file, override, "train.tokens=128", "--runs", tmp_path)
    trace = RoutingTrace.load(Path(result["run_dir"]) / "trace" / "train.npz")
    assert trace.counts_SLE[0].sum(axis=1).tolist() == [4 * 32 * 2, 4 * 32 * 3]
    profiled = command("profile", result["run_dir"])
    assert [sum(layer["counts"]) for layer in profiled["layers"]] == [2 * profiled["tokens"], 3 * profiled["tokens"]]
    with pytest.raises(ProblemError, match="different numbers of experts"):
        command("simulate", result["run_dir"])
    explained = command("config", "explain", config_file, "layers.2.mlp", "--set", override)
    assert ("layers.2.mlp.router.k", 3) in [(row["path"], row["value"]) for row in explained]


def test_profile_and_simulate_agree_on_the_trace(command, trained, read_json):
    profiled = command("profile", trained, "--json")
    trace = RoutingTrace.load(trained / "trace" / "heldout.npz")
    assert profiled["layers"][0]["counts"] == trace.counts_LE[0].tolist()
    assert trace.counts_LE.sum(axis=1).tolist() == [profiled["tokens"] * 2] * 2
    simulated = command("simulate", trained, "--gpus", "8,16", "--json")
    assert [row["gpus"] for row in simulated["rows"]] == [8, 16]
    assert all(row["slowdown"] >= 0.999 for row in simulated["rows"])
    assert read_json(trained / "simulation.json") == simulated


def test_a_profile_has_a_page_of_load_and_pairs(command, trained, tmp_path):
    page = tmp_path / "pages" / "profile.html"
    profiled = command("profile", trained, "--report", page)
    assert [layer["max_over_mean"] - 1 for layer in profiled["layers"]] == pytest.approx(
        [layer["max_violation"] for layer in profiled["layers"]]
    )
    assert page.read_text().count("<img") == 1 + 2


def test_help_starts_without_libraries_that_it_does_not_need():
    code = (
        "import sys; from penstock.cli.main import _exit_code; code = _exit_code(['--help']); "
        "assert code == 0; assert not {'pydantic', 'numpy', 'torch', 'logging'} & sys.modules.keys()"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["plugins", "list"],
        ["config", "validate", "configs/quickstart.yaml"],
        ["config", "schema"],
        ["config", "explain", "configs/quickstart.yaml", "model"],
    ],
)
def test_light_commands_never_import_torch(arguments):
    code = (
        "import sys; from penstock.cli.main import _exit_code; code = _exit_code(sys.argv[1:]); "
        "assert code == 0, code; assert 'torch' not in sys.modules, 'torch was imported'"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stderr


@pytest.fixture
def copied(trained, tmp_path):
    """A copy of the run beside its data, to be written to."""
    run = tmp_path / "runs" / trained.parent.name / trained.name
    shutil.copytree(trained.parent.parent / "data", tmp_path / "runs" / "data")
    shutil.copytree(trained, run, ignore=shutil.ignore_patterns(".lock", "evaluation.json"))
    return run


def test_figures_of_another_text_are_kept_and_those_of_the_same_are_replaced(command, copied, tmp_path):
    asked = {}
    for name in ("north.txt", "south.txt"):
        (tmp_path / name).write_text(f"The gate feeds turbine {name} .\n" * 40)
        asked[name] = ("--task", f"{{use: text, paths: [{tmp_path / name}]}}")
    for name in ("north.txt", "south.txt", "south.txt"):
        result = command("evaluate", copied, *asked[name])
    texts = [key for task in result["tasks"].values() for key in task["metrics"] if key.startswith("text.")]
    assert result["measured"] == ["text"]
    assert "south.txt" in next(iter(result["tasks"]["text"]["metrics"]))
    for name in ("north.txt", "south.txt"):
        assert sum(name in key for key in texts) == 1


@pytest.mark.parametrize("name", ["evaluate", "simulate", "profile", "export", "report"])
def test_a_folder_of_runs_is_its_newest_run_for_every_command(command, copied, tmp_path, name):
    assert command(name, copied.parent)
    assert list(tmp_path.rglob("*.html")) or name != "report"
