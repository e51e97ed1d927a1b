"""Opting accounts out of the collection of their data, and in again, as people ask for it: by DID or handle."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from appview_pipeline.errors import OperatorError
from appview_pipeline.ingest.rerun import retry_while_busy
from appview_pipeline.protocol.syntax import is_did, is_handle, without_decoration
from appview_pipeline.store import exclusion
from appview_pipeline.store.database import Connection, Database


@dataclass(frozen=True)
class Switched:
    """What became of a request: the account's DID, whether anything has changed, and all that in a sentence."""

    did: str
    changed: bool
    sentence: str


def switch_collection(database: Database, account: str, *, forbid: bool, purge: bool = False) -> Switched:
    """Forbids or allows the collection of the data of `account`, a DID or a verified handle, and commits.

    With `forbid` nothing new of the account is stored once it returns. `purge`: what is stored is removed, too. Raises
    `OperatorError` where `account` names no account, and where the database stays too busy.
    """
    with database.connect("maintenance") as connection:
        did = _did_of(connection, account)
        if forbid:
            changed = retry_while_busy(connection, partial(exclusion.forbid, connection, did, purge=purge))
            done = "forbids the collection of its data" + (
                ", and what is stored of it will be removed" if purge else ""
            )
        else:
            changed = retry_while_busy(connection, partial(exclusion.allow, connection, did))
            done = "allows the collection of its data, and its repository is queued to be fetched"
    if changed:
        return Switched(did, True, f"{did} {done}.")
    return Switched(did, False, f"{did}: nothing changed, because that is so already.")


def _did_of(connection: Connection, account: str) -> str:
    account = without_decoration(account)
    if is_did(account):
        return account
    if not is_handle(account):
        raise OperatorError(f"{account[:300]!r} is neither a DID nor a handle.")
    holders = exclusion.holders_of_handle(connection, account)
    if len(holders) != 1:
        found = "no account" if not holders else "more than one account"
        raise OperatorError(f"{found} is known to have the handle {account}: give the DID instead.")
    return holders[0]
