"""What an account's own PDS says of it: the question that confirms, or contradicts, a relay's word."""

from __future__ import annotations

import json

from appview_pipeline.network.fetch_errors import FetchError, XrpcError
from appview_pipeline.network.xrpc import Client
from appview_pipeline.store.accounts import ACTIVE, GONE, TOMBSTONED, PdsStatus

GET_REPO_STATUS = "com.atproto.sync.getRepoStatus"
MAX_BYTES = 16_384
"""Limit of the bytes of an answer, which has four short fields."""
MAX_STATUS = 1_024

_STATUS_OF_ERROR = {
    "RepoNotFound": GONE,
    "RepoDeactivated": "deactivated",
    "RepoSuspended": "suspended",
    "RepoTakendown": "takendown",
}
"""What PDSes answer instead of a status: the errors that the methods of com.atproto.sync declare."""


def ask_status(client: Client, pds: str | None, did: str, *, state: str | None = "found") -> PdsStatus:
    """The hosting status of account `did`, as its PDS (`https://host`) says. Never raises for what upstream does.

    `state`: of its resolution (`Resolution.state`), which answers by itself where there is no PDS to be asked: a DID
    that was given up is "tombstoned"; one that is unknown, or whose document names no PDS, is "gone".
    https://atproto.com/specs/account
    """
    if state == "tombstoned":
        return PdsStatus(did, TOMBSTONED, "its DID was given up (tombstoned)", is_final=True)
    if state == "not found":
        return PdsStatus(did, GONE, "nobody knows its DID", is_final=True)
    if state != "found":
        return PdsStatus(did, None, "its DID document can't be used", is_final=state == "invalid")
    if pds is None:
        return PdsStatus(did, GONE, "its DID document names no PDS", is_final=True)
    try:
        body = client.query(pds, GET_REPO_STATUS, {"did": did}, max_bytes=MAX_BYTES)
    except XrpcError as error:
        if status := _STATUS_OF_ERROR.get(error.name):
            return PdsStatus(did, status, error.reason, is_final=True)
        return _unanswered(did, error)
    except FetchError as error:
        return _unanswered(did, error)
    return _read(did, body)


def _unanswered(did: str, error: FetchError) -> PdsStatus:
    return PdsStatus(did, None, error.reason, retry_after=error.retry_after, blames_account=error.blames_account)


def _read(did: str, body: bytes) -> PdsStatus:
    """Reads the output of getRepoStatus: `did`, `active`, and where that is false perhaps `status`."""
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return PdsStatus(did, None, "the PDS's answer is not JSON")
    if not isinstance(answer, dict) or not isinstance(answer.get("active"), bool):
        return PdsStatus(did, None, "the PDS's answer does not say whether the account is active")
    if answer.get("did", did) != did:
        return PdsStatus(did, None, "the PDS's answer is about another account")
    if answer["active"]:
        return PdsStatus(did, ACTIVE, is_final=True)
    status = answer.get("status")
    known = status.replace("\0", "")[:MAX_STATUS] if isinstance(status, str) else ""
    if known in ("", ACTIVE, GONE, TOMBSTONED):  # our own words for what only we can say
        known = "deactivated"
    return PdsStatus(did, known, is_final=True)
