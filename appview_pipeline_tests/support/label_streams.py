"""The label process in a thread of a test, where its waits can be changed, and what has come of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from appview_pipeline import backoff
from appview_pipeline.labels.label_live import LabelSummary, label_live
from appview_pipeline.labels.label_process import COMMAND
from appview_pipeline.settings import load
from appview_pipeline.store.database import Database
from appview_pipeline_tests.simulated_network import Labeler, SimulatedNetwork
from appview_pipeline_tests.support.consumers import Consumer
from appview_pipeline_tests.support.tables import one, rows
from appview_pipeline_tests.support.waiting import wait_for


class LabelChild(Consumer):
    """The label process as a child of the test."""

    command = COMMAND


@dataclass
class Reading:
    """A label process at work on `database`. `troubles`: what it said to its parent. `ends`: done once it has ended."""

    database: Database
    ends: Future[LabelSummary]
    troubles: list[str | None]

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self.ends.done()

    def state(self, labeler: Labeler) -> str | None:
        """The state of a labeler, with the reason."""
        found = rows(
            self.database.url, "SELECT concat_ws(': ', state, reason) FROM pipeline.labeler WHERE did = %s", labeler.did
        )
        return found[0][0] if found else None

    def column(self, labeler: Labeler, name: str) -> Any:
        """A column of a labeler's row."""
        found = rows(self.database.url, f"SELECT {name} FROM pipeline.labeler WHERE did = %s", labeler.did)
        return found[0][0] if found else None

    def wait_for_state(self, labeler: Labeler, beginning: str, seconds: float = 15) -> None:
        """Waits until the state of a labeler, with its reason, begins so."""
        wait_for(lambda: (self.state(labeler) or "").startswith(beginning), seconds, lambda: str(self.state(labeler)))

    def wait_for_cursor(self, *labelers: Labeler, seconds: float = 15) -> None:
        """Waits until all that labelers have in their streams is applied."""
        for labeler in labelers:
            wait_for(
                lambda labeler=labeler: self.column(labeler, "cursor") == labeler.seq,  # type: ignore[misc]
                seconds,
                lambda labeler=labeler: (  # type: ignore[misc]
                    f"{self.state(labeler)}, {self.column(labeler, 'cursor')} of {labeler.seq}"
                ),
            )

    def labels(self, labeler: Labeler) -> set[tuple[Any, ...]]:
        """(uri, cid, val, neg) of the rows of `bsky.label` of a labeler."""
        return set(rows(self.database.url, "SELECT uri, cid, val, neg FROM bsky.label WHERE src = %s", labeler.did))

    def letters(self, labeler: Labeler) -> list[str]:
        """The kinds of a labeler's dead letters."""
        found = rows(self.database.url, "SELECT kind FROM pipeline.dead_letter WHERE did = %s ORDER BY id", labeler.did)
        return [kind for (kind,) in found]

    def count(self, sql: str) -> Any:
        """The only value that a statement gives."""
        return one(self.database.url, sql)


@contextmanager
def reading(
    database: Database, network: SimulatedNetwork, labelers: Sequence[Labeler] | None = None, **environment: str
) -> Iterator[Reading]:
    """The label process at work on the network's labelers (`labelers`: on these)."""
    variables = network.environment()
    if labelers is not None:
        variables["APPVIEW_LABELERS"] = ",".join(labeler.did for labeler in labelers)
    settings = load({**variables, "APPVIEW_DATABASE_URL": database.url, "APPVIEW_BATCH_SECONDS": "0.05", **environment})
    stop = threading.Event()
    troubles: list[str | None] = []
    with ThreadPoolExecutor(1) as pool:
        ends = pool.submit(label_live, settings, stop.is_set, trouble=troubles.append)
        try:
            yield Reading(database, ends, troubles)
        finally:
            stop.set()
            ends.result(30)


def quicken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the waits of the label process such as a test can sit out."""
    monkeypatch.setattr(backoff, "LABELERS_LOOK_SECONDS", 0.1)
    monkeypatch.setattr(backoff, "LABELERS_CHOICE_SECONDS", 0.3)
    monkeypatch.setattr(backoff, "LABELER_STATES_SECONDS", 0.3)
    monkeypatch.setattr(backoff, "LABELER_QUIET_SECONDS", 0.2)
    monkeypatch.setattr(backoff, "LABELER_EVENT_SECONDS", 0.1)
    monkeypatch.setattr(backoff, "LABELER_HELD_SECONDS", 0.3)
    monkeypatch.setattr(backoff, "labeler", lambda: backoff.Backoff(first=0.05, longest=0.5, healthy=30.0))
