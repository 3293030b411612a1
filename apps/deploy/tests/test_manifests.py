"""The files of a deployment are written whole, and the command in them is one that `penstock serve` takes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from penstock.cli.main import run
from penstock.hooks.problems import ProblemError
from penstock.serve.dashboards.files import files
from penstock.server.command import serve


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A run, as far as a manifest looks."""
    folder = tmp_path / "runs" / "tiny" / "now"
    folder.mkdir(parents=True)
    (folder / "config.resolved.yaml").write_text("")
    return folder


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    """A dense model in the layout of the hub, as far as a manifest looks."""
    folder = tmp_path / "exported"
    folder.mkdir()
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def found(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_dashboards_are_written_where_they_are_said_to_be(tmp_path: Path) -> None:
    result = run(["dashboards", str(tmp_path / "new" / "out"), "--json"])
    assert set(result["files"]) == found(tmp_path / "new" / "out") == set(files())


def test_manifests_hold_what_was_asked_for(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    asked = [
        "--name",
        "mine",
        "--model-name",
        "small",
        "--port",
        "8123",
        "--cpus",
        "4",
        "--memory",
        "2.5",
        "--drain",
        "7",
    ]
    result = run(["manifests", str(model), str(out), *asked, "--replicas", "2", "--json", "--", "--slots", "64"])
    assert set(result["files"]) == found(out) > set(files())
    deployment, *_ = yaml.safe_load_all((out / "kubernetes.yaml").read_text())
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    assert (deployment["metadata"]["name"], deployment["spec"]["replicas"]) == ("mine", 2)
    assert container["resources"]["limits"] == {"cpu": "4", "memory": "2560Mi"}
    program, module, cli, command, *arguments = container["command"]
    assert (program, module, cli, command) == ("python3", "-m", "penstock.cli", "serve")
    arguments[arguments.index("/model")] = str(model)
    taken = serve.make_context("serve", arguments).params
    wanted = {"model": model, "host": "0.0.0.0", "port": 8123, "name": "small", "slots": 64, "drain": 7}
    assert {name: taken[name] for name in wanted} == wanted
    assert [each["name"] for each in container["env"] if "valueFrom" in each] == ["PENSTOCK_API_KEY"]
    assert not any("its-value-stands-in-no-file" in (out / path).read_text() for path in result["files"])


def test_another_server_has_an_image_of_its_own(exported: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    asked = ["--server", "{use: vllm, device: cuda}", "--gpus", "1"]
    with pytest.raises(ProblemError, match="--image: no image of vllm is named"):
        run(["manifests", str(exported), str(out), *asked])
    run(["manifests", str(exported), str(out), *asked, "--image", "vllm/vllm-openai:v1", "--json", "--", "--seed", "1"])
    server = yaml.safe_load((out / "compose.yaml").read_text())["services"]["server"]
    assert not (out / "Dockerfile").exists()
    assert server["image"] == "vllm/vllm-openai:v1"
    words = server["entrypoint"]
    assert words[0] == "python3"
    assert words[words.index("--model") + 1] == "/model"
    assert words[-2:] == ["--seed", "1"]
    assert server["environment"]["VLLM_API_KEY"].startswith("${VLLM_API_KEY:?")


def test_a_model_that_the_server_cannot_serve_is_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ProblemError, match="vllm does not read a run"):
        run(["manifests", str(model), str(tmp_path / "out"), "--server", "vllm", "--image", "vllm"])
    assert not (tmp_path / "out").exists()


def test_files_that_were_changed_are_kept(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(["manifests", str(model), str(out), "--json"])
    run(["manifests", str(model), str(out), "--json"])  # the same again is no change
    changed = out / "compose.yaml"
    changed.write_text("mine")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(ProblemError, match=r"compose\.yaml: has other content, give another folder, or --replace"):
        run(["manifests", str(model), str(out), "--port", "8001", "--json"])
    assert {path: path.read_bytes() for path in before} == before
    run(["manifests", str(model), str(out), "--port", "8001", "--replace", "--json"])
    assert yaml.safe_load(changed.read_text())["services"]["server"]["ports"] == ["127.0.0.1:8001:8001"]


def test_a_file_in_the_place_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "grafana").write_text("mine")
    with pytest.raises(ProblemError, match="grafana: a file is where a folder is needed"):
        run(["dashboards", str(tmp_path), "--replace"])
    assert found(tmp_path) == {"grafana"}


def test_a_wrong_name_is_a_problem_and_nothing_is_written(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ProblemError, match="'My server' is no name for Kubernetes"):
        run(["manifests", str(model), str(tmp_path / "out"), "--name", "My server"])
    assert not (tmp_path / "out").exists()


def test_the_result_is_one_json_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(["dashboards", str(tmp_path), "--json"])
    assert json.loads(capsys.readouterr().out)["folder"] == str(tmp_path)
