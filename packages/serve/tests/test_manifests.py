"""Manifests are what their schemas allow, and say the same of one server."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from check_jsonschema.builtin_schemas import get_builtin_schema
from jsonschema.validators import validator_for
from pydantic import ValidationError

from penstock.hooks.contracts.serving import ServerProcess
from penstock.hooks.problems import ProblemError
from penstock.serve.manifests.deployment import Deployment, Resources, deployment_of
from penstock.serve.manifests.docker import compose
from penstock.serve.manifests.files import files
from penstock.serve.manifests.kubernetes import kubernetes

PROMTOOL = shutil.which("promtool")
COMPOSE_SCHEMA = get_builtin_schema("vendor.compose-spec")
COMPOSE = validator_for(COMPOSE_SCHEMA)(COMPOSE_SCHEMA)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model in the layout of the hub, as far as a manifest looks."""
    model = tmp_path / "small $model"
    model.mkdir()
    return model


def process(model: Path, **variables: str) -> ServerProcess:
    """As our server describes itself, with one secret."""
    arguments = ["/env/bin/python3.11", "-m", "penstock.cli", "serve", str(model), "--name", "small $model"]
    return ServerProcess(arguments, {"A_KEY": "s3cret", **variables}, frozenset({"A_KEY"}), "/ready", "small $model")


@pytest.fixture
def deployed(folder: Path) -> Deployment:
    return deployment_of(
        process(folder, THREADS="$4"),
        folder,
        name="my-server",
        port=8123,
        options=["--slots", "64"],
        resources=Resources(cpus=1.5, memory=3.5, gpus=1),
        replicas=3,
        drain=20,
    )


def written(deployment: Deployment) -> dict[str, Any]:
    """The files, parsed."""
    read: dict[str, Callable[[str], Any]] = {
        "json": json.loads,
        "kubernetes.yaml": lambda text: [*yaml.safe_load_all(text)],
    }
    return {
        path: read.get(path.rpartition(".")[2], read.get(path, yaml.safe_load))(text)
        for path, text in files(deployment).items()
        if path != "Dockerfile"
    }


def test_files_are_what_was_made(deployed: Deployment) -> None:
    found = written(deployed)
    assert found["compose.yaml"] == compose(deployed)
    assert found["kubernetes.yaml"] == kubernetes(deployed)
    assert len([path for path in found if path.startswith("prometheus/rules/")]) == 3


def test_compose_keeps_the_compose_schema(deployed: Deployment) -> None:
    value = written(deployed)["compose.yaml"]
    assert list(COMPOSE.iter_errors(value)) == []
    value["services"]["server"]["entry_point"] = []
    assert [error.message for error in COMPOSE.iter_errors(value)] != []


def test_core_kinds_keep_their_schemas(deployed: Deployment) -> None:
    version = kubernetes_validate.latest_version()
    core = [each for each in kubernetes(deployed) if each["kind"] != "PodMonitor"]
    assert [each["kind"] for each in core] == ["Deployment", "Service"]
    for each in core:
        kubernetes_validate.validate(each, version, strict=True)
        for place in (each, each["spec"], each["metadata"]):
            place["replica"] = 1
            with pytest.raises(kubernetes_validate.ValidationError):
                kubernetes_validate.validate(each, version, strict=True)
            del place["replica"]


def test_the_pod_monitor_keeps_the_schema_of_its_definition(deployed: Deployment) -> None:
    """The types are made from the custom resource definition. Alone they pass over what they do not know."""
    from cloudcoil.models.prometheus_operator.v1 import PodMonitor  # takes seconds

    monitor = kubernetes(deployed)[-1]
    PodMonitor.model_validate(monitor, extra="forbid")
    endpoint = monitor["spec"]["podMetricsEndpoints"][0]
    for place in (monitor, monitor["metadata"], monitor["spec"], endpoint, monitor["spec"]["selector"]):
        place["intervals"] = "15s"
        with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
            PodMonitor.model_validate(monitor, extra="forbid")
        del place["intervals"]
    endpoint["interval"] = "15 seconds"
    with pytest.raises(ValidationError, match="String should match pattern"):
        PodMonitor.model_validate(monitor, extra="forbid")


def test_every_manifest_says_the_same_of_the_server(deployed: Deployment, folder: Path) -> None:
    found = written(deployed)
    server, (pod, service, monitor) = found["compose.yaml"]["services"]["server"], found["kubernetes.yaml"]
    container = pod["spec"]["template"]["spec"]["containers"][0]
    command = ["python3", "-m", "penstock.cli", "serve", "/model", "--name", "small $model", "--slots", "64"]
    assert server["entrypoint"] == [word.replace("$", "$$") for word in command]
    assert container["command"] == deployed.command == command
    assert files(deployed)["Dockerfile"].splitlines()[-1] == f"ENTRYPOINT {json.dumps(command)}"
    assert server["image"] == container["image"] == deployed.image
    assert server["ports"] == ["127.0.0.1:8123:8123"]
    assert container["ports"] == [{"name": "http", "containerPort": 8123}]
    assert service["spec"]["ports"][0]["port"] == 8123
    assert found["prometheus/prometheus.yml"]["scrape_configs"][0]["static_configs"] == [{"targets": ["server:8123"]}]
    assert server["volumes"][0]["source"] == str(folder).replace("$", "$$")
    assert server["volumes"][0]["target"] == container["volumeMounts"][0]["mountPath"] == "/model"
    assert server["deploy"]["resources"]["limits"] == {"cpus": "1.5", "memory": "3584m"}
    assert container["resources"]["limits"] == {"cpu": "1.5", "memory": "3584Mi", "nvidia.com/gpu": "1"}
    labels = pod["spec"]["template"]["metadata"]["labels"]
    assert pod["spec"]["selector"]["matchLabels"] == labels
    assert service["spec"]["selector"] == monitor["spec"]["selector"]["matchLabels"] == labels
    assert monitor["spec"]["podMetricsEndpoints"][0]["port"] == container["ports"][0]["name"]


def test_the_job_of_pods_is_the_one_that_alerts_ask_for(deployed: Deployment) -> None:
    found = written(deployed)
    pod, _, monitor = found["kubernetes.yaml"]
    job = pod["spec"]["template"]["metadata"]["labels"][monitor["spec"]["jobLabel"]]
    assert job == found["prometheus/prometheus.yml"]["scrape_configs"][0]["job_name"]
    assert f'up{{job="{job}"}} == 0' in [
        rule["expr"] for rule in found["prometheus/rules/serving.yml"]["groups"][0]["rules"]
    ]


def test_variables_are_given_and_secrets_are_only_named(deployed: Deployment) -> None:
    assert all("s3cret" not in text for text in files(deployed).values())
    server, pod = compose(deployed)["services"]["server"], kubernetes(deployed)[0]
    assert server["environment"]["THREADS"] == "$$4"
    assert 'ENV THREADS="\\$4"' in files(deployed)["Dockerfile"].splitlines()
    assert server["environment"]["A_KEY"].startswith("${A_KEY:?")
    variables = pod["spec"]["template"]["spec"]["containers"][0]["env"]
    assert {"name": "THREADS", "value": "$4"} in variables
    secret = {"secretKeyRef": {"name": "my-server-keys", "key": "A_KEY"}}
    assert {"name": "A_KEY", "valueFrom": secret} in variables
    assert "my-server-keys" in files(deployed)["kubernetes.yaml"].splitlines()[1]


def test_a_single_file_is_mounted_in_a_folder(tmp_path: Path) -> None:
    model = tmp_path / "small.penstock"
    model.write_bytes(b"")
    deployed = deployment_of(process(model), model)
    assert deployed.command[4] == "/model/small.penstock"
    assert compose(deployed)["services"]["server"]["volumes"][0]["target"] == "/model/small.penstock"


def test_a_file_in_the_folder_of_the_model_is_found_inside(folder: Path) -> None:
    arguments = [str(folder.parent / "llama-server"), "--model", str(folder / "small.gguf"), "--alias", "small"]
    server = ServerProcess(arguments, {}, frozenset(), "/health", "small")
    deployed = deployment_of(server, folder, image="example.org/llama:1")
    assert deployed.command == ["llama-server", "--model", "/model/small.gguf", "--alias", "small"]
    assert "Dockerfile" not in files(deployed)
    assert "build" not in compose(deployed)["services"]["server"]
    assert "secret" not in files(deployed)["kubernetes.yaml"]


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed (Debian: prometheus)")
def test_prometheus_takes_its_configuration_and_rules(deployed: Deployment, tmp_path: Path) -> None:
    for path, text in files(deployed).items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    command = [PROMTOOL or "promtool", "check", "config", str(tmp_path / "prometheus" / "prometheus.yml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("rules found") == 3


@pytest.mark.parametrize("name", ["My-Server", "1server", "server-", "a" * 58, "server\n"])
def test_a_name_that_kubernetes_does_not_take_is_refused(folder: Path, name: str) -> None:
    with pytest.raises(ProblemError, match="no name for Kubernetes"):
        deployment_of(process(folder), folder, name=name)


def test_options_that_the_manifests_decide_are_refused(folder: Path) -> None:
    with pytest.raises(ProblemError, match=r"(?s)--api-key: cannot be given.*--port: cannot be given"):
        deployment_of(process(folder), folder, options=["--port", "1", "--api-key=secret", "--slots", "2"])
