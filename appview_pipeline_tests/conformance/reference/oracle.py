"""The published reference AppView as an oracle: its own indexer and its data plane, in one Node process (README.md).

It indexes frames into a database of its own, one event at a time and inside a commit one operation at a time, and
answers every method of the data plane over any database: its own, or ours. It asks no network: what its resolver
answers is given. Its clock stands still at the time of the newest event, so that results repeat.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import threading
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appview_pipeline.store.embedded.attach import EmbeddedPostgres
from appview_pipeline_tests.conformance.reference.check import node_url, run_reference_migrator
from appview_pipeline_tests.conformance.reference.packages import NODE
from appview_pipeline_tests.support.database import run_sql
from appview_pipeline_tests.support.tables import fresh_database

ORACLE = Path(__file__).with_name("oracle.mjs")
_LIMIT_SECONDS = 300.0
_LINE_CALLS = 1_000
_LINE_BYTES = 8_000_000


@dataclass(frozen=True)
class Call:
    """A request to the data plane. `method`: as its service names it, in lower camel case. `request`: its message as
    protobuf's JSON. `follow`: with all its pages, by the cursors of the answers."""

    method: str
    request: Mapping[str, Any]
    follow: bool = False

    def __str__(self) -> str:
        return f"{self.method}{' (all pages)' if self.follow else ''} {json.dumps(self.request, sort_keys=True)}"


@dataclass(frozen=True)
class Answer:
    """The response as JSON with all its fields (bytes in base64, times as ISO 8601); of a followed call a list of them.
    Of a failed call `error` and `message` are the code and the words, and `body` the pages before."""

    body: Any = None
    error: str | None = None
    message: str | None = None


@dataclass(frozen=True)
class Refused:
    """What the reference did not do. `position`: of the frame among those given. `step`: "parse" for a whole frame,
    else the part of its indexer that failed: indexRecord, deleteRecord, indexHandle, setCommitLastSeen,
    updateActorStatus, deleteActor. `uri`: of the operation's record, None where there is none. `reason`: the
    reference's words."""

    position: int
    step: str
    uri: str | None
    reason: str


class Oracle:
    """The running process. A request that fails raises `AssertionError` with the process's own words.

    `urls`: of the open databases, by name."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self.urls: dict[str, str] = {}
        self._process = process
        self._log = log

    def open(self, name: str, url: str) -> None:
        """Opens the database `url` as `name`. In an empty one the reference's migrator makes its schema."""
        self._request("open", name=name, url=node_url(url))
        self.urls[name] = url

    def close(self, name: str) -> None:
        """Ends all connections to it."""
        self._request("close", name=name)
        del self.urls[name]

    def identities(
        self,
        documents: Mapping[str, Mapping[str, Any] | None],
        handles: Mapping[str, str],
        gone: Collection[str] = (),
    ) -> None:
        """From now on the reference's resolver knows these and nothing else.

        `documents`: DID document by DID. `handles`: by handle, in lower case, the DID that DNS names for it. `gone`:
        DIDs of whose repositories their PDS says that there is none; it has every other one.
        """
        self._request("identities", documents=dict(documents), handles=dict(handles), gone=sorted(gone))

    def clock(self, time: str | None) -> None:
        """Sets the process's clock to an ISO time. None: to the real one. `index` sets it to each event's time."""
        self._request("clock", time=time)

    def index(self, name: str, frames: Iterable[bytes]) -> list[Refused]:
        """Indexes a relay's frames in their order, each with its aggregates before the next; what was refused."""
        given, start, refused = [base64.b64encode(frame).decode() for frame in frames], 0, []
        while start < len(given):
            end, size = start, 0
            while end < len(given) and (size == 0 or size + len(given[end]) <= _LINE_BYTES):
                size += len(given[end])
                end += 1
            for it in self._request("index", name=name, frames=given[start:end]):
                it["position"] += start
                refused.append(Refused(**it))
            start = end
        return refused

    def ask(self, name: str, calls: Sequence[Call]) -> list[Answer]:
        """The answers to reads of the data plane, in the order of the calls."""
        answers: list[Answer] = []
        for start in range(0, len(calls), _LINE_CALLS):
            some = [[call.method, call.request, call.follow] for call in calls[start : start + _LINE_CALLS]]
            answers += [Answer(**it) for it in self._request("ask", name=name, calls=some)]
        return answers

    def run(self, name: str, method: str, **request: Any) -> Any:
        """Calls one method, a writing one for example; its response. Raises `AssertionError` if it fails."""
        (answer,) = self.ask(name, [Call(method, request)])
        assert answer.error is None, f"{method} failed: {answer.error}: {answer.message}"
        return answer.body

    def methods(self) -> dict[str, list[str]]:
        """The fields of the request of every method of the data plane's service."""
        found: dict[str, list[str]] = self._request("methods")
        return found

    def _request(self, action: str, **parameters: Any) -> Any:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        # A process that hangs is ended, and so is the wait for it.
        limit = threading.Timer(_LIMIT_SECONDS, self._process.kill)
        limit.start()
        try:
            stdin.write(json.dumps({"do": action, **parameters}) + "\n")
            stdin.flush()
            line = stdout.readline()
        finally:
            limit.cancel()
        assert line, f"the oracle ended: {self._log.read_text(errors='replace')[-2_000:]}"
        answer = json.loads(line)
        assert "error" not in answer, answer.get("error")
        return answer["result"]


@contextmanager
def oracle(packages: Path, log: Path) -> Iterator[Oracle]:
    """Starts the reference, without a database yet. What it logs goes to the file `log`."""
    environment = {**os.environ, "LOG_ENABLED": "true", "LOG_LEVEL": "error", "LOG_DESTINATION": str(log)}
    with log.open("ab") as output:
        process = subprocess.Popen(
            [NODE, ORACLE, packages],
            env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=output, text=True,
        )  # fmt: skip
        try:
            yield Oracle(process, log)
        finally:
            process.kill()
            process.communicate()


def reference_template(server: EmbeddedPostgres, packages: Path) -> str:
    """Name of a new database with the schema that the reference's migrator makes, to be cloned."""
    name = f"reference_{uuid.uuid4().hex[:12]}"
    run_sql(server, f'CREATE DATABASE "{name}"')
    run_reference_migrator(packages, server.url(name))
    return name


@contextmanager
def reference_database(server: EmbeddedPostgres, template: str) -> Iterator[str]:
    """The URL of a database cloned from such a template, whose sessions end with the block."""
    with fresh_database(server, template) as made:
        yield made.url
