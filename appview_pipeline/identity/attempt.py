"""One attempt at an account: its DID document, its handle, and where asked for its hosting status; then what to do."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

from appview_pipeline import backoff
from appview_pipeline.identity.dids import Resolution
from appview_pipeline.identity.handles import HandleCheck
from appview_pipeline.store.accounts import PdsStatus
from appview_pipeline.store.identities import Postponed, Settled, Wanted

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Questions:
    """What an attempt asks upstream. The functions never raise for what upstream does; tests write their own.

    `resolve` gets a DID, and whether the last attempt at it failed; `check` a DID and the handle that its document
    claims; `status` a DID, its PDS, and the state of its resolution.
    """

    resolve: Callable[[str, bool], Resolution]
    check: Callable[[str, str], HandleCheck]
    status: Callable[[str, str | None, str | None], PdsStatus]


@dataclass(frozen=True)
class Attempt:
    """What came of an account that was taken: an answer (`settled`), or none (`postponed`); either with what its PDS
    said of its hosting status (`status`), where that was asked for.

    `turned_away`: nobody was asked, because the server is left alone for now.
    """

    wanted: Wanted
    settled: Settled | None = None
    status: PdsStatus | None = None
    postponed: Postponed | None = None

    @property
    def turned_away(self) -> bool:
        """Whether it was no attempt of the account's."""
        return self.postponed is not None and not self.postponed.counts


def attempt(wanted: Wanted, questions: Questions) -> Attempt:
    """Resolves an account that was taken. Blocks for as long as its requests take; raises nothing."""
    try:
        return _attempt(wanted, questions)
    except Exception as error:  # a defect of ours holds up this account alone, and is in the log and in its row
        log.exception("Resolving %s failed in an unexpected way", wanted.did)
        reason = f"this program failed: {type(error).__name__}: {error}".replace("\0", "")[:500]
        return _later(wanted, reason)


def _attempt(wanted: Wanted, questions: Questions) -> Attempt:
    imported = _check_imported(wanted, questions)
    if imported is not None and imported.verified:
        return Attempt(wanted, _settled_by_import(wanted, imported))
    found = _unless_forgotten(wanted, questions.resolve(wanted.did, wanted.attempts > 0))
    if found.state is None:
        status = questions.status(wanted.did, None, None) if wanted.status_wanted and found.blames_account else None
        reason = found.reason or "no answer"
        return _later(wanted, reason, status, retry_after=found.retry_after, counts=found.blames_account)
    document = found.document
    check = None
    if document is not None and document.handle is not None:
        if imported is not None and imported.handle == document.handle:
            check = imported
        else:
            check = questions.check(wanted.did, document.handle)
        if not check.is_final and check.blames_account and wanted.attempts < backoff.RESOLUTION_QUICK_TRIES:
            return _later(wanted, check.reason or "no answer about its handle", retry_after=check.retry_after)
    status = None
    if wanted.status_wanted or found.state == "tombstoned":  # a DID that was given up is an account that was deleted
        status = questions.status(wanted.did, None if document is None else document.pds, found.state)
    return Attempt(wanted, _settled(wanted, found, check, status), status)


def _unless_forgotten(wanted: Wanted, found: Resolution) -> Resolution:
    """The answer; none where the PLC directory does not know a DID any more for which it had a document, or answers
    with something else.

    The directory forgets no DID: one that is given up has a tombstone, and all others a document. So another server
    answers in its place, and it must not take all accounts their handles.
    """
    was_found = wanted.known.state == "found" and wanted.known.source in ("plc", "import")
    if not was_found or found.source != "plc" or found.state not in ("not found", "invalid"):
        return found
    reason = f"{found.reason}; the PLC directory had a document of it before: is APPVIEW_PLC_URL right?"
    return replace(found, state=None, reason=reason)


def _check_imported(wanted: Wanted, questions: Questions) -> HandleCheck | None:
    """Checks the handle of a document that a PLC export gave, the first time that the account is resolved; None where
    there is no such document, or somebody asked for a newer one.

    If the handle leads back to the DID, the directory need not be asked: nobody could load the whole network from it.
    A document that is outdated all the same is found by the next refresh, which asks the directory.
    """
    known = wanted.known
    is_first = known.source == "import" and known.handle_checked_at is None and known.event_at is None
    if not is_first or wanted.queue not in ("new", "refresh") or wanted.status_wanted or known.claimed_handle is None:
        return None
    return questions.check(wanted.did, known.claimed_handle)


def _settled_by_import(wanted: Wanted, check: HandleCheck) -> Settled:
    known = wanted.known
    return Settled(
        did=wanted.did,
        asked_at=wanted.asked_at,
        state="found",
        source="import",
        next_check_seconds=backoff.identity_refresh(),
        doc=known.doc,
        pds=known.pds,
        signing_key=known.signing_key,
        labeler=known.labeler,
        labeler_key=known.labeler_key,
        claimed_handle=known.claimed_handle,
        handle=check.handle,
        handle_source=check.source,
    )


def _settled(wanted: Wanted, found: Resolution, check: HandleCheck | None, status: PdsStatus | None) -> Settled:
    document = found.document
    verified = check is not None and check.verified
    is_well = document is not None and (check is None or verified)
    next_check = backoff.identity_refresh() if is_well else backoff.handle_recheck()
    status_seconds = None
    # After some tries the relay's word stands (`store/accounts.py`), and nobody is asked but with the next refresh.
    is_refresh = wanted.queue == "refresh"
    gives_up = is_refresh or (
        status is not None and status.blames_account and wanted.attempts >= backoff.HOSTING_STATUS_TRIES
    )
    if status is not None and status.status is None and not (status.is_final or gives_up):
        status_seconds = _wait(wanted.attempts, status.retry_after, counts=status.blames_account)
    return Settled(
        did=wanted.did,
        asked_at=wanted.asked_at,
        state=found.state or "",
        source=found.source,
        next_check_seconds=next_check,
        doc=found.json,
        pds=None if document is None else document.pds,
        signing_key=None if document is None else document.signing_key,
        labeler=None if document is None else document.labeler,
        labeler_key=None if document is None else document.labeler_key,
        claimed_handle=None if document is None else document.handle,
        handle=check.handle if check is not None and verified else None,
        handle_source=check.source if check is not None and verified else None,
        handle_error=None if check is None or verified else check.reason or "not verified",
        is_handle_final=check is None or check.is_final,
        error=found.reason,
        status_seconds=status_seconds,
        status_counts=status is None or status.blames_account,
    )


def _later(
    wanted: Wanted,
    reason: str,
    status: PdsStatus | None = None,
    *,
    retry_after: float | None = None,
    counts: bool = True,
) -> Attempt:
    seconds = _wait(wanted.attempts, retry_after, counts=counts)
    return Attempt(wanted, status=status, postponed=Postponed(wanted.did, reason, seconds, counts))


def _wait(attempts: int, retry_after: float | None, *, counts: bool) -> float:
    """Seconds until the next attempt of an account that had `attempts` failures before this one."""
    if not counts:
        return backoff.resolution_elsewhere(retry_after)
    seconds = backoff.resolution(attempts + 1)
    return seconds if retry_after is None else max(seconds, backoff.resolution_elsewhere(retry_after))
