"""Whatever a user gets wrong is said with its place and its remedy, all of it at once, and nothing is lost."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from penstock.cli.main import main, run
from penstock.hooks import ProblemError, Registry
from penstock.hooks.problems import ExitCode
from penstock.run.config import load_run_config, read_run_config
from penstock.train.compose import compose_model


def fails(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """Exit code and stderr of a command line; a traceback would escape as an exception."""
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return int(stop.value.code or 0), capsys.readouterr().err


def changed(config_file: Path, folder: Path, old: str, new: str) -> Path:
    text = config_file.read_text()
    assert old in text
    path = folder / "changed.yaml"
    path.write_text(text.replace(old, new))
    return path


def test_a_wrong_config_ends_with_2_as_json_too(config_file, tmp_path, capsys):
    path = changed(config_file, tmp_path, "hidden_size: 32", "hiden_size: 32")
    with pytest.raises(SystemExit) as stop:
        main(["config", "validate", str(path), "--json"])
    assert stop.value.code == ExitCode.USAGE
    assert [each["code"] for each in json.loads(capsys.readouterr().out)["problems"]] == ["unknown-field"]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "hidden_size: 32",
            "hiden_size: 32",
            ["changed.yaml:10:3: model.hiden_size: unknown field", "did you mean 'hidden_size'?"],
        ),
        (
            "use: sigmoid-topk",
            "use: sigmod-topk",
            ["changed.yaml:17:", "unknown router 'sigmod-topk'", "did you mean 'sigmoid-topk'?"],
        ),
        (
            "hidden_size: 32",
            "hidden_size: 32\n  vocab_size: 399",
            ["changed.yaml:11:3: model.vocab_size", "399 embeddings, but data.tokenizer.vocab_size is 400"],
        ),
        ("k: 2}", "k: two}", ["changed.yaml:17:31: model.router.k", "valid integer"]),
        ("k: 2}", "k: 9}", ["changed.yaml", "model.router.k", "k = 9", "a layer has 8"]),
        (
            "num_key_value_heads: 1",
            "num_key_value_heads: 3",
            ["num_attention_heads (2) is not a multiple of num_key_value_heads (3)"],
        ),
        ("k: 2}", "k: 2, groups: 3}", ["changed.yaml", "model.router.groups: groups = 3 do not divide the 8 experts"]),
        (
            "k: 2}",
            "k: 1}",
            ["changed.yaml:17:3: model.router: with k = 1 and normalize", "write `normalize: false`, or k of 2"],
        ),
        (
            "tokens: 1536",
            "tokens: 1536\n  observers: [{use: load-trace, every: 0}]",
            ["every", "or equal to 1"],
        ),
        ("batch_size: 4", "batch_size: 5", ["batch_size (5) is not a multiple of micro_batch_size (2)"]),
        ("preset: quickstart", "preset: quikstart", ["unknown preset 'quikstart'", "did you mean 'quickstart'?"]),
        (
            "  batch_size: 4",
            "  batch_size: 4\n  batch_size: 8",
            ["changed.yaml:25:3: duplicate key 'batch_size'"],
        ),
        ("tokens: 1536", "tokens: [", ["changed.yaml:2", "not valid YAML"]),
    ],
)
def test_a_wrong_config_names_the_line_and_what_was_meant(capsys, config_file, tmp_path, old, new, expected):
    path = changed(config_file, tmp_path, old, new)
    code, message = fails(capsys, "train", path, "--runs", tmp_path / "runs")
    assert code == ExitCode.USAGE
    for part in expected:
        assert part in message
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("router", ["sigmoid-topk", "softmax-topk", "sqrtsoftplus-topk", "two-layer", "sinkhorn"])
def test_a_router_that_the_text_would_not_train_is_refused_in_every_layer_that_has_it(config_file, router):
    registry = Registry.discover()
    constant = f"{{use: {router}, k: 1}}"
    override = f"model.overrides=[{{match: layers.2.mlp, router: {constant}}}]"
    for written in (f"model.router={constant}", override):
        with pytest.raises(ProblemError, match="learns nothing from the text"):
            load_run_config(config_file, [written], registry)
        read_run_config(config_file, [written], registry)  # of a run of an earlier version
        load_run_config(config_file, [written.replace("k: 1", "k: 1, normalize: false")], registry)
    upcycled = (
        "model={use: frozen-base, place: in_place, layers: [0], router: ROUTER, "
        "base: {use: glm-moe, preset: quickstart, first_k_dense_replace: 3}}"
    )
    with pytest.raises(ProblemError, match=r"model\.router: .*learns nothing from the text"):
        load_run_config(config_file, [upcycled.replace("ROUTER", constant)], registry)
    for untrained in ("{use: frozen, k: 1}", "{use: cluster, k: 1}"):
        load_run_config(config_file, [f"model.router={untrained}"], registry)


def test_losses_of_one_name_are_both_used(config_file):
    registry = Registry.discover()
    twice = "model.balance=[{use: z-loss, weight: 1000}, {use: loss-free}, {use: z-loss, weight: 0.5}]"
    config, _ = load_run_config(config_file, [twice], registry)
    losses = compose_model(config, 400, "meta").losses
    assert {name: loss.weight for name, loss in losses.items()} == {"z-loss": 1000, "z-loss-2": 0.5}


def test_all_config_problems_come_at_once(capsys, config_file, tmp_path):
    text = config_file.read_text().replace("hidden_size: 32", "hiden_size: 32", 1).replace("k: 2}", "kk: 2}")
    path = tmp_path / "three.yaml"
    path.write_text(text.replace("tokens: 1536", "tokens: many"))
    code, message = fails(capsys, "config", "validate", path)
    assert code == ExitCode.USAGE
    assert [line.split(":")[2] for line in message.splitlines()] == ["10", "17", "23"]


def test_an_override_is_named_by_its_position(capsys, config_file):
    code, message = fails(capsys, "train", config_file, "seed=1", "model.router.kk=3")
    assert code == ExitCode.USAGE
    assert "command line, override 2: model.router.kk: unknown field, did you mean 'k'?" in message


@pytest.mark.parametrize(
    ("files", "paths", "expected"),
    [
        ({}, "missing", "missing"),
        ({"empty/.keep": b""}, "empty", "empty"),
        ({"binary.txt": b"text\x00more"}, "binary.txt", "binary.txt"),
        ({"latin.txt": b"caf\xe9 " * 50}, "latin.txt", "latin.txt"),
        ({"short.txt": b"one short text", "other.txt": b"another one"}, "*.txt", "tokens"),
    ],
)
def test_a_corpus_that_cannot_be_used_is_refused_before_training(capsys, config_file, tmp_path, files, paths, expected):
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    code, message = fails(
        capsys, "prepare", config_file, f"data.corpus.paths=['{tmp_path / paths}']", "--runs", tmp_path / "runs"
    )
    assert code in (ExitCode.USAGE, ExitCode.FAILED)
    assert "error:" in message
    assert expected in message
    assert not list((tmp_path / "runs").glob("data/*/manifest.json"))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("train", "nowhere.yaml"), "config file not found"),
        (("evaluate", "nowhere"), "model not found"),
        (("evaluate", "."), "not a run, an artifact or a folder of transformers"),
        (("evaluate", ".", "nowhere", "--compare"), "not a run, an artifact"),
        (("simulate", "nowhere.npz", "--hidden-size", "8"), "trace not found"),
        (("trian", "x.yaml"), "did you mean 'train'?"),
    ],
)
def test_what_is_not_there_is_named(capsys, tmp_path, monkeypatch, arguments, expected):
    monkeypatch.chdir(tmp_path)
    code, message = fails(capsys, *arguments)
    assert code == ExitCode.USAGE
    assert expected in message


def test_a_run_that_another_process_works_on_is_left_alone(capsys, trained):
    from penstock.run.directory import RunDirectory

    with RunDirectory.open(trained).lock():
        code, message = fails(capsys, "evaluate", trained)
    assert code == ExitCode.USAGE
    assert "another process is writing to this run" in message


def test_a_component_of_a_package_that_is_not_installed_names_the_package(config_file):
    from penstock.hooks.discovery import discover
    from penstock.hooks.problems import ProblemError
    from penstock.hooks.registry import Registry
    from penstock.run.config import load_run_config

    without = Registry(plugin for plugin in discover() if plugin.origin.distribution != "penstock-sharing")
    with pytest.raises(ProblemError, match="uv add penstock-sharing"):
        load_run_config(config_file, (), without)


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(capsys, command, config_file, tmp_path):
    run = Path(command("train", config_file, "train.tokens=1280", "--runs", tmp_path)["run_dir"])
    newest = run / "checkpoints" / "step-00000010" / "model.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    capsys.readouterr()
    result = command("evaluate", run, "--json")
    assert result["checkpoint"] == "step-00000005"
    assert "step-00000010: damaged files: model.safetensors" in capsys.readouterr().err


def test_a_diverged_run_stops_and_writes_no_ruined_checkpoint(command, config_file, tmp_path):
    from penstock.hooks.problems import ProblemError
    from penstock.train.checkpoint import newest_checkpoint

    with pytest.raises(ProblemError, match=r"became (nan|inf) at step"):
        command(
            "train",
            config_file,
            "train.optimizer={use: muon, lr: 1e30}",
            "train.checkpoint_every=1",
            "--runs",
            tmp_path,
        )
    (run,) = (tmp_path / "quickstart").glob("2*")
    checkpoint = newest_checkpoint(run / "checkpoints", pytest.fail)
    if checkpoint is not None:
        from safetensors.torch import load_file

        assert all(
            bool(tensor.isfinite().all()) for tensor in load_file(checkpoint.path / "model.safetensors").values()
        )


def test_a_profile_of_less_than_a_sequence_is_refused(capsys, trained):
    code, message = fails(capsys, "profile", trained, "--max-tokens", "10")
    assert code == ExitCode.FAILED
    assert "10 tokens do not fill one window of 32" in message


def test_a_dry_run_names_everything_that_would_stop_the_run(capsys, config_file, tmp_path):
    objective = "train.objective={use: masked-next-token, paths: [a.jsonl], heldout: [b.jsonl]}"
    corpus = "data.corpus={use: text, paths: [no-such-folder]}"
    code, message = fails(capsys, "train", config_file, objective, corpus, "--dry-run", "--runs", tmp_path / "runs")
    assert code == ExitCode.USAGE
    assert "a.jsonl" in message
    assert "no-such-folder" in message


def test_a_start_that_fails_says_so_in_its_status(capsys, config_file, tmp_path):
    _, message = fails(capsys, "train", config_file, "data.heldout_share=0.0000001", "--runs", tmp_path / "runs")
    [status] = (tmp_path / "runs").glob("*/2*/status.json")
    written = json.loads(status.read_text())
    assert written["state"] == "failed"
    assert written["message"] in message


def test_a_folder_given_as_a_config_says_how_a_run_is_continued(capsys, tmp_path):
    code, message = fails(capsys, "train", tmp_path)
    assert code == ExitCode.USAGE
    assert "--resume RUN" in message


PLUGIN = """
from penstock.hooks import Component, hookimpl
@hookimpl
def routers():
    settings = "penstock.routers.config:SigmoidTopKConfig"
    return [Component("router", "own", "penstock.routers.topk:SigmoidTopK", "A router of a file", settings)]
"""


def test_a_run_of_a_plugin_file_names_the_file_when_it_is_missing(capsys, config_file, tmp_path, monkeypatch):
    file = tmp_path / "own_router.py"
    file.write_text(PLUGIN)
    chosen = ("train", config_file, "model.router={use: own, k: 2}", "train.tokens=256", "--runs", tmp_path / "runs")
    command = ["--plugin", str(file), *map(str, chosen)]
    monkeypatch.setattr(sys, "argv", ["penstock", *command])
    run(command)
    [made] = (tmp_path / "runs").glob("*/2*")
    _, message = fails(capsys, "evaluate", made)
    assert f"the run was started with `--plugin {file}`: pass it again" in message
