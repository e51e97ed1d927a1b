"""docker/appview/: how the published reference AppView is started, watched and ended, and what it may do."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.request import urlopen

from appview_pipeline.store.database import Database
from appview_pipeline_tests.conformance.reference.reader import Reader, serving
from appview_pipeline_tests.support.tables import rows
from appview_pipeline_tests.support.waiting import wait_for

ANN, BOB = "did:plc:aaaaaaaaaaaaaaaaaaaaaaaa", "did:plc:bbbbbbbbbbbbbbbbbbbbbbbb"
POST = f"at://{BOB}/app.bsky.feed.post/3l6oveex3ii2l"


def ready(reader: Reader) -> dict[str, str]:
    with urlopen(f"http://127.0.0.1:{reader.ports['health']}/readyz", timeout=30) as answer:
        parts: dict[str, str] = json.load(answer)["parts"]
        return parts


def test_with_all_its_parts_a_mute_reaches_the_database(database: Database, packages: Path, tmp_path: Path) -> None:
    with serving(packages, database.url, tmp_path / "serve.log", private_state=True) as reader:
        assert ready(reader) == dict.fromkeys(("bsync", "dataplane", "subscription", "appview"), "ok")
        assert reader.post("app.bsky.graph.muteActor", ANN, actor=BOB).status == 200
        mutes = 'SELECT "mutedByDid", "subjectDid" FROM bsky.mute'
        wait_for(lambda: rows(database.url, mutes) == [(ANN, BOB)])
        seen = "2025-06-16T00:00:00.000Z"
        assert reader.post("app.bsky.notification.updateSeen", ANN, seenAt=seen).status == 200
        assert rows(database.url, 'SELECT "lastSeenNotifs" FROM bsky.actor_state') == [(seen,)]
