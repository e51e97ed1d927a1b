"""Every damaged or hostile frame of the conformance data, among real frames, through the whole write path."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from appview_pipeline.ingest.files.capture_file import read_frames
from appview_pipeline.store.database import Database
from appview_pipeline_tests.support.conformance_modules import conformance_module
from appview_pipeline_tests.support.tables import fresh_database, one, replayed_frames, rows

# What is no dead letter: the stream about itself, removed and unknown types, and commits that nothing is wrong with
# at this level of verification (signatures are checked elsewhere).
PASSED_OVER = {
    "a-error-consumer-too-slow.frame",
    "a-error-future-cursor.frame",
    "a-info-outdated-cursor.frame",
    "a-legacy-handle.frame",
    "a-legacy-tombstone.frame",
    "a-no-type.frame",
    "a-unknown-op.frame",
    "a-unknown-type.frame",
    "b-commit-bad-signature.frame",
    "b-commit-control-valid.frame",
    "b-commit-no-since-no-prevdata.frame",
    "b-commit-wrong-key.frame",
    "b-record-unsorted-keys.frame",
}

# Frames whose record's block is damaged while another frame has the record whole: its CID names it, so it is indexed.
KNOWN_ELSEWHERE = {"a-bitflip-car.frame", "a-record-text-altered.frame"}


def index_of(conformance: Path) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = json.loads((conformance / "malformed/index.json").read_text())
    assert len(entries) == 48
    return entries


@pytest.mark.parametrize("batch_size", [1, 7, 500])
def test_all_of_them_among_real_frames(database: Database, conformance: Path, tmp_path: Path, batch_size: int) -> None:
    real = list(read_frames(conformance / "frames/jetstream-corpus/frames.bin.zst"))
    entries = index_of(conformance)
    frames = []
    for number, frame in enumerate(real):
        frames.append(frame)
        if number % 3 == 0 and number // 3 < len(entries):
            frames.append((conformance / "malformed" / entries[number // 3]["file"]).read_bytes())
    assert len(frames) == len(real) + len(entries)
    summary = replayed_frames(database, tmp_path, frames, batch_size)

    letters = len(entries) - len(PASSED_OVER) - len(KNOWN_ELSEWHERE)
    assert summary.rejected >= letters
    url = database.url
    assert one(url, "SELECT count(*) FROM pipeline.dead_letter WHERE reason = '' OR kind = ''") == 0
    assert one(url, "SELECT max(octet_length(bytes)) FROM pipeline.dead_letter") <= 65_536
    assert one(url, "SELECT max(byte_length) FROM pipeline.dead_letter") > 65_536, "the length is the whole one's"
    # The neighbours: what the real frames alone end in, but for the repository that the damaged ones name too.
    state = conformance_module(conformance, "state")
    want = json.loads((conformance / "golden/jetstream-corpus.tables.json").read_text())
    got = state.dump(url.replace("+psycopg2", ""))
    for table, wanted in want["rows"].items():
        uris = {row.get("uri") or row.get("postUri") for row in got["rows"][table]}
        assert {row.get("uri") or row.get("postUri") for row in wanted} <= uris, table
    stored = {row["uri"] for row in got["records"]}
    assert {row["uri"] for row in want["records"]} <= stored
    for entry in entries:
        if "good" in entry:
            assert entry["good"] in stored, entry["file"]
        if "bad" in entry and entry["file"] not in PASSED_OVER:
            assert entry["bad"] not in stored, entry["file"]


@pytest.mark.parametrize("number", range(48))
def test_each_alone(server: Any, template_database: str, conformance: Path, tmp_path: Path, number: int) -> None:
    entry = index_of(conformance)[number]
    frame = (conformance / "malformed" / entry["file"]).read_bytes()
    neighbour = list(read_frames(conformance / "frames/jetstream-corpus/frames.bin.zst"))[60]
    with fresh_database(server, template_database) as database:
        replayed_frames(database, tmp_path, [frame, neighbour])
        letters = rows(
            database.url, "SELECT kind, reason, seq, did, path, bytes, byte_length FROM pipeline.dead_letter"
        )
        assert one(database.url, "SELECT count(*) FROM bsky.record WHERE did NOT LIKE '%%malformed%%'") >= 1
        if entry["file"] in PASSED_OVER:
            assert letters == []
        else:
            assert len(letters) >= 1
            for kind, reason, _, _, _, kept, length in letters:
                assert kind and reason and length >= len(bytes(kept))
        before = [row[:5] for row in letters]
        replayed_frames(database, tmp_path, [frame, neighbour])
        again = rows(database.url, "SELECT kind, reason, seq, did, path FROM pipeline.dead_letter")
        assert again == before, "delivered again, it is not written again"
