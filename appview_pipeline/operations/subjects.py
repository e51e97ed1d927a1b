"""What a person may give to `explain`: an AT URI, a DID, a handle, or the address of a page of bsky.app."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from appview_pipeline.errors import OperatorError
from appview_pipeline.identity.show import find_account
from appview_pipeline.indexing.registry import COLLECTIONS
from appview_pipeline.protocol.syntax import parse_at_uri, without_decoration
from appview_pipeline.store.database import Database

WEB_HOSTS = ("bsky.app", "www.bsky.app", "main.bsky.dev", "staging.bsky.app")
PAGES = {"post": "post", "feed": "generator", "lists": "list"}
"""Pages below `/profile/<account>/`, and the collection (its name here) whose record they show."""
WHAT = "Give an AT URI (at://...), a DID, a handle, or the address of a post on bsky.app."


class Subject(NamedTuple):
    """An account, or with `collection` and `rkey` a record of it."""

    did: str
    collection: str | None = None
    rkey: str | None = None

    @property
    def uri(self) -> str:
        """AT URI of the record or account."""
        return f"at://{self.did}" if self.collection is None else f"at://{self.did}/{self.collection}/{self.rkey}"


def find_subject(database: Database, name: str) -> Subject:
    """What `name` stands for. A handle is looked up in the index only, never on the network. Raises `OperatorError`
    in a sentence that says what to give instead."""
    text = name.strip()
    if text.startswith(("https://", "http://")):
        account, collection, rkey = _of_page(text)
    elif text.startswith("at://"):
        found = parse_at_uri(text.rstrip("/"))
        if found is None:
            raise OperatorError(f"{text[:300]!r} is not an AT URI. {WHAT}")
        account, collection, rkey = found
        if collection is not None and rkey is None:
            raise OperatorError(f"{text[:300]!r} names no record: add its record key.")
    else:
        account, collection, rkey = without_decoration(text), None, None
    with database.connect("reader") as connection:
        did = find_account(connection, account)
    if did is None:
        raise OperatorError(f"no account is known to have the handle {account}: give its DID.")
    return Subject(did, collection, rkey)


def _of_page(address: str) -> tuple[str, str | None, str | None]:
    """The account, collection and record key of a page of bsky.app."""
    parts = urlsplit(address)
    path = [unquote(part) for part in parts.path.split("/") if part]
    names = {it.name: nsid for nsid, it in COLLECTIONS.items()}
    match path if parts.netloc in WEB_HOSTS else ():
        case ["profile", account]:
            return account, None, None
        case ["profile", account, page, rkey, *_] if page in PAGES:
            return account, names[PAGES[page]], rkey
        case ["starter-pack", account, rkey]:
            return account, names["starterpack"], rkey
    raise OperatorError(f"{address[:300]!r} is no page of bsky.app that shows an account or a record. {WHAT}")


def post_gate_of(uri: str) -> str:
    """AT URI of the post gate of a post, which has the post's record key."""
    nsid = next(it.nsid for it in COLLECTIONS.values() if it.name == "postgate")
    did, _, rkey = uri.removeprefix("at://").split("/")
    return f"at://{did}/{nsid}/{rkey}"
