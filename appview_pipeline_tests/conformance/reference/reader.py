"""The published reference AppView over a database of ours, asked as any account (README.md)."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

from appview_pipeline.store.embedded import child_process
from appview_pipeline_tests.conformance.reference.check import node_url, scratch_database
from appview_pipeline_tests.conformance.reference.packages import MANIFEST, NODE
from appview_pipeline_tests.support.waiting import wait_for

SERVE = MANIFEST / "serve.mjs"
SERVICE = "did:example:appview"
"""The DID of the AppView: the audience of tokens."""
BSYNC_KEY = "bsync-key"
_NOWHERE = "http://127.0.0.1:9"
_ADMIN = "Basic " + base64.b64encode(b"admin:admin").decode()
_OTHERS = ("BSKY_", "BSYNC_", "SERVE_", "LOG_", "PG", "DATABASE_URL", "MOD_SERVICE_DID", "NODE_")


@dataclass(frozen=True)
class Answer:
    """What the API answered: the HTTP status and the JSON body."""

    status: int
    body: Any


@dataclass(frozen=True)
class Reader:
    """The HTTP API of a running reference AppView. `labelers`: the header `atproto-accept-labelers` of every request;
    None: none is sent. `ports`: by part (`appview`, `dataplane`, `bsync`, `health`)."""

    port: int
    labelers: str | None = None
    ports: Mapping[str, int] = field(default_factory=dict)

    def get(self, method: str, viewer: str | None = None, **parameters: Any) -> Answer:
        """Calls a query, as the account `viewer` or as nobody. A list is a repeated parameter."""
        return self._ask(f"{method}?{urlencode(parameters, doseq=True)}", viewer)

    def post(self, method: str, viewer: str | None = None, **body: Any) -> Answer:
        """Calls a procedure with the body as JSON, as the account `viewer` or as nobody."""
        return self._ask(method, viewer, json.dumps(body).encode())

    def _ask(self, path: str, viewer: str | None, body: bytes | None = None) -> Answer:
        headers = {"Authorization": _ADMIN, "appview-as-did": viewer} if viewer else {}
        if self.labelers is not None:
            headers["atproto-accept-labelers"] = self.labelers
        if body is not None:
            headers["Content-Type"] = "application/json"
        try:
            request = Request(f"http://127.0.0.1:{self.port}/xrpc/{path}", body, headers)
            with urlopen(request, timeout=30) as response:
                text = response.read()
                return Answer(response.status, json.loads(text) if text else None)
        except HTTPError as error:
            text = error.read()
            try:
                return Answer(error.code, json.loads(text))
            except ValueError:
                return Answer(error.code, text.decode(errors="replace"))


def free_ports(packages: Path) -> dict[str, str]:
    """This process's environment without what docker/appview/serve.mjs reads, with the packages, and any free ports."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(_OTHERS)}
    ports = dict.fromkeys(("BSKY_PORT", "BSYNC_PORT", "SERVE_DATAPLANE_PORT", "SERVE_HEALTH_PORT"), "0")
    return {**ours, **ports, "SERVE_PACKAGES": str(packages)}


def environment(packages: Path, url: str, **more: str) -> dict[str, str]:
    """The environment of docker/appview/serve.mjs over the database `url`, on free ports, asking nobody: neither a
    directory nor private state. `more` replaces."""
    return {
        **free_ports(packages),
        "SERVE_PARTS": "dataplane,appview",
        "SERVE_POOL_SIZE": "5",
        "DATABASE_URL": node_url(url),
        "BSKY_PUBLIC_URL": "http://localhost",
        "BSKY_SERVER_DID": SERVICE,
        "BSKY_DID_PLC_URL": _NOWHERE,
        "BSKY_ADMIN_PASSWORDS": "admin",
        "MOD_SERVICE_DID": "did:example:moderation",
        "LOG_LEVEL": "error",
        **more,
    }


@contextmanager
def started(
    variables: Mapping[str, str], log: Path, *options: str
) -> Iterator[tuple[subprocess.Popen[bytes], dict[str, int]]]:
    """Runs docker/appview/serve.mjs with these variables and options of node: the process, and the ports of its parts
    once it serves. Its log goes to the file `log`. Raises AssertionError with the end of the log where it does not
    start."""
    begun = log.stat().st_size if log.exists() else 0
    with log.open("ab") as output:
        process = subprocess.Popen(
            [NODE, *options, SERVE],
            env=dict(variables), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            preexec_fn=child_process.end_with_us(signal.SIGKILL),
        )  # fmt: skip
    try:
        wait_for(lambda: process.poll() is not None or _ports(log, begun), explain=lambda: log.read_text()[-2_000:])
        ports = _ports(log, begun)
        assert ports is not None, f"the reference did not start: {log.read_text()[-2_000:]}"
        yield process, ports
    finally:
        process.kill()
        process.wait()


def _ports(log: Path, begun: int) -> dict[str, int] | None:
    """The ports that the program says it serves on, in what it wrote after the first `begun` bytes."""
    for line in log.read_bytes()[begun:].splitlines():
        if b'"msg":"serving"' in line:
            ports: dict[str, int] = json.loads(line)["ports"]
            return ports
    return None


@contextmanager
def serving(
    packages: Path,
    url: str,
    log: Path,
    *,
    directory: str | None = None,
    private_state: bool = False,
    **variables: str,
) -> Iterator[Reader]:
    """Starts the reference on the database `url`; its log goes to the file `log`. `directory`: URL of a PLC directory,
    which may be on this machine, in which it looks up the keys of those who ask; None: it asks none. `private_state`:
    with bsync, whose database is made on the same server and dropped afterwards; its API key is `BSYNC_KEY`.
    `variables` replace those of `environment`."""
    with ExitStack() as stack:
        if directory is not None:
            variables = {"BSKY_DID_PLC_URL": directory, "BSKY_DISABLE_SSRF_PROTECTION": "true", **variables}
        if private_state:
            variables = {
                "SERVE_PARTS": "bsync,dataplane,subscription,appview",
                "BSYNC_DB_POSTGRES_URL": node_url(stack.enter_context(scratch_database(url))),
                "BSYNC_API_KEYS": BSYNC_KEY,
                **variables,
            }
        _, ports = stack.enter_context(started(environment(packages, url, **variables), log))
        yield Reader(ports["appview"], ports=ports)
