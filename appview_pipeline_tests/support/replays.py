"""What tests look at after they have replayed frames: records and dead letters."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from appview_pipeline.store.database import Database
from appview_pipeline_tests.support.frames import Person
from appview_pipeline_tests.support.tables import one, rows

Replay = Callable[..., Database]


def stored_record(database: Database, person: Person, path: str) -> Any:
    return json.loads(one(database.url, "SELECT json FROM bsky.record WHERE uri = %s", person.uri(path)))


def letters(database: Database) -> list[tuple[Any, ...]]:
    return rows(database.url, "SELECT seq, did, path, kind, reason, bytes, byte_length FROM pipeline.dead_letter")
