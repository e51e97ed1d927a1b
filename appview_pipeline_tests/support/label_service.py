"""The label service for others, run in a thread or as a process; signed labels for it; a client that reads frames."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

from websockets.sync.client import ClientConnection, connect

from appview_pipeline.labels.decoding import row_of
from appview_pipeline.labels.serving import LabelServer, serve_labels
from appview_pipeline.protocol.event_stream import control_of
from appview_pipeline.protocol.label import sign_label
from appview_pipeline.protocol.label_frames import read_labels_frame
from appview_pipeline.settings import Settings
from appview_pipeline.store.database import Database
from appview_pipeline.store.labels import LabelRow
from appview_pipeline_tests.support.checkout import CHECKOUT

KEY = bytes(range(1, 33))
"""Private key that all labels here are signed with."""
ANN, BOB = ("did:plc:" + letter * 24 for letter in "ab")

_SUBSCRIBE = "/xrpc/com.atproto.label.subscribeLabels"
_QUERY = "/xrpc/com.atproto.label.queryLabels"


def signed_row(uri: str, val: str = "spam", *, src: str = ANN, seq: int | None = None, **more: Any) -> LabelRow:
    """A signed label."""
    return row_of(sign_label(KEY, src=src, uri=uri, val=val, **{"cts": "2025-06-15T15:06:40.000Z", **more}), seq)


@dataclass(frozen=True)
class Answer:
    """What an HTTP request was answered: status, headers, JSON body."""

    status: int
    headers: Any
    body: Any


@dataclass(frozen=True)
class LabelService:
    """A label service that runs at a port of this machine."""

    port: int

    @property
    def url(self) -> str:
        """What subscriptions name it."""
        return f"ws://127.0.0.1:{self.port}"

    def get(self, path: str, **parameters: Any) -> Answer:
        """Asks for a path; a list is a repeated parameter."""
        address = f"http://127.0.0.1:{self.port}{path}?{urlencode(parameters, doseq=True)}"
        try:
            with urlopen(Request(address, headers={"Origin": "https://example.com"}), timeout=30) as answer:
                return Answer(answer.status, answer.headers, json.load(answer))
        except HTTPError as error:
            return Answer(error.code, error.headers, json.loads(error.read()))

    def query(self, *patterns: str, **parameters: Any) -> Answer:
        """Asks for labels."""
        return self.get(_QUERY, uriPatterns=list(patterns), **parameters)

    def connect(self, query: str = "", **more: Any) -> ClientConnection:
        """A WebSocket to its stream; `query` as in `?cursor=0`."""
        return connect(f"{self.url}{_SUBSCRIBE}{query}", open_timeout=30, close_timeout=5, compression=None, **more)

    @property
    def streams(self) -> int:
        """How many clients it serves."""
        count: int = self.get("/xrpc/_health").body["streams"]
        return count


@contextmanager
def label_service(database: Database, **more: Any) -> Iterator[LabelService]:
    """Runs one in a thread for the block; keyword arguments are of `serve_labels`, `settings` among them."""
    ready = threading.Event()
    found: list[LabelServer] = []

    def started(server: LabelServer) -> None:
        found.append(server)
        ready.set()

    failures: list[BaseException] = []

    def run() -> None:
        try:
            serve_labels(settings, database, started=started, **more)
        except BaseException as error:
            failures.append(error)
            ready.set()

    settings = replace(more.pop("settings", Settings()), labels_address=("127.0.0.1", 0))
    thread = threading.Thread(target=run, name="label service")
    thread.start()
    assert ready.wait(30)
    if failures:
        thread.join()
        raise failures[0]
    try:
        yield LabelService(found[0].port)
    finally:
        found[0].stop()
        thread.join(30)
        assert not thread.is_alive()
    if failures:
        raise failures[0]


class LabelServiceProcess:
    """`appview-pipeline serve-labels`, as people start it."""

    def __init__(self, database_url: str, port: int, *options: str, **environment: str) -> None:
        inherited = {key: text for key, text in os.environ.items() if not key.startswith("APPVIEW_")}
        self.service = LabelService(port)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "appview_pipeline.cli", "serve-labels", *options],
            cwd=CHECKOUT,
            env={
                **inherited,
                "APPVIEW_DATABASE_URL": database_url,
                "APPVIEW_LABELS_ADDRESS": f"127.0.0.1:{port}",
                **environment,
            },
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stderr is not None
        self.lines: list[str] = []
        for line in self.process.stderr:
            self.lines.append(line)
            if "Serves labels at" in line:
                break
        threading.Thread(target=lambda: self.lines.extend(self.process.stderr or ()), daemon=True).start()

    def end(self, how: int = signal.SIGTERM) -> float:
        """Sends a signal. Returns the seconds until the process had ended."""
        began = time.monotonic()
        self.process.send_signal(how)
        self.process.wait(30)
        return time.monotonic() - began


def labels_in(frame: str | bytes) -> tuple[int, list[dict[str, Any]]]:
    """The sequence number and the labels of a frame."""
    assert isinstance(frame, bytes)
    found = read_labels_frame(frame)
    assert found is not None, control_of(frame)
    return found[0], found[1]  # type: ignore[return-value]


def take(client: ClientConnection, count: int) -> list[dict[str, Any]]:
    """The next so many labels of a client's stream; fails where they don't come."""
    labels: list[dict[str, Any]] = []
    while len(labels) < count:
        labels += labels_in(client.recv(30))[1]
    return labels
