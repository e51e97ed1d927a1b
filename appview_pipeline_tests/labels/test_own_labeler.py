"""What a label service of our own says where clients would not take its labels."""

from __future__ import annotations

import logging

import pytest

from appview_pipeline.labels.own_labeler import obstacles
from appview_pipeline.protocol.signing import public_key_of
from appview_pipeline.settings import Settings
from appview_pipeline.store.database import Database
from appview_pipeline_tests.support.keys import save_key
from appview_pipeline_tests.support.label_service import ANN, KEY, label_service
from appview_pipeline_tests.support.tables import rows

OWN = Settings(labeler_did=ANN, labeler_key=KEY)


def document(database: Database, labeler: str | None, key: bytes | None) -> None:
    save_key(database, ANN, None, labeler=labeler)
    name = None if key is None else public_key_of(key).did_key()
    rows(database.url, "UPDATE pipeline.identity SET labeler_key = %s", name)


def test_nothing_is_said_where_the_document_fits(database: Database) -> None:
    document(database, "https://labels.example", KEY)
    assert obstacles(OWN, database) == []
    assert obstacles(Settings(), database) == []


def test_what_is_missing_is_said(database: Database) -> None:
    (sentence,) = obstacles(Settings(labeler_did=ANN), database)
    assert "APPVIEW_LABELER_KEY is not set" in sentence
    (sentence,) = obstacles(OWN, database)
    assert f"appview-pipeline identity show {ANN} --refresh" in sentence
    document(database, None, None)
    no_key, no_service = obstacles(OWN, database)
    assert "has no key for labels" in no_key and "names no label service" in no_service


def test_another_key_is_said_at_the_start(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    document(database, "https://labels.example", bytes(range(2, 34)))
    for options in ({"own": True}, {"sources": [ANN]}, {}):
        caplog.clear()
        with caplog.at_level(logging.WARNING), label_service(database, settings=OWN, **options):
            pass
        assert f"APPVIEW_LABELER_KEY belongs to {public_key_of(KEY).did_key()}" in caplog.text
    caplog.clear()
    with label_service(database, settings=OWN, sources=["did:plc:" + "c" * 24]):
        pass
    assert "APPVIEW_LABELER_KEY" not in caplog.text
