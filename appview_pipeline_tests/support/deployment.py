"""The processes of docker/compose.yaml as plain processes of this machine, with the settings of docker/dagster.yaml.

Code server, daemon and webserver, and whatever else a caller adds; Dagster's storage is in PostgreSQL. Everything that
they start, whoever its parent is by then, is found by a mark in its environment (Linux only).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from websockets import Subprotocol
from websockets.sync.client import connect

from appview_pipeline.store.embedded import child_process
from appview_pipeline_tests.support.checkout import CHECKOUT
from appview_pipeline_tests.support.ports import free_port
from appview_pipeline_tests.support.waiting import wait_for

LOCATION = "appview_pipeline"
CODE, DAEMON, WEBSERVER, METRICS = "code", "daemon", "webserver", "metrics"
STOP_SECONDS = 10.0
"""What each process has to end after SIGTERM."""

SENSOR = {"repositoryName": "__repository__", "repositoryLocationName": LOCATION}
LAUNCH = """
mutation ($params: ExecutionParams!) {
  launchRun(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
    ... on RunConfigValidationInvalid { errors { message } }
  }
}"""


@dataclass
class Service:
    """One process that is started again and again under the same name."""

    name: str
    arguments: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    starts: int = 0

    @property
    def runs(self) -> bool:
        return self.process is not None and self.process.poll() is None


class Deployment:
    """The processes in `folder`, which is theirs; `database_url` and `dagster_url` are SQLAlchemy's.

    `environment`: settings of the pipeline. `keep_running` starts what has ended by itself, as a restart policy does;
    `ended` counts those by name and exit code.
    """

    def __init__(
        self, folder: Path, *, database_url: str, dagster_url: str, environment: Mapping[str, str] | None = None
    ) -> None:
        self.folder = folder
        self.index_url, self.dagster_url = database_url, dagster_url
        self.home = folder / "home"
        self.home.mkdir(parents=True)
        self.code_port, self.webserver_port, self.metrics_port = free_port(), free_port(), free_port()
        shutil.copy(CHECKOUT / "docker" / "dagster.yaml", self.home / "dagster.yaml")
        # docker/workspace.yaml names the code server by its name in the compose network.
        workspace = (CHECKOUT / "docker" / "workspace.yaml").read_text()
        workspace = workspace.replace("host: code\n", "host: 127.0.0.1\n")
        workspace = workspace.replace("port: 4000", f"port: {self.code_port}")
        (self.home / "workspace.yaml").write_text(workspace)
        name, _, value = (mark := f"APPVIEW_TEST_DEPLOYMENT={uuid.uuid4()}").partition("=")
        self._mark = mark.encode()
        self.environment = {
            **{key: text for key, text in os.environ.items() if not key.startswith(("APPVIEW_", "DAGSTER_"))},
            "DAGSTER_HOME": str(self.home),
            "DATABASE_URL": database_url,
            "DAGSTER_PG_URL": dagster_url,
            "PYTHONPATH": str(CHECKOUT),
            "PYTHONUNBUFFERED": "1",
            "LOG_FORMAT": "json",
            **(environment or {}),
            name: value,
        }
        self.services: dict[str, Service] = {}
        self.ended: Counter[tuple[str, int]] = Counter()
        here = ("--host", "127.0.0.1", "--port")
        code = ("dagster", "api", "grpc", "-m", "appview_pipeline.defs.definitions")
        self.add(CODE, *code, *here, str(self.code_port))
        self.add(DAEMON, "appview_pipeline.defs.daemon", "run")
        self.add(WEBSERVER, "dagster_webserver", *here, str(self.webserver_port))

    def add(self, name: str, module: str, *arguments: str, **environment: str) -> Service:
        """One more process: `python -m module arguments`. It is not started yet."""
        self.services[name] = Service(name, (sys.executable, "-m", module, *arguments), environment)
        return self.services[name]

    def migrate(self) -> None:
        """What the compose file's service of that name does."""
        for command in (("appview_pipeline.cli", "migrate"), ("dagster", "instance", "migrate")):
            done = subprocess.run(
                [sys.executable, "-m", *command],
                cwd=self.home, env=self.environment, capture_output=True, text=True, timeout=600, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stdout + done.stderr

    # ---- processes

    def start(self, *names: str) -> None:
        """Starts these processes, or all, and waits until the code server listens. They end with the thread that
        starts them."""
        for name in names or tuple(self.services):
            service = self.services[name]
            assert not service.runs, f"{name} runs already"
            with self.log(name).open("ab") as log:
                service.process = subprocess.Popen(
                    service.arguments,
                    cwd=self.home,
                    env={**self.environment, **service.environment},
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    preexec_fn=child_process.end_with_us(signal.SIGTERM),
                )
            service.starts += 1
            # A daemon that comes before the code server looks for it again only after a minute.
            if name == CODE:
                wait_for(lambda: self._listens(self.code_port) or not self.services[CODE].runs, explain=self.last_words)

    def stop(self, name: str, seconds: float = 120.0) -> float:
        """Sends SIGTERM and waits for the end. Returns the seconds that it took."""
        service = self.services[name]
        assert service.process is not None
        began = time.monotonic()
        service.process.send_signal(signal.SIGTERM)
        try:
            service.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{name} did not end in {seconds:g} s\n{self.last_words(name)}") from None
        return time.monotonic() - began

    def kill(self, name: str) -> None:
        """SIGKILL, at whatever instruction it is."""
        service = self.services[name]
        assert service.process is not None
        service.process.kill()
        service.process.wait()

    def keep_running(self) -> list[str]:
        """Starts again what has ended, as a restart policy does; returns which."""
        again = [service for service in self.services.values() if service.process is not None and not service.runs]
        for service in again:
            assert service.process is not None
            self.ended[service.name, service.process.returncode] += 1
            self.start(service.name)
        return [service.name for service in again]

    def processes(self) -> dict[int, str]:
        """Every process of this deployment, whoever its parent is, with its command line."""
        found = {}
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and self._mark in (entry / "environ").read_bytes():
                    command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace").strip()
                    if command:  # a zombie has none
                        found[int(entry.name)] = command
            except OSError:
                continue
        return found

    def leased(self, module: str = "") -> dict[int, str]:
        """The leased processes, or those of one module (`ingest.live.consumer`)."""
        modules = (module,) if module else ("ingest.live.consumer", "identity.resolve_live", "fetch_live", "label_live")
        return {pid: it for pid, it in self.processes().items() if any(f"{one}" in it for one in modules)}

    def children(self) -> dict[int, str]:
        """What the services have started: leased processes, runs."""
        own = {service.process.pid for service in self.services.values() if service.process is not None}
        return {pid: command for pid, command in self.processes().items() if pid not in own}

    def log(self, name: str) -> Path:
        """What it wrote."""
        return self.folder / f"{name}.log"

    def last_words(self, *names: str) -> str:
        """The end of what each wrote, for a failure."""
        logs = {name: self.log(name) for name in names or tuple(self.services)}
        return "\n".join(
            f"--- {name}\n" + log.read_text(errors="replace")[-4_000:] for name, log in logs.items() if log.exists()
        )

    def clean_up(self) -> None:
        """Kills whatever still runs."""
        for pid in self.processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        for service in self.services.values():
            if service.process is not None:
                service.process.wait()

    @staticmethod
    def _listens(port: int) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    # ---- what the webserver says

    def is_up(self) -> bool:
        """Whether the webserver answers and has loaded the code location."""
        try:
            locations = self.ask("{ workspaceOrError { ... on Workspace { locationEntries { loadStatus } } } }")
        except OSError:
            return False
        entries = locations["workspaceOrError"].get("locationEntries", [])
        return bool(entries) and all(entry["loadStatus"] == "LOADED" for entry in entries)

    def ask(self, query: str, **variables: Any) -> Any:
        """The data of a GraphQL query or mutation."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.webserver_port}/graphql",
            json.dumps({"query": query, "variables": variables}).encode(),
            {"content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            body = json.load(answer)
        assert "errors" not in body, body["errors"]
        return body["data"]

    def materialize(self, asset: str, partition: str | None = None) -> str:
        """Launches a run of an asset, of one partition, as its page does; returns the run's id."""
        selector = {**SENSOR, "jobName": "__ASSET_JOB", "assetSelection": [{"path": [asset]}]}
        return self._launch(selector, {"dagster/partition": partition} if partition else {})

    def launch(self, job: str, config: Mapping[str, Any] | None = None) -> str:
        """Launches a job; returns the run's id."""
        return self._launch({**SENSOR, "jobName": job}, {}, config)

    def _launch(self, selector: Mapping[str, Any], tags: Mapping[str, str], config: Any = None) -> str:
        parameters = {
            "mode": "default",
            "selector": selector,
            "runConfigData": config or {},
            "executionMetadata": {"tags": [{"key": key, "value": value} for key, value in tags.items()]},
        }
        answer = self.ask(LAUNCH, params=parameters)["launchRun"]
        assert answer["__typename"] == "LaunchRunSuccess", answer
        return str(answer["run"]["runId"])

    def status(self, run_id: str) -> str:
        """The status of a run (`SUCCESS`, `STARTED`, ...)."""
        found = self.ask("query ($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }", id=run_id)
        return str(found["runOrError"].get("status"))

    @contextmanager
    def subscription(self) -> Iterator[None]:
        """An open page of the UI: its WebSocket, connected during the block."""
        url = f"ws://127.0.0.1:{self.webserver_port}/graphql"
        with connect(url, subprotocols=[Subprotocol("graphql-ws")]) as page:
            page.send(json.dumps({"type": "connection_init", "payload": {}}))
            assert json.loads(page.recv())["type"] == "connection_ack"
            yield

    def reload_code(self) -> None:
        """Reloads the code location, as the button in the UI does."""
        self.ask(
            "mutation ($name: String!) { reloadRepositoryLocation(repositoryLocationName: $name) { __typename } }",
            name=LOCATION,
        )


@contextmanager
def deployed(folder: Path, **options: Any) -> Iterator[Deployment]:
    """A deployment with a migrated database, none of its processes started yet; ends all of them after the block."""
    deployment = Deployment(folder, **options)
    try:
        deployment.migrate()
        yield deployment
    finally:
        deployment.clean_up()
