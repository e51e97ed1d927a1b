"""What one attempt at an account leads to, whatever upstream says."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import datetime

import pytest

from appview_pipeline import backoff
from appview_pipeline.identity.dids import Resolution
from appview_pipeline.identity.handles import HandleCheck
from appview_pipeline.store.accounts import PdsStatus
from appview_pipeline.store.identities import StoredIdentity, Wanted
from appview_pipeline_tests.support.resolution import Script, did_of, found, no_answer, wanted

ANN = did_of("ann")
HOUR, DAY = 3_600.0, 86_400.0


def unverified(reason: str, *, is_final: bool = True, **values: object) -> HandleCheck:
    return HandleCheck("ann.test", False, None, None, reason, is_final, **values)  # type: ignore[arg-type]


def test_a_verified_handle_is_looked_up_again_after_a_day() -> None:
    got = Script().attempt(wanted()).settled
    assert got is not None
    assert (got.state, got.source, got.handle_source) == ("found", "plc", "dns")
    assert got.handle == got.claimed_handle == "ann.test"
    assert got.handle_error is None and got.pds == "https://pds.test" and got.is_handle_final
    assert 0.7 * DAY <= got.next_check_seconds <= DAY


def test_a_handle_that_is_not_verified_is_looked_up_again_after_an_hour_and_says_why() -> None:
    script = Script(checks={ANN: lambda did, handle: unverified("it names another account")})
    got = script.attempt(wanted()).settled
    assert got is not None and got.handle is None and got.claimed_handle is not None
    assert got.handle_error == "it names another account" and got.is_handle_final
    assert 0.9 * HOUR <= got.next_check_seconds <= 1.1 * HOUR


def imported(queue: str = "new", *, status: bool = False, **values: object) -> Wanted:
    """An account that is known from a PLC export."""
    known = StoredIdentity(
        ANN, doc="{}", pds="https://imported.test", state="found", source="import", claimed_handle="imported.test"
    )
    return replace(wanted(queue=queue, status=status), known=replace(known, **values))  # type: ignore[arg-type]


@pytest.mark.parametrize("queue", ["new", "refresh"])
def test_an_imported_account_whose_handle_verifies_is_not_asked_of_the_directory(queue: str) -> None:
    script = Script()
    got = script.attempt(imported(queue)).settled
    assert got is not None and script.asked == []
    assert (got.state, got.source, got.doc, got.pds) == ("found", "import", "{}", "https://imported.test")
    assert (got.handle, got.claimed_handle, got.handle_source) == ("imported.test", "imported.test", "dns")
    assert 0.7 * DAY <= got.next_check_seconds <= DAY


@pytest.mark.parametrize(
    "account",
    [
        imported("event"),
        imported("retry"),
        imported(status=True),
        imported(event_at=datetime(2026, 1, 1)),
        imported(handle_checked_at=datetime(2026, 1, 1)),
        imported(claimed_handle=None),
        imported(source="plc"),
    ],
    ids=["event", "retry", "status", "an event before", "not the first time", "no handle", "not imported"],
)
def test_any_other_account_is_asked_of_the_directory(account: Wanted) -> None:
    script = Script()
    got = script.attempt(account).settled
    assert got is not None and (got.source, got.handle) == ("plc", "ann.test") and script.asked == [ANN]


def test_an_imported_handle_that_does_not_verify_may_be_outdated() -> None:
    checked = []

    def check(did: str, handle: str) -> HandleCheck:
        checked.append(handle)
        return HandleCheck(handle, handle == "ann.test", did, "dns", None, True)

    script = Script(checks={ANN: check})
    got = script.attempt(imported()).settled
    assert got is not None and (got.source, got.handle) == ("plc", "ann.test")
    assert script.asked == [ANN] and checked == ["imported.test", "ann.test"]
    # The same handle is not checked twice.
    checked.clear()
    script.resolutions = {ANN: lambda did: found(did, handle="imported.test")}
    got = script.attempt(imported()).settled
    assert got is not None and (got.source, got.handle) == ("plc", None) and checked == ["imported.test"]


@pytest.mark.parametrize("state", ["not found", "tombstoned", "invalid"])
def test_an_answer_without_a_document_is_an_answer(state: str) -> None:
    script = Script({ANN: lambda did: Resolution(did, state, "plc", reason="because")})
    got = script.attempt(wanted()).settled
    assert got is not None and (got.state, got.error, got.handle, got.doc) == (state, "because", None, None)
    assert HOUR <= got.next_check_seconds <= 1.1 * HOUR, "the directory may know it by then"


@pytest.mark.parametrize("source", ["plc", "import"])
@pytest.mark.parametrize("state", ["not found", "invalid"])
def test_a_directory_that_forgets_a_did_gives_no_answer(source: str, state: str) -> None:
    """A wrong APPVIEW_PLC_URL answers 404, or a web page, for everybody, and must not take all accounts their
    handles."""
    script = Script({ANN: lambda did: Resolution(did, state, "plc", reason="nobody knows it")})
    before = replace(wanted(queue="event"), known=StoredIdentity(ANN, state="found", source=source))
    got = script.attempt(before)
    assert got.settled is None and got.postponed is not None and got.postponed.counts
    assert got.postponed.error == (
        "nobody knows it; the PLC directory had a document of it before: is APPVIEW_PLC_URL right?"
    )
    web = Script({ANN: lambda did: Resolution(did, "not found", "web", reason="no such host")}).attempt(before)
    assert web.settled is not None and web.settled.state == "not found", "a host may give its name up"


def test_failures_are_tried_again_within_seconds_then_minutes_then_an_hour() -> None:
    script = Script({ANN: no_answer})
    waits = []
    for attempts in range(14):
        later = script.attempt(wanted(attempts=attempts)).postponed
        assert later is not None and later.counts and later.error == "no answer within 5 s"
        waits.append(later.seconds)
    bounds = [1, 2, 4, 60, 120, 240, 480, 960, 1_920, 3_600, 3_600, 3_600, 3_600, 3_600]
    assert all(0.7 * bound <= wait <= bound for wait, bound in zip(waits, bounds, strict=True)), waits


def test_a_server_that_is_left_alone_is_no_failure_of_the_account() -> None:
    script = Script({ANN: lambda did: no_answer(did, "parked", retry_after=900.0, blames_account=False)})
    got = script.attempt(wanted(attempts=2, status=True))
    assert got.turned_away and got.status is None
    assert got.postponed is not None and 900 <= got.postponed.seconds <= 960
    unknown = Script({ANN: lambda did: no_answer(did, "breaker open", blames_account=False)}).attempt(wanted())
    assert unknown.postponed is not None and 60 <= unknown.postponed.seconds <= 75
    # A server that asks for an hour is left alone for an hour; one that asks for a year as well.
    year = Script({ANN: lambda did: no_answer(did, "parked", retry_after=3e7, blames_account=False)}).attempt(wanted())
    assert year.postponed is not None and 3_600 <= year.postponed.seconds <= 3_660


def test_trouble_on_the_way_to_a_handle_is_tried_quickly_then_settled_without_it() -> None:
    script = Script(checks={ANN: lambda did, handle: unverified("SERVFAIL", is_final=False)})
    for attempts in range(backoff.RESOLUTION_QUICK_TRIES):
        later = script.attempt(wanted(attempts=attempts)).postponed
        assert later is not None and later.counts and later.error == "SERVFAIL"
    got = script.attempt(wanted(attempts=backoff.RESOLUTION_QUICK_TRIES)).settled
    assert got is not None and got.handle is None and not got.is_handle_final and got.handle_error == "SERVFAIL"
    parked = Script(
        checks={ANN: lambda did, handle: unverified("its host is parked", is_final=False, blames_account=False)}
    ).attempt(wanted())
    assert parked.settled is not None and not parked.settled.is_handle_final, "the document is stored all the same"


def test_the_hosting_status_is_asked_for_where_it_is_wanted() -> None:
    assert Script().attempt(wanted()).status is None
    got = Script().attempt(wanted(status=True))
    assert got.status is not None and got.status.status == "active"
    assert got.settled is not None and got.settled.status_seconds is None
    silent = Script(statuses={ANN: PdsStatus(ANN, None, "no answer")})
    got = silent.attempt(wanted(status=True))
    assert got.settled is not None and got.settled.status_seconds is not None, "it stays queued for its status"
    got = silent.attempt(wanted(status=True, attempts=backoff.HOSTING_STATUS_TRIES))
    assert got.settled is not None and got.settled.status_seconds is None, "the relay's word stands"
    parked = Script(statuses={ANN: PdsStatus(ANN, None, "parked", retry_after=300.0, blames_account=False)})
    got = parked.attempt(wanted(status=True, attempts=99))
    assert got.settled is not None and 300 <= (got.settled.status_seconds or 0) <= 360
    for script in (silent, parked):
        got = script.attempt(wanted(status=True, queue="refresh"))
        assert got.settled is not None and got.settled.status_seconds is None, "the next refresh asks again"
    # Without a document nobody can be asked, which counts as a try as well.
    nobody = Script({ANN: no_answer}, statuses={ANN: PdsStatus(ANN, None, "its DID document can't be used")})
    assert nobody.attempt(wanted(status=True)).status is not None


def test_a_did_that_was_given_up_is_a_status_that_nobody_had_to_ask_for() -> None:
    tombstoned = {ANN: lambda did: Resolution(did, "tombstoned", "plc", reason="because")}
    said = PdsStatus(ANN, "tombstoned", "because", is_final=True)
    got = Script(tombstoned, statuses={ANN: said}).attempt(wanted())
    assert got.status == said
    assert got.settled is not None and got.settled.status_seconds is None


def test_a_defect_of_ours_holds_up_one_account_and_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    def broken(did: str) -> Resolution:
        raise ZeroDivisionError("division\0 by zero")

    with caplog.at_level(logging.ERROR):
        got = Script({ANN: broken}).attempt(wanted())
    assert got.postponed is not None and got.postponed.counts
    assert got.postponed.error == "this program failed: ZeroDivisionError: division by zero"
    assert "Traceback" in caplog.text and ANN in caplog.text
