"""`appview-pipeline serve`, run in a thread, and what it answers."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from prometheus_client.parser import text_string_to_metric_families

from appview_pipeline.operations.reading import Reading
from appview_pipeline.operations.serving import serve
from appview_pipeline.serving.server import HttpServer
from appview_pipeline.settings import Settings


@dataclass(frozen=True)
class Answer:
    """What a request was answered: status, headers, body."""

    status: int
    headers: Any
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def sentence(self) -> str:
        text: str = self.json["sentence"]
        return text

    @property
    def samples(self) -> dict[str, dict[tuple[str, ...], float]]:
        """Values by name and by the labels' values, in the order of the labels' names."""
        found: dict[str, dict[tuple[str, ...], float]] = {}
        for family in text_string_to_metric_families(self.body.decode()):
            for sample in family.samples:
                labels = tuple(value for _, value in sorted(sample.labels.items()))
                found.setdefault(sample.name, {})[labels] = sample.value
        return found


@dataclass(frozen=True)
class MetricsService:
    """A process's worth of metrics and health, at a port of this machine."""

    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def get(self, path: str, **headers: str) -> Answer:
        try:
            with urlopen(Request(self.url + path, headers=headers), timeout=60) as answer:
                return Answer(answer.status, answer.headers, answer.read())
        except HTTPError as error:
            return Answer(error.code, error.headers, error.read())

    def samples(self) -> dict[str, dict[tuple[str, ...], float]]:
        answer = self.get("/metrics")
        assert answer.status == 200
        return answer.samples


@contextmanager
def metrics_service(settings: Settings, read: Callable[[], Reading] | None = None) -> Iterator[MetricsService]:
    """Runs one for the block. `read`: what it reads instead of the settings' database."""
    ready = threading.Event()
    servers: list[HttpServer] = []
    failures: list[BaseException] = []

    def started(server: HttpServer) -> None:
        servers.append(server)
        ready.set()

    def run() -> None:
        try:
            serve(replace(settings, metrics_address=("127.0.0.1", 0)), started, read)
        except BaseException as error:
            failures.append(error)
            ready.set()

    thread = threading.Thread(target=run, name="metrics service")
    thread.start()
    assert ready.wait(60)
    try:
        if servers:
            yield MetricsService(servers[0].port)
    finally:
        if servers:
            servers[0].stop()
        thread.join(60)
        assert not thread.is_alive()
    if failures:
        raise failures[0]
