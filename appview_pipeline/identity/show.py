"""`appview-pipeline identity show`: what is known of an account, from where, how old, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from datetime import datetime, timezone
from typing import Any
from urllib.parse import urlsplit

import orjson

from appview_pipeline.errors import OperatorError
from appview_pipeline.identity.attempt import attempt
from appview_pipeline.identity.documents import InvalidDocument, parse_document, read_json
from appview_pipeline.identity.on_demand import resolve_now
from appview_pipeline.identity.questions import questions
from appview_pipeline.protocol.syntax import is_did, is_did_plc, is_handle, normalize_handle, without_decoration
from appview_pipeline.settings import Settings
from appview_pipeline.store import identities
from appview_pipeline.store.database import Connection, Database
from appview_pipeline.store.identities import StoredIdentity
from appview_pipeline.store.identity_details import (
    AccountDetails,
    TroubledUpstream,
    account_details,
    troubled_upstreams,
)

_SOURCES = {"plc": "the PLC directory", "web": "the DID's own host", "import": "a PLC export"}
_VERIFIED_BY = {"dns": "DNS", "https": "HTTPS"}
_WANTED_BY = {
    "new": "met for the first time",
    "event": "an event or a person asked",
    "retry": "tried again",
    "refresh": "to be refreshed",
}


@dataclass(frozen=True)
class ShownIdentity:
    """An account as `identity show` shows it at `now`. `identity`: None where only other tables know the account.
    `problems`: what is wrong with its document."""

    did: str
    identity: StoredIdentity | None
    account: AccountDetails
    upstreams: list[TroubledUpstream]
    now: datetime
    problems: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The row of `pipeline.identity`, by column."""
        row = self.identity or StoredIdentity(self.did)
        values = {field.name: getattr(row, field.name) for field in fields(StoredIdentity)}
        values["doc"] = None if row.doc is None else orjson.Fragment(row.doc)
        return values

    def lines(self) -> list[str]:
        """All of it, for people."""
        row = self.identity or StoredIdentity(self.did)
        found = [
            ("DID", self.did),
            ("Handle", self._handle(row)),
            ("Document", self._document(row)),
            *(("Problem", problem) for problem in self.problems),
            ("PDS", row.pds and self._pds(row)),
            ("Signing key", row.signing_key),
            ("Labels", row.labeler and f"{row.labeler}, signed by {row.labeler_key or 'no key that can be used'}"),
            ("Hosting", self._hosting()),
            ("Readers see", self._readers()),
            ("Collection", self._collection()),
            ("Removal", self._removal()),
            ("Resolution", self._resolution(row)),
            *(("Server", self._upstream(upstream)) for upstream in self.upstreams),
        ]
        return [f"{name:<12}  {text}" for name, text in found if text]

    def _handle(self, row: StoredIdentity) -> str:
        ago = "" if row.handle_checked_at is None else f" {self._ago(row.handle_checked_at)}"
        if row.handle is not None:
            by = _VERIFIED_BY.get(row.handle_source or "", "an earlier release")
            failing = f"; it could not be checked since: {row.handle_error}" if row.handle_error else ""
            return f"{row.handle}, verified by {by}{ago}{failing}"
        if row.claimed_handle is None:
            return "none: the document names none" if row.state == "found" else "none: there is no document"
        if row.handle_error is None:
            return f"{row.claimed_handle}, not checked yet"
        checked = f" (checked{ago})" if ago else ""
        return f"{row.claimed_handle}, not verified{checked}: {row.handle_error}"

    def _document(self, row: StoredIdentity) -> str:
        if row.state is None or row.resolved_at is None:
            return "none yet"
        ago = self._ago(row.resolved_at)
        error = f": {row.error}" if row.error and not row.attempts else ""
        if row.state == "found":
            return f"from {_SOURCES.get(row.source or '', 'an unknown source')}, {ago}{error}"
        return f"{row.state}, {ago}{error}"

    def _pds(self, row: StoredIdentity) -> str:
        moved = "" if row.pds_changed_at is None else f" (moved there {self._ago(row.pds_changed_at)})"
        return f"{row.pds}{moved}"

    def _hosting(self) -> str:
        it = self.account
        if it.active is None:
            return "nothing of it has been received"
        said = "active" if it.active else f"not active ({it.status or 'no reason given'})"
        if it.account_at is not None:
            said += f", says the relay, {self._ago(it.account_at)}"
        elif it.active:
            said = "active, as no event has said otherwise"
        if it.pds_status is not None and it.pds_asked_at is not None:
            said += f"; its PDS says: {it.pds_status}, {self._ago(it.pds_asked_at)}"
        return said + ("; shown until its PDS confirms that" if it.status_doubtful else "")

    def _readers(self) -> str:
        it = self.account
        if not it.is_indexed:
            return "nothing: it is not indexed"
        hidden = [f"hidden: {it.upstream_status}"] if it.upstream_status else []
        taken = [f"taken down here ({it.takedown_ref})"] if it.takedown_ref else []
        return ", ".join([it.shown_handle or "handle.invalid", *hidden, *taken])

    def _collection(self) -> str | None:
        return "forbidden: nothing new of it is stored (docs/privacy.md)" if self.account.collection_forbidden else None

    def _removal(self) -> str | None:
        it = self.account
        if it.removal is None or it.removal_requested_at is None:
            return None
        why = "the account was deleted" if it.removal == "deleted" else "a purge was asked for"
        done = "not finished yet" if it.removal_finished_at is None else f"finished {self._ago(it.removal_finished_at)}"
        return f"{why} {self._ago(it.removal_requested_at)}; {done}"

    def _resolution(self, row: StoredIdentity) -> str | None:
        failures = f", after {_counted(row.attempts, 'failed attempt')}" if row.attempts else ""
        reason = f": {row.error}" if row.error and (row.attempts or self.upstreams) else ""
        if row.queue is None or row.wanted_at is None:
            if row.next_check_at is None:
                return "not queued" if self.identity else "never asked for"
            if row.next_check_at <= self.now:
                return "a refresh is due"
            return f"next refresh in {_span((row.next_check_at - self.now).total_seconds())}"
        ahead = (row.wanted_at - self.now).total_seconds()
        if ahead <= 0:
            when = f"has waited for {_span(-ahead)}"
        elif row.queue == "retry" or self.upstreams:
            when = f"in {_span(ahead)}"
        else:
            when = "under way"
        return f"queued ({_WANTED_BY[row.queue]}): {when}{failures}{reason}"

    def _upstream(self, it: TroubledUpstream) -> str:
        until = [
            f"{what} for {_span((at - self.now).total_seconds())}"
            for what, at in (("not asked", it.open_until), ("left alone at its own wish", it.parked_until))
            if at is not None and at > self.now
        ]
        state = ", ".join(until) or "asked with one request at a time, to see whether it is back"
        return f"{it.host} is {state}" + (f": {it.reason}" if it.reason else "")

    def _ago(self, then: datetime) -> str:
        seconds = (self.now - then).total_seconds()
        return f"{_span(seconds)} ago" if seconds >= 0 else f"in {_span(-seconds)}"


def _span(seconds: float) -> str:
    """A length of time in its largest unit: 45 s, 12 min, 7 h, 3 days."""
    for unit, size, limit in (("s", 1, 120), ("min", 60, 7_200), ("h", 3_600, 172_800)):
        if seconds < limit:
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds // 86_400)} days"


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def find_account(connection: Connection, name: str) -> str | None:
    """The DID that `name`, a DID or a handle, stands for; None for a handle that no document names.

    A handle stands for the account that it is verified for, else for the only one whose document names it. Raises
    `OperatorError` where `name` is neither, and where several accounts claim a handle that is not verified.
    """
    name = without_decoration(name)
    if name.startswith("did:"):
        if not is_did(name) or (name.startswith("did:plc:") and not is_did_plc(name)):
            raise OperatorError(f"{name[:300]!r} is not a DID: correct it.")
        return name
    if not is_handle(name):
        raise OperatorError(f"{name[:300]!r} is neither a DID nor a handle.")
    found = identities.with_handle(connection, normalize_handle(name))
    if found and (found[0].handle is not None or len(found) == 1):
        return found[0].did
    if found:
        claiming = ", ".join(it.did for it in found)
        raise OperatorError(f"{name} is verified for no account, and several claim it ({claiming}): give a DID.")
    return None


def dids_of(database: Database, settings: Settings, names: Iterable[str]) -> list[str]:
    """The DIDs that `names`, DIDs or handles, stand for, each once; handles that no stored document names are resolved
    now. Raises `OperatorError`."""
    found = []
    for name in names:
        with database.connect("reader") as connection:
            did = find_account(connection, name)
        found.append(did if did is not None else refresh_account(database, settings, name)[0])
    return list(dict.fromkeys(found))


def known_did(database: Database, name: str) -> str:
    """The DID that `name`, a DID or a handle, stands for, without asking the network. Raises `OperatorError`."""
    with database.connect("reader") as connection:
        did = find_account(connection, name)
    if did is None:
        raise OperatorError(f"no account is known to have the handle {without_decoration(name)}: give its DID.")
    return did


def show_account(database: Database, settings: Settings, name: str) -> ShownIdentity:
    """Reads what is known of an account, a DID or a handle. Raises `OperatorError` where nothing is."""
    with database.connect("reader") as connection:
        did = find_account(connection, name)
        if did is None:
            handle = without_decoration(name)
            raise OperatorError(f"no account is known to have the handle {handle}: with `--refresh` it is looked up.")
        row = identities.read(connection, [did]).get(did)
        account = account_details(connection, did)
        upstreams = troubled_upstreams(connection, _hosts(settings, did, row))
    is_known = account.is_indexed or account.active is not None or account.collection_forbidden or account.removal
    if row is None and not is_known:
        raise OperatorError(f"nothing is known of {did}: with `--refresh` it is resolved.")
    problems = () if row is None or row.doc is None else problems_of(settings, did, row.doc)
    return ShownIdentity(
        did=did,
        identity=row,
        account=account,
        upstreams=upstreams,
        now=datetime.now(timezone.utc),
        problems=problems,
    )


def problems_of(settings: Settings, did: str, doc: str) -> tuple[str, ...]:
    """What is wrong with a stored document, as of today's rules."""
    try:
        return parse_document(did, read_json(doc.encode()), plain_http=settings.allow_private_hosts).problems
    except InvalidDocument as error:
        return (str(error),)


def refresh_account(database: Database, settings: Settings, name: str) -> tuple[str, str | None]:
    """Resolves an account, a DID or a handle, and stores what is found. Returns its DID, and a sentence where there was
    no answer. Raises `OperatorError` where `name` is neither, or a handle that names nobody."""
    with database.connect("reader") as connection:
        did = find_account(connection, name)
    with questions(settings) as (asked, _):
        if did is None:
            check = asked.check("", normalize_handle(without_decoration(name)))
            if check.did is None:
                raise OperatorError(f"{check.handle} names no account: {check.reason}.")
            did = check.did
        found = resolve_now(database, settings, did, lambda wanted: attempt(wanted, asked))
    if found is None:
        return did, f"{did} was not resolved, for nothing new of it may be stored."
    if found.postponed is not None:
        return did, f"{did} gave no answer: {found.postponed.error}."
    return did, None


def _hosts(settings: Settings, did: str, row: StoredIdentity | None) -> list[str]:
    """The servers that answer for an account, as `pipeline.upstream` names them."""
    found = [urlsplit(settings.plc_url).netloc] if did.startswith("did:plc:") else []
    if did.startswith("did:web:"):
        found.append(did.split(":")[2].replace("%3A", ":"))
    if row is not None:
        found += [row.claimed_handle or "", urlsplit(row.pds or "").netloc]
    return [host for host in found if host]
