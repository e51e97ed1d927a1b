"""A slow start of the embedded server goes on for as long as its processes live, and says so."""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path

import pytest

from appview_pipeline.errors import OperatorError
from appview_pipeline.store.embedded import attach as attaching
from appview_pipeline.store.embedded import binaries
from appview_pipeline_tests.support.embedded_server import attach, query

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc")


def stand_in(state: Path, before: str) -> Path:
    """Server binaries that first do `before`, a line of shell, unless they are asked for their version."""
    folder = state.parent / "stand-in"
    folder.mkdir()
    real = binaries.find(None, None).folder
    for program in ("postgres", "initdb"):
        script = folder / program
        script.write_text(f'#!/bin/sh\n[ "$1" = --version ] || {{ {before}; }}\nexec "{real}/{program}" "$@"\n')
        script.chmod(0o755)
    return folder


def test_slow_binaries_are_waited_for(
    state: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(attaching, "REPORT_SECONDS", 0.4)
    caplog.set_level(logging.INFO)
    began = time.monotonic()
    with attach(state, binaries=stand_in(state, "sleep 2")) as pg:
        assert query(pg.url(), "SELECT 1") == 1
        assert time.monotonic() - began > 4  # initdb and the server
    reports = [record.getMessage() for record in caplog.records if "is still starting after" in record.getMessage()]
    assert len(reports) >= 4
    assert any(f"supervisor: creating the data directory {state}/pgdata" in report for report in reports)
    assert any("supervisor: starting PostgreSQL" in report for report in reports)


def test_a_start_beyond_the_setting_is_given_up_in_a_sentence_and_can_be_joined_later(state: Path) -> None:
    slow = stand_in(state, "sleep 2")
    with pytest.raises(OperatorError) as caught:
        attach(state, binaries=slow, database_start_seconds=0.5)
    assert str(caught.value) == (
        f"The embedded PostgreSQL is still starting after 0.5 s: see {state}/postgres.log, and raise "
        "APPVIEW_DATABASE_START_SECONDS if it only needs more time."
    )
    with attach(state, binaries=slow) as pg:
        assert query(pg.url(), "SELECT 1") == 1


def test_a_caller_without_patience_is_told_and_joins_the_same_start_later(state: Path) -> None:
    slow = stand_in(state, "sleep 2")
    refused = 0
    while True:
        try:
            pg = attach(state, patience=0.5, binaries=slow)
        except OperatorError as error:
            assert str(error).startswith("The embedded PostgreSQL is still starting, which takes minutes on a slow")
            refused += 1
            assert refused < 100
            continue
        break
    with pg:
        assert refused > 3
        assert (state / "postgres.log").read_text().count("creating the data directory") == 1


def test_a_slow_start_that_fails_ends_at_once(state: Path) -> None:
    began = time.monotonic()
    failing = stand_in(state, "sleep 1; echo 'initdb: error: No space left on device' >&2; exit 1")
    with pytest.raises(OperatorError, match=r"No space left on device\): free some disk space and start again\.$"):
        attach(state, binaries=failing)
    assert 1 < time.monotonic() - began < 30
