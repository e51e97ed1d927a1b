"""The published reference AppView over a database of ours, asked as any account (README.md)."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

from appview_pipeline_tests.conformance.reference.check import node_url
from appview_pipeline_tests.conformance.reference.packages import NODE

SERVICE = "did:example:appview"
"""The DID of the AppView: the audience of tokens."""
SERVE = Path(__file__).with_name("serve.mjs")
_ADMIN = "Basic " + base64.b64encode(b"admin:admin").decode()


@dataclass(frozen=True)
class Answer:
    """What the API answered: the HTTP status and the JSON body."""

    status: int
    body: Any


@dataclass(frozen=True)
class Reader:
    """The HTTP API of a running reference AppView. `labelers`: the header `atproto-accept-labelers` of every request;
    None: none is sent."""

    port: int
    labelers: str | None = None

    def get(self, method: str, viewer: str | None = None, **parameters: Any) -> Answer:
        """Calls a query, as the account `viewer` or as nobody. A list is a repeated parameter."""
        address = f"http://127.0.0.1:{self.port}/xrpc/{method}?{urlencode(parameters, doseq=True)}"
        headers = {"Authorization": _ADMIN, "appview-as-did": viewer} if viewer else {}
        if self.labelers is not None:
            headers["atproto-accept-labelers"] = self.labelers
        try:
            with urlopen(Request(address, headers=headers), timeout=30) as response:
                return Answer(response.status, json.load(response))
        except HTTPError as error:
            text = error.read()
            try:
                return Answer(error.code, json.loads(text))
            except ValueError:
                return Answer(error.code, text.decode(errors="replace"))


@contextmanager
def serving(packages: Path, url: str, log: Path, *, directory: str | None = None) -> Iterator[Reader]:
    """Starts the reference on the database `url`; its log goes to the file `log`. `directory`: URL of the PLC directory
    in which it looks up the keys of those who ask; None: it asks none."""
    environment = {**os.environ, "LOG_ENABLED": "true", "LOG_LEVEL": "error", "LOG_DESTINATION": str(log)}
    if directory is not None:
        environment["BSKY_DID_PLC_URL"] = directory
    with log.open("ab") as output:
        process = subprocess.Popen(
            [NODE, SERVE, packages, node_url(url)],
            env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=output, text=True,
        )  # fmt: skip
        try:
            assert process.stdin is not None and process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("{"), f"the reference did not start: {log.read_text()[-2_000:]}"
            yield Reader(json.loads(line)["port"])
        finally:
            process.kill()
            process.wait()
