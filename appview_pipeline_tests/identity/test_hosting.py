"""What a PDS says of an account, whatever it answers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from appview_pipeline.identity.hosting import GET_REPO_STATUS, MAX_BYTES, ask_status
from appview_pipeline.network.fetch_errors import FetchError, XrpcError
from appview_pipeline.network.xrpc import Client
from appview_pipeline.settings import Settings
from appview_pipeline.store.accounts import PdsStatus

DID = "did:plc:abcdefghijklmnopqrstuvwx"
PDS = "https://pds.example"


class Answering(Client):
    """A client whose every query has one answer, or error."""

    def __init__(self, answer: bytes | FetchError) -> None:
        super().__init__(Settings())
        self.answer = answer
        self.asked: list[tuple[str, str, Mapping[str, str], int]] = []

    def query(
        self,
        service: str,
        method: str,
        parameters: Mapping[str, str],
        *,
        max_bytes: int,
        seconds: float | None = None,
        is_trusted: bool = False,
    ) -> bytes:
        assert not is_trusted, "a document names the PDS"
        self.asked.append((service, method, parameters, max_bytes))
        if isinstance(self.answer, FetchError):
            raise self.answer
        return self.answer


def said(answer: Any) -> PdsStatus:
    body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    client = Answering(body)
    found = ask_status(client, PDS, DID)
    assert client.asked == [(PDS, GET_REPO_STATUS, {"did": DID}, MAX_BYTES)]
    return found


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        ({"did": DID, "active": True, "rev": "3l"}, "active"),
        ({"did": DID, "active": True, "status": "throttled"}, "active"),
        ({"active": False, "status": "deleted"}, "deleted"),
        ({"did": DID, "active": False, "status": "takendown"}, "takendown"),
        ({"did": DID, "active": False, "status": "something new"}, "something new"),
        ({"did": DID, "active": False}, "deactivated"),
        ({"did": DID, "active": False, "status": 7}, "deactivated"),
        ({"did": DID, "active": False, "status": "active"}, "deactivated"),
        ({"did": DID, "active": False, "status": "gone"}, "deactivated"),
        ({"did": DID, "active": False, "status": "tombstoned"}, "deactivated"),
        ({"did": DID, "active": False, "status": "\0"}, "deactivated"),
        ({"did": DID, "active": False, "status": "x" * 5_000}, "x" * 1_024),
    ],
)
def test_what_a_pds_says(answer: dict[str, Any], status: str) -> None:
    assert said(answer) == PdsStatus(DID, status, is_final=True)


@pytest.mark.parametrize(
    "answer",
    [
        *(b"", b"<html>", b"\xff", b"[" * 16_000, [], None, {}, {"did": DID}, {"did": DID, "active": 1}),
        *({"did": "did:plc:somebodyelse", "active": True}, {"did": 3, "active": True}),
    ],
)
def test_an_answer_that_says_nothing_is_none(answer: Any) -> None:
    found = said(answer)
    assert found.status is None and found.reason and not found.is_final


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("RepoNotFound", "gone"),
        ("RepoDeactivated", "deactivated"),
        ("RepoSuspended", "suspended"),
        ("RepoTakendown", "takendown"),
        ("InternalServerError", None),
        ("MethodNotImplemented", None),
        ("", None),
    ],
)
def test_errors_of_the_method(name: str, status: str | None) -> None:
    found = ask_status(Answering(XrpcError(400, name, "said so")), PDS, DID)
    assert found == PdsStatus(DID, status, "said so", is_final=status is not None)


def test_no_answer_says_why_and_whether_it_counts() -> None:
    error = FetchError("parked", "pds.example asked for a pause", retry_after=60.0, blames_account=False)
    found = ask_status(Answering(error), PDS, DID)
    assert found == PdsStatus(DID, None, "pds.example asked for a pause", retry_after=60.0, blames_account=False)


@pytest.mark.parametrize(
    ("state", "pds", "status", "is_final"),
    [
        ("found", None, "gone", True),
        ("not found", None, "gone", True),
        ("tombstoned", None, "tombstoned", True),
        ("tombstoned", PDS, "tombstoned", True),
        ("invalid", None, None, True),
        (None, PDS, None, False),
    ],
)
def test_without_a_pds_the_resolution_answers(
    state: str | None, pds: str | None, status: str | None, is_final: bool
) -> None:
    client = Answering(b"")
    found = ask_status(client, pds, DID, state=state)
    assert (found.status, found.is_final, client.asked) == (status, is_final, [])
