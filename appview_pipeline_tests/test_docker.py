"""docker/: what is in the image, what compose and Kubernetes are told, and that Dagster accepts its settings."""

from __future__ import annotations

import ast
import dataclasses
import fnmatch
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import grpc
import pytest
import sqlalchemy
import yaml
from dagster._config import process_config, validate_config
from dagster._core.instance.config import dagster_instance_config
from dagster._core.instance.ref import InstanceRef
from dagster._core.storage.runs.schema import DaemonHeartbeatsTable
from dagster._core.workspace.config_schema import WORKSPACE_CONFIG_SCHEMA
from grpc_health.v1 import health
from grpc_health.v1.health_pb2 import HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from appview_pipeline.settings import Settings
from appview_pipeline.store.embedded.attach import EmbeddedPostgres
from appview_pipeline_tests.conformance.reference.check import scratch_database
from appview_pipeline_tests.support.checkout import CHECKOUT
from appview_pipeline_tests.support.manifests import assert_fits_kubernetes

DOCKER = CHECKOUT / "docker"
KUBERNETES = DOCKER / "kubernetes"
MANIFESTS = sorted(path for path in KUBERNETES.glob("*.yaml") if path.name != "values.yaml")
OTHERS_VARIABLES = {"DAGSTER_PG_URL", "DAGSTER_CURRENT_IMAGE", "DAGSTER_RUN_NETWORK", "PGPASSWORD"}
"""Variables that Dagster, its launchers or libpq read."""
COMPLETED = "service_completed_successfully"


def read(name: str) -> Any:
    return yaml.safe_load((DOCKER / name).read_text(encoding="utf-8"))


def setup_list(name: str) -> list[Requirement]:
    tree = ast.parse((CHECKOUT / "setup.py").read_text(encoding="utf-8"))
    return [
        Requirement(text)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name
        for text in ast.literal_eval(node.value)
    ]


def pinned(name: str) -> list[tuple[Requirement, str, int]]:
    """Requirement, version and number of hashes of each package of a requirements file."""
    text = (DOCKER / name).read_text(encoding="utf-8").replace("\\\n", " ")
    found = []
    for line in text.splitlines():
        if line and not line.startswith("#"):
            requirement = Requirement(line.partition(" --hash")[0])
            (specifier,) = requirement.specifier
            assert specifier.operator == "==", line
            found.append((requirement, specifier.version, line.count("--hash=sha256:")))
    return found


def variables(service: Any) -> dict[str, str]:
    environment = service.get("environment") or {}
    return environment if isinstance(environment, dict) else dict(item.split("=", 1) for item in environment)


# -- the image


def test_the_pinned_packages_are_what_setup_asks_for() -> None:
    packages = pinned("requirements.txt")
    assert all(hashes for _, _, hashes in packages) and all(hashes for _, _, hashes in pinned("build-requirements.txt"))
    for wanted in setup_list("INSTALL_REQUIRES") + setup_list("CONTAINER_REQUIRES"):
        for version in ("3.11", "3.12", "3.13"):
            fitting = [
                Version(pin)
                for package, pin, _ in packages
                if canonicalize_name(package.name) == canonicalize_name(wanted.name)
                if package.marker is None
                or package.marker.evaluate(
                    {"python_full_version": f"{version}.0", "python_version": version, "sys_platform": "linux"}
                )
            ]
            assert len(fitting) == 1 and wanted.specifier.contains(fitting[0]), (
                f"docker/requirements.txt does not fit {wanted} of setup.py: run docker/pin-requirements.sh"
            )


def instructions() -> list[str]:
    text = re.sub(r"^#.*\n", "", (DOCKER / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    return [line.strip() for line in text.replace("\\\n", " ").splitlines() if line.strip()]


def test_everything_that_the_image_copies_is_in_its_context() -> None:
    copied = [line.split()[1:-1] for line in instructions() if line.startswith("COPY ") and "--from" not in line]
    paths = {path for paths in copied for path in paths}
    assert {"setup.py", "pyproject.toml", "README.md", "appview_pipeline", "sql", "appview_pipeline_tests"} <= paths
    ignored = (CHECKOUT / ".dockerignore").read_text(encoding="utf-8").split("\n")
    assert "*" in ignored  # everything is left out, but ...
    kept = [line[1:] for line in ignored if line.startswith("!")]
    for path in paths:
        assert (CHECKOUT / path).exists(), path
        assert any(pattern == path or pattern.startswith(f"{path}/") for pattern in kept), (
            f"{path} is not in the context"
        )
    assert not any(fnmatch.fnmatch(name, pattern) for name in (".env", ".git", ".appview") for pattern in kept)


def test_the_image_is_small_pinned_and_not_roots() -> None:
    lines = instructions()
    stages = [line for line in lines if line.startswith("FROM")]
    assert len(stages) == 2 and re.search(r"PYTHON_IMAGE=python:3\.\d+-slim-\w+$", lines[0])
    last = lines[lines.index(stages[1]) :]
    assert not any(re.search(r"\bpip\b", line) for line in last), "packages are installed in the first stage"
    users = [line.split()[1] for line in last if line.startswith("USER")]
    assert users == ["10001:10001"]
    assert any(line.startswith("HEALTHCHECK") for line in last)
    assert "--require-hashes" in (DOCKER / "Dockerfile").read_text(encoding="utf-8")


def ask_health(script: str, *arguments: str, **environment: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, DOCKER / script, *arguments],
        text=True, capture_output=True, timeout=60, env={**os.environ, **environment},
    )  # fmt: skip
    return done.returncode, done.stderr.strip()


def code_healthy(port: int) -> tuple[int, str]:
    return ask_health("code-healthy", str(port))


def test_the_health_check_asks_the_code_location() -> None:
    servicer = health.HealthServicer()
    server = grpc.server(ThreadPoolExecutor(2))
    add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    servicer.set("DagsterApi", HealthCheckResponse.SERVING)
    server.start()
    assert code_healthy(port) == (0, "")
    servicer.set("DagsterApi", HealthCheckResponse.NOT_SERVING)
    assert code_healthy(port) == (1, f"The code location at port {port} does not serve.")
    server.stop(None).wait()
    assert code_healthy(port) == (1, f"The code location at port {port} does not answer: UNAVAILABLE.")


def test_the_health_check_reads_the_daemons_heartbeats(server: EmbeddedPostgres) -> None:
    with scratch_database(server.url("postgres")) as url:
        given = url.replace("postgresql://", "postgresql+psycopg2://", 1)
        code, said = ask_health("daemon-healthy", DAGSTER_PG_URL=given)
        assert code == 1 and said.startswith("Dagster's database does not answer: relation")
        engine = sqlalchemy.create_engine(given)
        try:
            DaemonHeartbeatsTable.create(engine)
            assert ask_health("daemon-healthy", DAGSTER_PG_URL=given) == (1, "The daemon has never been at work.")
            now = datetime.now(timezone.utc).replace(tzinfo=None)
            for kind, seconds, healthy in (("SCHEDULER", 3_600, False), ("SENSOR", 10, True)):
                with engine.begin() as connection:
                    connection.execute(
                        DaemonHeartbeatsTable.insert().values(
                            daemon_type=kind, daemon_id="1", timestamp=now - timedelta(seconds=seconds), body=""
                        )
                    )
                code, said = ask_health("daemon-healthy", DAGSTER_PG_URL=given)
                assert (code == 0) == healthy and (not said or "last at work 3,6" in said)
        finally:
            engine.dispose()


# -- Dagster's settings


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_PG_URL", "postgresql+psycopg2://appview@127.0.0.1:1/dagster")
    monkeypatch.setenv("DAGSTER_RUN_NETWORK", "appview-pipeline")


@pytest.mark.parametrize("name", ["dagster.yaml", "dagster.docker-runs.yaml"])
def test_dagster_accepts_its_settings(environment: None, name: str) -> None:
    config, _ = dagster_instance_config(str(DOCKER), config_filename=name)
    assert config["telemetry"] == {"enabled": False} and config["sensors"]["use_threads"]
    reference = InstanceRef.from_dir(str(DOCKER), config_filename=name)
    # Making the objects checks their own settings, too.
    assert type(reference.compute_log_manager).__name__ == "NoOpComputeLogManager"
    launcher = type(reference.run_launcher).__name__
    assert launcher == ("DockerRunLauncher" if "docker-runs" in name else "DefaultRunLauncher")
    assert type(reference.run_coordinator).__name__ == "QueuedRunCoordinator"


def test_the_two_instances_differ_by_the_launcher_only(environment: None) -> None:
    plain, docker = read("dagster.yaml"), read("dagster.docker-runs.yaml")
    launcher = docker.pop("run_launcher")
    assert plain == docker
    kwargs = launcher["config"]["container_kwargs"]
    assert kwargs["auto_remove"] and kwargs["read_only"] and kwargs["cap_drop"] == ["ALL"]
    # The daemon has a value of each variable, or no run would start.
    services = read("compose.yaml")["services"]
    given = variables(services["daemon"]) | variables(read("compose.docker-runs.yaml")["services"]["daemon"])
    assert set(launcher["config"]["env_vars"]) <= set(given)


def test_the_workspace_names_the_code_location_of_compose() -> None:
    workspace = read("workspace.yaml")
    assert validate_config(WORKSPACE_CONFIG_SCHEMA, workspace).success
    (server,) = (entry["grpc_server"] for entry in workspace["load_from"])
    assert server["host"] in read("compose.yaml")["services"]
    command = next(line for line in instructions() if line.startswith("CMD"))
    assert json.loads(command.removeprefix("CMD "))[-1] == str(server["port"])


# -- compose


def services() -> dict[str, Any]:
    found: dict[str, Any] = read("compose.yaml")["services"]
    return found


def test_services_and_profiles() -> None:
    assert {name for name, service in services().items() if "profiles" not in service} == {
        *("postgres", "migrate", "code", "daemon", "webserver", "metrics"),
    }
    profiles = {name: service["profiles"] for name, service in services().items() if "profiles" in service}
    assert profiles == {
        "webserver-read-only": ["read-only"], "labels": ["labels"],
        "prometheus": ["monitoring"], "grafana": ["monitoring"],
        "appview": ["appview"], "appview-prepare": ["appview"],
    }  # fmt: skip


@pytest.mark.parametrize("name", sorted(read("compose.yaml")["services"]))
def test_a_service_is_locked_bounded_and_watched(name: str) -> None:
    service = services()[name]
    assert service["read_only"] and service["cap_drop"] == ["ALL"] and service["security_opt"] == ["no-new-privileges"]
    assert service["logging"]["options"]["max-size"]
    for port in service.get("ports", ()):
        assert port.startswith("127.0.0.1:"), f"{port} is open to the network"
    if name in ("migrate", "appview-prepare"):
        before = {"migrate": ("postgres", "service_healthy"), "appview-prepare": ("migrate", COMPLETED)}[name]
        assert service["restart"] == "on-failure" and service["depends_on"][before[0]]["condition"] == before[1]
        return
    assert service["restart"] == "unless-stopped"
    if name in ("prometheus", "grafana"):  # others' images
        return
    assert service["healthcheck"]["test"][0] == "CMD"
    if name != "postgres":
        assert service["depends_on"]["appview-prepare" if name == "appview" else "migrate"]["condition"] == COMPLETED
        assert service["mem_limit"]


def test_the_appview_reaches_postgresql_and_nothing_else_of_ours() -> None:
    networks = {name: set(service.get("networks", ["default"])) for name, service in services().items()}
    reached = {name for name, joined in networks.items() if joined & networks["appview"]}
    assert reached == {"postgres", "appview-prepare", "appview"}
    # Or podman routes from one to the other: by address, the code server's port could be reached.
    assert {
        name: network["driver_opts"]["isolate"] for name, network in read("compose.yaml")["networks"].items()
    } == dict.fromkeys(("default", "serving"), "true")


def test_every_variable_is_a_setting() -> None:
    known = {name for field in dataclasses.fields(Settings) for name in field.metadata["variables"]} | OTHERS_VARIABLES
    known |= {"LOG_FORMAT"}
    # The reference AppView's are compared with docs/serve.md (test_serve.py).
    ours = [service for name, service in services().items() if not name.startswith("appview")]
    named = {name for service in ours for name in variables(service)}
    named |= {name for service in read("compose.docker-runs.yaml")["services"].values() for name in variables(service)}
    assert {name for name in named if not re.match("(POSTGRES|GF)_", name)} <= known
    for document in documents():
        if document["kind"] == "ConfigMap":
            assert set(document["data"]) <= known
        if document["kind"] == "Secret" and document["metadata"]["name"] == "appview-secrets":
            assert set(document["stringData"]) <= known
    assert {"DATABASE_URL", "APPVIEW_RELAY_URL", "APPVIEW_METRICS_ADDRESS", "APPVIEW_LABELS_ADDRESS"} <= named


def test_files_that_compose_mounts_are_there() -> None:
    for name in ("compose.yaml", "compose.docker-runs.yaml"):
        for service, description in read(name)["services"].items():
            for volume in description.get("volumes", ()):
                source = volume.partition(":")[0]
                assert not source.startswith("./") or (DOCKER / source).exists(), f"{service} of {name} mounts {source}"


def test_postgres_has_utc_and_sorts_by_byte() -> None:
    postgres = services()["postgres"]
    assert "-c timezone=UTC" in postgres["command"]
    assert "--locale=C" in postgres["environment"]["POSTGRES_INITDB_ARGS"]


@pytest.mark.slow
def test_podman_compose_reads_it(tmp_path: Path) -> None:
    if shutil.which("podman-compose") is None or shutil.which("podman") is None:
        pytest.skip("needs podman and podman-compose")
    version = re.search(r"podman-compose version:? (\d+)\.(\d+)", _output("podman-compose", "--version"))
    if version is None or (int(version[1]), int(version[2])) < (1, 3):
        pytest.skip("needs podman-compose from 1.3 on")
    files = ["-f", str(DOCKER / "compose.yaml"), "-f", str(DOCKER / "compose.docker-runs.yaml")]
    text = _output("podman-compose", *files, "config", POSTGRES_PASSWORD="p%w", DOCKER_GID="999")
    merged = yaml.safe_load(text[text.index("name:") :])["services"]
    assert "--container-context" in " ".join(merged["code"]["command"])
    assert any("docker.sock" in str(volume) for volume in merged["daemon"]["volumes"])
    assert variables(merged["daemon"])["PGPASSWORD"] == "p%w"


def _output(*command: str, **environment: str) -> str:
    done = subprocess.run(
        command, env={**os.environ, **environment}, text=True, capture_output=True, timeout=60, check=True
    )
    return done.stdout


# -- Kubernetes


def documents() -> Iterator[dict[str, Any]]:
    for path in MANIFESTS:
        yield from yaml.safe_load_all(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_manifests_fit_kubernetes_schemas(path: Path) -> None:
    assert_fits_kubernetes(path)


def chart_values() -> Any:
    return yaml.safe_load((KUBERNETES / "values.yaml").read_text(encoding="utf-8"))


def pods() -> Iterator[tuple[str, Any]]:
    for document in documents():
        if document["kind"] in ("Deployment", "Job"):
            yield document["metadata"]["name"], document["spec"]["template"]["spec"]


def test_pods_run_our_image_as_its_user_and_write_nothing() -> None:
    values = chart_values()
    image = values["dagsterWebserver"]["image"]
    assert {name for name, _ in pods()} == {"appview-migrate", "appview-metrics", "appview-labels"}
    for name, pod in pods():
        assert pod["securityContext"]["runAsUser"] == 10001, name
        (container,) = pod["containers"]
        assert container["image"] == f"{image['repository']}:{image['tag']}"
        assert container["securityContext"]["readOnlyRootFilesystem"], name
        assert container["args"], "`command` would replace the image's init process"
        sources = {next(iter(source.values()))["name"] for source in container["envFrom"]}
        assert sources == {document["metadata"]["name"] for document in documents()
                           if document["kind"] in ("ConfigMap", "Secret")} - {"appview-dagster-postgresql"}  # fmt: skip


def test_services_reach_the_pods_that_they_name() -> None:
    templates = {
        json.dumps(document["spec"]["selector"]["matchLabels"]): document["spec"]["template"]
        for document in documents()
        if document["kind"] == "Deployment"
    }
    chosen = [document for document in documents() if document["kind"] == "Service"]
    assert len(chosen) == len(templates) == 2
    for service in chosen:
        template = templates[json.dumps(service["spec"]["selector"])]
        assert service["spec"]["selector"].items() <= template["metadata"]["labels"].items()
        (port,) = template["spec"]["containers"][0]["ports"]
        assert port["name"] == service["spec"]["ports"][0]["targetPort"]
        assert str(port["containerPort"]) in str(template["spec"]["containers"][0]["env"])


def test_no_secret_is_in_the_repository() -> None:
    for document in documents():
        if document["kind"] == "Secret":
            for name, value in document["stringData"].items():
                assert value == "CHANGE-ME" or ":CHANGE-ME@" in value, name


def test_the_charts_run_launcher_is_accepted_by_dagster() -> None:
    """The chart turns these values into the launcher's settings, by these names."""
    launcher_type = pytest.importorskip("dagster_k8s").K8sRunLauncher
    values = chart_values()
    given = values["runLauncher"]["config"]["k8sRunLauncher"]
    config = {
        "service_account_name": "dagster",
        "instance_config_map": "dagster-instance",
        "postgres_password_secret": values["global"]["postgresqlSecretName"],
        "dagster_home": values["global"]["dagsterHome"],
        "load_incluster_config": given["loadInclusterConfig"],
        "image_pull_policy": given["imagePullPolicy"],
        "env_config_maps": [source["name"] for source in given["envConfigMaps"]],
        "env_secrets": [source["name"] for source in given["envSecrets"]],
        "env_vars": given["envVars"],
        "volumes": given["volumes"],
        "volume_mounts": given["volumeMounts"],
        "labels": given["labels"],
        "fail_pod_on_run_failure": given["failPodOnRunFailure"],
        "resources": given["resources"],
        "security_context": given["securityContext"],
        "run_k8s_config": {
            "pod_spec_config": given["runK8sConfig"]["podSpecConfig"],
            "job_spec_config": given["runK8sConfig"]["jobSpecConfig"],
        },
    }
    # All of the values are in it, and nothing is left out.
    assert len(given) == len(config) - 4
    result = process_config(launcher_type.config_type(), config)
    assert result.success, result.errors
    config["run_k8s_config"] = {"pod_spec": {}}
    assert not process_config(launcher_type.config_type(), config).success


def test_the_chart_has_the_same_limits_and_one_code_location() -> None:
    values, plain = chart_values(), read("dagster.yaml")
    (deployment,) = values["dagster-user-deployments"]["deployments"]
    assert deployment["deploymentStrategy"] == {"type": "Recreate"}, "never two code locations at once"
    assert deployment["includeConfigInLaunchedRuns"] == {"enabled": False}
    daemon = values["dagsterDaemon"]
    assert daemon["sensors"]["useThreads"] and daemon["sensors"]["numWorkers"] == plain["sensors"]["num_workers"]
    assert daemon["runMonitoring"]["enabled"] == plain["run_monitoring"]["enabled"]
    assert values["concurrency"]["pools"]["granularity"] == plain["concurrency"]["pools"]["granularity"] == "run"
    assert values["telemetry"] == plain["telemetry"]
    assert f"version {dagster_version()}" in (KUBERNETES / "values.yaml").read_text(encoding="utf-8")


def dagster_version() -> str:
    (version,) = (r.specifier for r in setup_list("INSTALL_REQUIRES") if r.name == "dagster")
    return str(version).removeprefix("==")
