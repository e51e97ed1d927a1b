#!/usr/bin/env python3
"""Runs the compose layout for real, with podman, on the simulated network: `docker/try/session.py`.

It makes stand-ins for the base images (stand-ins.sh), builds the image, starts compose.yaml, and then does what an
operator does: waits until the stream is indexed and every health check passes, asks the reference AppView (profile
`appview`) with and without tokens, materializes partitions through the webserver, ends all containers with SIGTERM,
and starts them again, now with compose.docker-runs.yaml, so that each run is a container of its own. Everything it
starts is removed at the end. It prints a log, and exits with 1 where something is not as docs/deploying.md and
docs/serve.md say.

Needs root, podman, podman-compose from 1.3 on (from PyPI; Debian 12's is older), debootstrap where the stand-ins have
to be made, and Chromium for screenshots. Nothing of it listens on another address than 127.0.0.1 or those of podman's
network. About ten minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
DOCKER = HERE.parent
IMAGE = "localhost/appview-pipeline:try"
SERVE_IMAGE = "localhost/appview-serve:try"
SERVER_DID = "did:web:localhost"
ADMIN_PASSWORD = "admin"  # noqa: S105 (of an AppView that only this session sees)
PROJECT = "appview-try"
STOP_SECONDS = 10
"""What each process of ours has to end after SIGTERM."""
SOCKET_GROUP = 10_002
LONG_LIVED = ("code", "daemon", "webserver", "metrics")

OVERRIDE = """
# The simulated network is on the loopback addresses of one container. `code` and the containers of runs share that
# container's network, which podman allows outside of pods only. `appview` has the networks of compose.yaml: there,
# `directory` is the PLC directory, which comes through a socket file.
x-podman:
  in_pod: false
services:
  network:
    image: {image}
    command: appview-simulated-network --rate {rate} --accounts {accounts} --no-pasts
    networks:
      default:
        aliases: [code]
  directory-inside:
    image: {image}
    command: python /try/forward.py unix:/var/lib/appview/plc.sock 127.0.0.1:2582
    network_mode: service:network
    volumes: ["{here}/forward.py:/try/forward.py:ro", "directory:/var/lib/appview"]
  directory:
    image: {image}
    command: python /try/forward.py 0.0.0.0:2582 unix:/var/lib/appview/plc.sock
    networks: [serving]
    volumes: ["{here}/forward.py:/try/forward.py:ro", "directory:/var/lib/appview"]
  appview:
    environment:
      BSKY_DID_PLC_URL: http://directory:2582
      BSKY_DISABLE_SSRF_PROTECTION: "true"
      BSKY_ADMIN_PASSWORDS: {password}
  code:
    network_mode: service:network
{env_files}
networks:
  default:
    name: {project}
  serving:
    name: {project}-serving
volumes:
  directory:
"""
CONNECT_IN_NODE = """
const socket = require('net').connect({{host: '{host}', port: {port}}})
const say = (text) => {{ console.log(text); process.exit() }}
socket.on('connect', () => say('connected')).on('error', (error) => say(error.code))
setTimeout(() => say('no answer'), 5000)
"""
CONNECT_IN_PYTHON = """
import socket
try:
    socket.create_connection(('{host}', {port}), 5).close()
    print('connected')
except OSError as error:
    print(type(error).__name__)
"""
LAUNCH = """
mutation ($params: ExecutionParams!) {
  launchRun(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
    ... on RunConfigValidationInvalid { errors { message } }
  }
}"""
RUN = """
query ($id: ID!) {
  runOrError(runId: $id) { ... on Run { status startTime endTime tags { key value } } }
}"""

_started = time.monotonic()


class Wrong(Exception):
    """Something is not as it should be; its text says what."""


def say(text: str) -> None:
    print(f"{time.monotonic() - _started:7.1f} s  {text}", flush=True)


def run(*command: str, check: bool = True, quiet: bool = True, **options: Any) -> str:
    """Standard output of a command; raises `Wrong` with its last lines where it fails."""
    done = subprocess.run(
        command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE if quiet else None, **options
    )
    if check and done.returncode:
        # Podman without systemd complains of each health check, which we then run ourselves.
        lines = f"{done.stdout}\n{done.stderr or ''}".strip().splitlines()
        words = [line for line in lines if "systemd" not in line][-20:]
        raise Wrong(f"{' '.join(command)[:200]} ended with {done.returncode}:\n" + "\n".join(words))
    return str(done.stdout)


def wait(what: str, seconds: float, ready: Callable[[], Any]) -> Any:
    """The first answer of `ready` that is true."""
    begin, last = time.monotonic(), ""
    while time.monotonic() - begin < seconds:
        try:
            if found := ready():
                say(f"{what} ({time.monotonic() - begin:.0f} s)")
                return found
        except (Wrong, OSError, ValueError, KeyError, IndexError) as error:
            last = str(error)
        time.sleep(2)
    raise Wrong(f"after {seconds:.0f} s still not: {what}. {last}")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Session:
    """One project of compose, and what an operator asks of it."""

    def __init__(self, folder: Path, rate: int, accounts: int) -> None:
        self.folder, self.rate, self.accounts = folder, rate, accounts
        self.webserver_port, self.metrics_port, self.prometheus_port = free_port(), free_port(), free_port()
        self.serve_port = free_port()
        self.running: tuple[str, ...] = LONG_LIVED
        self.files = ["compose.yaml"]
        self.override = folder / "override.yaml"
        self.socket = folder / "podman.sock"
        settings = run("bash", "-c", f". {HERE / 'podman.sh'}; echo $CONTAINERS_CONF").strip()
        os.environ.update(
            CONTAINERS_CONF=settings,
            COMPOSE_PROJECT_NAME=PROJECT,
            APPVIEW_IMAGE=IMAGE,
            APPVIEW_SERVE_IMAGE=SERVE_IMAGE,
            # With everything that a URL would not bear.
            POSTGRES_PASSWORD="p%w@:/? 1",  # noqa: S106 (of a database that only this session sees)
            POSTGRES_SHARED_BUFFERS="256MB",
            WEBSERVER_PORT=str(self.webserver_port),
            METRICS_PORT=str(self.metrics_port),
            PROMETHEUS_PORT=str(self.prometheus_port),
            SERVE_PORT=str(self.serve_port),
            DOCKER_GID=str(SOCKET_GROUP),
            DOCKER_SOCKET=str(self.socket),
        )
        self.write_override()

    def write_override(self, env_file: Path | None = None) -> None:
        env_files = ""
        for service in ("daemon", "webserver", "metrics", "migrate") if env_file else ():
            env_files += f"  {service}:\n    env_file: [{env_file}]\n"
        if env_file:
            env_files = f"    env_file: [{env_file}]\n" + env_files
        self.override.write_text(
            OVERRIDE.format(
                image=IMAGE,
                rate=self.rate,
                accounts=self.accounts,
                here=HERE,
                password=ADMIN_PASSWORD,
                project=PROJECT,
                env_files=env_files.rstrip("\n"),
            )
        )

    def compose(self, *arguments: str) -> str:
        files = [part for name in self.files for part in ("-f", str(DOCKER / name))]
        return run("podman-compose", *files, "-f", str(self.override), *arguments)

    def container(self, service: str) -> str:
        return f"{PROJECT}_{service}_1"

    def state(self, service: str) -> dict[str, Any]:
        state: dict[str, Any] = json.loads(run("podman", "inspect", self.container(service)))[0]["State"]
        return state

    def inside(self, service: str, *command: str) -> str:
        return run("podman", "exec", self.container(service), *command)

    def is_healthy(self, service: str) -> bool:
        """Runs the service's health check, as systemd's timer would where there is systemd, with more patience."""
        (container,) = json.loads(run("podman", "inspect", self.container(service)))
        return bool(
            run("podman", "exec", self.container(service), *container["Config"]["Healthcheck"]["Test"][1:]) or 1
        )

    # What is started, in the order of `depends_on`: podman before 4.6 can't wait for health.
    def start(self) -> None:
        self.compose("up", "--detach", "--no-deps", "postgres")
        wait("PostgreSQL is healthy", 300, lambda: self.is_healthy("postgres"))
        self.compose("up", "--detach", "--no-deps", "migrate")
        wait("migrated", 300, lambda: self.state("migrate")["Status"] == "exited")
        if code := self.state("migrate")["ExitCode"]:
            raise Wrong(
                f"migrate ended with {code}:\n{run('podman', 'logs', '--tail', '20', self.container('migrate'))}"
            )
        self.compose("up", "--detach", "--no-deps", *self.running)
        for service in self.running:
            wait(f"{service} is healthy", 600, lambda service=service: self.is_healthy(service))  # type: ignore[misc]

    def start_appview(self) -> None:
        """The services of the profile `appview`."""
        for _ in range(2):  # it may run again
            self.compose("--profile", "appview", "up", "--detach", "--no-deps", "appview-prepare")
            wait("the role is there", 120, lambda: self.state("appview-prepare")["Status"] == "exited")
            if self.state("appview-prepare")["ExitCode"]:
                raise Wrong(run("podman", "logs", "--tail", "20", self.container("appview-prepare")))
        self.compose("up", "--detach", "--no-deps", "directory-inside", "directory")
        self.compose("--profile", "appview", "up", "--detach", "--no-deps", "appview")
        wait("appview is healthy", 300, lambda: self.is_healthy("appview"))

    def ask_appview(self, did: str, method: str, *given: str) -> tuple[int, Any]:
        """Asks it as an account (`-`: as nobody), as ask_as_account.py says."""
        script = (HERE / "ask_as_account.py").read_text()
        text = run(
            "podman", "exec", "--interactive", self.container("directory"),
            "python", "-", "http://appview:2584", SERVER_DID, did, method, *given, input=script,
        )  # fmt: skip
        answer = json.loads(text)
        return answer["status"], answer["body"]

    def curl(self, path: str, *options: str) -> Any:
        """The JSON that curl gets from the AppView's port on the host."""
        text = run("curl", "--silent", "--show-error", *options, f"http://127.0.0.1:{self.serve_port}{path}")
        return json.loads(text)

    def address(self, service: str, network: str = "") -> str:
        """A container's address in one of the project's networks."""
        (container,) = json.loads(run("podman", "inspect", self.container(service)))
        return str(container["NetworkSettings"]["Networks"][f"{PROJECT}{network}"]["IPAddress"])

    def connects(self, service: str, host: str, port: int) -> str:
        """`connected`, or why a service's container does not get a TCP connection to an address."""
        program = CONNECT_IN_NODE if service == "appview" else CONNECT_IN_PYTHON
        command = ("node", "-e") if service == "appview" else ("python", "-c")
        return self.inside(service, *command, program.format(host=host, port=port)).strip()

    def sql(self, statement: str) -> str:
        """What psql prints of a statement, as the pipeline's role."""
        return self.inside("postgres", "psql", "-U", "appview", "-d", "appview", "-Atc", statement).strip()

    def start_network(self) -> None:
        """The simulated network, and a file of the settings by which the pipeline finds it."""
        self.compose("up", "--detach", "network")
        name = self.container("network")
        said = wait(
            "the simulated network runs", 300,
            lambda: re.search(r"APPVIEW_RELAY_URL=.*(?= dagster dev)", run("bash", "-c", f"podman logs {name} 2>&1")),
        )  # fmt: skip
        env_file = self.folder / "appview.env"
        env_file.write_text(
            "".join(f"{name}={value}\n" for name, value in re.findall(r"(APPVIEW_\w+)=('[^']*'|\S+)", said[0]))
            .replace("'", "")
        )  # fmt: skip
        # The relay is set in compose.yaml, where it is taken from the environment.
        for line in env_file.read_text().splitlines():
            if line.startswith("APPVIEW_RELAY_URL="):
                os.environ["APPVIEW_RELAY_URL"] = line.partition("=")[2]
        self.write_override(env_file)

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.inside("code", "appview-pipeline", "status", "--json"))
        return found

    def cursor(self) -> int:
        """The stream's cursor as the database has it."""
        return int(self.sql("SELECT seq FROM pipeline.cursor"))

    def ask(self, query: str, **variables: Any) -> Any:
        """The data of a GraphQL query or mutation, asked of the webserver by HTTP."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.webserver_port}/graphql",
            json.dumps({"query": query, "variables": variables}).encode(),
            {"content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 (http, as above)
            body = json.load(answer)
        if "errors" in body:
            raise Wrong(str(body["errors"])[:1_000])
        return body["data"]

    def materialize(self, asset: str, partition: str) -> dict[str, Any]:
        """Materializes a partition of an asset as its page does; returns the run, once it has succeeded."""
        selector = {
            "repositoryName": "__repository__", "repositoryLocationName": "appview_pipeline",
            "jobName": "__ASSET_JOB", "assetSelection": [{"path": [asset]}],
        }  # fmt: skip
        tags = [{"key": "dagster/partition", "value": partition}]
        params = {
            "mode": "default", "selector": selector, "runConfigData": {}, "executionMetadata": {"tags": tags},
        }  # fmt: skip
        answer = self.ask(LAUNCH, params=params)["launchRun"]
        if answer["__typename"] != "LaunchRunSuccess":
            raise Wrong(f"{asset} {partition} is not launched: {answer}")
        run_id = answer["run"]["runId"]

        def ended() -> Any:
            found = self.ask(RUN, id=run_id)["runOrError"]
            return found if found["status"] in ("SUCCESS", "FAILURE", "CANCELED") else None

        found: dict[str, Any] = wait(f"the run of {asset} {partition} has ended", 600, ended)
        seconds = (found["endTime"] or 0) - (found["startTime"] or 0)
        say(f"run of {asset} {partition}: {found['status']}, {seconds:.1f} s")
        if found["status"] != "SUCCESS":
            raise Wrong(f"the run {run_id} of {asset} {partition} has ended with {found['status']}")
        return found

    def stop(self) -> list[str]:
        """Ends every container of ours with SIGTERM at once, then PostgreSQL; returns those that took too long."""

        def stop_one(service: str) -> tuple[str, float, int]:
            # Until its first process is gone: what podman does before and after that is not the process's time.
            process = Path(f"/proc/{self.state(service)['Pid']}")
            begin = time.monotonic()
            stopping = subprocess.Popen(
                ["podman", "stop", "--time", "120", self.container(service)],
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            while process.exists() and time.monotonic() - begin < 150:
                time.sleep(0.05)
            seconds = time.monotonic() - begin
            stopping.wait()
            return service, seconds, int(self.state(service)["ExitCode"])

        slow = []
        with ThreadPoolExecutor() as pool:
            found = list(pool.map(stop_one, self.running))
        found.append(stop_one("postgres"))
        for service, seconds, code in found:
            say(f"SIGTERM: {service} ended within {seconds:.1f} s, with exit code {code}")
            if seconds > STOP_SECONDS or code not in (0, 143):
                slow.append(service)
        return slow

    def targets_up(self) -> list[str]:
        """The jobs of Prometheus whose target answers."""
        query = f"http://127.0.0.1:{self.prometheus_port}/api/v1/query?query=up"
        with urllib.request.urlopen(query, timeout=30) as answer:
            found = json.load(answer)["data"]["result"]
        return sorted(sample["metric"]["job"] for sample in found if sample["value"][1] == "1")

    def screenshot(self, path: str, name: str) -> None:
        browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
        if browser is None:
            say("no Chromium here: no screenshot")
            return
        picture = self.folder / f"{name}.png"
        subprocess.run(
            [
                browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1500,1100",
                "--virtual-time-budget=20000", f"--user-data-dir={self.folder / 'browser'}", f"--screenshot={picture}",
                f"http://127.0.0.1:{self.webserver_port}{path}",
            ],
            capture_output=True, timeout=180,
        )  # fmt: skip
        say(f"screenshot {picture}" if picture.exists() else "Chromium made no screenshot")

    def down(self) -> None:
        label = f"label=io.podman.compose.project={PROJECT}"
        # With the volumes that have no name, which images ask for and compose leaves. The containers of runs share a
        # container's network, so they go with it.
        if containers := run("podman", "container", "ls", "--quiet", "--all", "--filter", label).split():
            run("podman", "rm", "--force", "--time", "5", "--volumes", "--depend", *containers, check=False)
        with contextlib.suppress(Wrong):
            self.compose("down", "--volumes", "--timeout", "5")
        for kind in ("volume", "network"):
            if names := run("podman", kind, "ls", "--quiet", "--filter", label).split():
                run("podman", kind, "rm", "--force", *names, check=False)


@contextlib.contextmanager
def podman_service(session: Session) -> Iterator[None]:
    """Podman's socket that speaks Docker's API."""
    process = subprocess.Popen(
        ["podman", "system", "service", "--time", "0", f"unix://{session.socket}"],
        stdout=subprocess.DEVNULL, stderr=(session.folder / "podman-service.log").open("w"),
    )  # fmt: skip
    try:
        wait("podman's socket is there", 30, session.socket.exists)
        os.chown(session.socket, 0, SOCKET_GROUP)
        session.socket.chmod(0o660)
        yield
    finally:
        process.terminate()
        process.wait(20)


def make_image(rebuild: bool, pip_conf: Path | None) -> None:
    run("bash", str(HERE / "stand-ins.sh"))
    if rebuild or subprocess.run(["podman", "image", "exists", IMAGE]).returncode:
        secret = ["--secret", f"id=pip-conf,src={pip_conf}"] if pip_conf else []
        run("podman", "build", "--pull=never", "--format", "docker", *secret, "--tag", IMAGE,
            "--file", str(DOCKER / "Dockerfile"), str(DOCKER.parent))  # fmt: skip
    size = int(run("podman", "image", "inspect", "--format", "{{.Size}}", IMAGE))
    say(f"image {IMAGE}: {size / 1e6:,.0f} MB")
    if rebuild or subprocess.run(["podman", "image", "exists", SERVE_IMAGE]).returncode:
        run("podman", "build", "--pull=never", "--format", "docker", "--network", "host", "--tag", SERVE_IMAGE,
            str(DOCKER / "appview"))  # fmt: skip


def hour() -> str:
    return f"{datetime.now(timezone.utc):%Y-%m-%d-%H:00}"


def indexed(session: Session, more_than: int) -> Any:
    """The one stream in use, once it has gone past a sequence number."""
    streams = [stream for stream in session.status()["streams"] if stream["in_use"]]
    return streams[0] if streams and streams[0]["seq"] > more_than else None


def served(session: Session) -> list[str]:
    """Asks the AppView for what is indexed; returns what was not as promised."""
    session.start_appview()
    query = (
        "SELECT creator FROM bsky.post JOIN bsky.profile USING (creator) GROUP BY 1 ORDER BY count(*) DESC, 1 LIMIT 2"
    )
    ann, bob = session.sql(query).split()
    posts = int(session.sql(f"SELECT count(*) FROM bsky.post WHERE creator = '{ann}'"))  # noqa: S608 (a DID)
    wrong = []

    def check(what: str, right: bool, answer: Any) -> None:
        say(f"{what}: {'as it should be' if right else 'WRONG'}")
        if not right:
            wrong.append(f"{what}: {json.dumps(answer)[:300]}")

    status, body = session.ask_appview("-", "app.bsky.actor.getProfile", f"actor={ann}")
    check(
        f"profile of {body.get('handle')}, {body.get('postsCount')} posts", status == 200 and body["did"] == ann, body
    )
    status, body = session.ask_appview("-", "app.bsky.feed.getAuthorFeed", f"actor={ann}", "limit=100")
    check(f"its feed, {len(body.get('feed', ()))} posts of {posts}", status == 200 and bool(body["feed"]), body)
    status, body = session.ask_appview(bob, "app.bsky.feed.getTimeline", "limit=50")
    check(f"timeline, with a token: {len(body.get('feed', ()))} posts", status == 200, body)
    status, body = session.ask_appview(f"stranger:{bob}", "app.bsky.feed.getTimeline")
    check(f"timeline, with a token that another key signed: {status} {body.get('error')}", status == 401, body)
    status, body = session.ask_appview(bob, "app.bsky.graph.muteActor", json.dumps({"actor": ann}))
    check("mute, with a token", status == 200, body)

    def is_muted() -> bool:
        _, profile = session.ask_appview(bob, "app.bsky.actor.getProfile", f"actor={ann}")
        return bool(profile["viewer"]["muted"])

    wait("the mute has gone through bsync into the database and back", 60, is_muted)
    document = session.curl("/.well-known/did.json")
    check(f"did.json, with curl on the host: {document['id']}", document["id"] == SERVER_DID, document)
    body = session.curl(f"/xrpc/app.bsky.actor.getProfile?actor={ann}")
    check(f"profile of {body.get('handle')}, with curl on the host", body.get("did") == ann, body)
    admin = ("--user", f"admin:{ADMIN_PASSWORD}", "--header", f"appview-as-did: {bob}")
    body = session.curl("/xrpc/app.bsky.feed.getTimeline?limit=50", *admin)
    check(f"timeline, with curl and the password: {len(body.get('feed', ()))} posts", "feed" in body, body)
    body = session.curl("/xrpc/app.bsky.graph.getMutes", *admin)
    check("the account's mutes, with curl and the password", [mute["did"] for mute in body["mutes"]] == [ann], body)
    wrong += apart(session)
    size = int(run("podman", "image", "inspect", "--format", "{{.Size}}", SERVE_IMAGE))
    say(f"image {SERVE_IMAGE}: {size / 1e6:,.0f} MB")
    say(
        run(
            "podman", "stats", "--no-stream", "--format", "{{.Name}} {{.MemUsage}}", session.container("appview")
        ).strip()
    )
    # Its own end, with those of the others.
    session.running = (*session.running, "appview")
    return wrong


def apart(session: Session) -> list[str]:
    """Who reaches whom by TCP; returns what was not as promised.

    Each refusal has its counterpart: the same question to a port that is open, or from a container that may ask.
    """
    inside, serving = session.address("network"), session.address("appview", "-serving")
    expected = [
        ("appview", "postgres", 5432, True),
        ("appview", "code", 4000, False),  # by its name
        ("appview", inside, 4000, False),
        ("daemon", "code", 4000, True),
        ("directory", "appview", 2584, True),
        *(("directory", "appview", port, False) for port in (2585, 2586, 2587)),
        ("daemon", "appview", 2584, False),
        ("daemon", serving, 2586, False),
        *(("appview", "127.0.0.1", port, True) for port in (2585, 2586, 2587)),
    ]
    if "webserver" in session.running:
        webserver = session.address("webserver")
        expected += [
            ("appview", "webserver", 3000, False),
            ("appview", webserver, 3000, False),
            ("daemon", "webserver", 3000, True),
        ]
    wrong = []
    for service, host, port, allowed in expected:
        outcome = session.connects(service, host, port)
        named = {inside: "the address of code", serving: "the address of appview"}.get(host, host)
        said = f"from {service} to {named}, port {port}: {outcome}"
        right = (outcome == "connected") == allowed
        say(said if right else f"{said}: WRONG")
        if not right:
            wrong.append(said)
    for port, allowed in ((2584, True), (2585, False), (2586, False), (2587, False)):
        with socket.socket() as client:
            client.settimeout(5)
            reached = client.connect_ex((serving, port)) == 0
        said = f"from the host to the container's address, port {port}: {'connected' if reached else 'refused'}"
        say(said if reached == allowed else f"{said}: WRONG")
        if reached != allowed:
            wrong.append(said)
    return wrong


def back_again(session: Session, services: tuple[str, ...]) -> list[str]:
    """Starts the containers that `stop` has ended, with what they had; returns what was not as promised."""
    run("podman", "start", session.container("postgres"))
    wait("PostgreSQL is back", 60, lambda: session.is_healthy("postgres"))
    rows = "SELECT (SELECT count(*) FROM bsky.record), (SELECT count(*) FROM bsky.mute)"
    records, mutes = (int(number) for number in session.sql(rows).split("|"))
    say(f"the database has {records:,} records and {mutes} mute")
    for service in services:
        run("podman", "start", session.container(service))
    for service in services:
        wait(f"{service} is healthy again", 600, lambda service=service: session.is_healthy(service))  # type: ignore[misc]
    session.running = services
    bob, ann = session.sql('SELECT "mutedByDid", "subjectDid" FROM bsky.mute').split("|")
    status, body = session.ask_appview(bob, "app.bsky.actor.getProfile", f"actor={ann}")
    kept = status == 200 and body["viewer"]["muted"] and mutes == 1
    say(f"started again, it shows the mute of before: {'as it should be' if kept else 'WRONG'}")
    return [] if kept else [f"after the second start: {json.dumps(body)[:300]}"]


def appview_alone(session: Session) -> list[str]:
    """The AppView over what code location and daemon index; returns what was not as promised."""
    session.running = ("code", "daemon")
    session.start_network()
    session.start()
    wait("the stream is indexed", 600, lambda: indexed(session, 0))
    wait("accounts have profiles and posts", 300, lambda: int(session.sql(
        "SELECT count(DISTINCT creator) FROM bsky.post JOIN bsky.profile USING (creator)")) > 1)  # fmt: skip
    wrong = served(session) + session.stop()
    wrong += back_again(session, ("code", "daemon", "appview"))
    return wrong + session.stop()


def whole(session: Session) -> list[str]:
    """The session; returns what was not as promised."""
    wrong = []
    session.start_network()
    session.start()
    stream = wait("the stream is indexed", 600, lambda: indexed(session, 0))
    time.sleep(30)
    stream = indexed(session, stream["seq"])
    if stream is None:
        raise Wrong("the stream stands still")
    say(f"at {stream['seq']:,}: {stream['events_last_hour']:,} events so far, lag {stream['lag_seconds']:.1f} s")
    session.materialize("posts", hour())
    session.materialize("repositories", "07")
    session.screenshot("/overview/activity", "activity")
    session.screenshot("/assets/firehose", "firehose")
    session.compose("--profile", "monitoring", "up", "--detach", "--no-deps", "prometheus")
    wait("Prometheus reads the metrics", 180, lambda: session.targets_up() == ["appview", "prometheus"])
    say(run("podman", "stats", "--no-stream", "--format", "{{.Name}} {{.MemUsage}} {{.CPUPerc}}").strip())

    wrong += served(session)
    wrong += session.stop()
    session.running = LONG_LIVED
    run("podman", "start", session.container("postgres"))
    wait("PostgreSQL is back", 60, lambda: session.is_healthy("postgres"))
    stopped_at = session.cursor()
    say(f"the cursor is at {stopped_at:,}, committed")

    for service in (*LONG_LIVED, "migrate"):
        run("podman", "rm", "--force", session.container(service))
    session.files.append("compose.docker-runs.yaml")
    os.environ["DAGSTER_RUN_NETWORK"] = f"container:{session.container('network')}"
    with podman_service(session):
        session.start()
        first = wait("it goes on from its cursor", 600, lambda: indexed(session, stopped_at))
        gaps = session.status()["gaps"]
        say(f"at {first['seq']:,}; open gaps: {gaps}")
        for asset, partition in (("posts", hour()), ("repositories", "08")):
            tags = {tag["key"]: tag["value"] for tag in session.materialize(asset, partition)["tags"]}
            container = tags.get("docker/container_id")
            if container is None:
                wrong.append(f"the run of {asset} was not in a container of its own")
            else:
                say(f"in a container of its own, {container[:12]} of {tags.get('docker/image', IMAGE)}")
        session.screenshot("/runs", "runs")
        wait("every health check passes", 300, lambda: all(session.is_healthy(name) for name in LONG_LIVED))
        wrong += session.stop()
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--keep-image", action="store_true", help="use the image that the last session has built")
    parser.add_argument("--only-appview", action="store_true", help="the reference AppView, and nothing of the rest")
    parser.add_argument("--pip-conf", type=Path, help="pip's settings for the build: a package index of your own")
    parser.add_argument("--rate", type=int, default=200, help="frames a second of the simulated network")
    parser.add_argument("--accounts", type=int, default=500)
    parser.add_argument("--output", type=Path, help="folder for logs and screenshots, which is kept")
    options = parser.parse_args()
    for tool in ("podman", "podman-compose"):
        if shutil.which(tool) is None:
            print(f"{tool} is missing; see the head of {__file__}.", file=sys.stderr)
            return 2
    folder = options.output or Path(tempfile.mkdtemp(prefix="appview-try-"))
    folder.mkdir(parents=True, exist_ok=True)
    session = Session(folder.resolve(), options.rate, options.accounts)
    session.down()  # of a session that was killed
    try:
        say(run("podman", "--version").strip() + ", " + run("podman-compose", "--version").splitlines()[0])
        make_image(not options.keep_image, options.pip_conf)
        wrong = appview_alone(session) if options.only_appview else whole(session)
    except Wrong as error:
        say(f"WRONG: {error}")
        wrong = [str(error)]
    finally:
        for service in ("postgres", "migrate", *LONG_LIVED, "appview-prepare", "appview", "prometheus", "network"):
            log = subprocess.run(["podman", "logs", session.container(service)], text=True, capture_output=True)
            if log.returncode == 0:
                (folder / f"{service}.log").write_text(log.stdout + log.stderr)
        session.down()
        if options.output is None:
            shutil.rmtree(folder, ignore_errors=True)
    say("everything as promised" if not wrong else f"not as promised: {', '.join(wrong)}"[:2_000])
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
