"""Pages of `com.atproto.sync.listHosts` and `listRepos`, as untrusted servers send them.

https://docs.bsky.app/docs/api/com-atproto-sync-list-repos and com-atproto-sync-list-hosts
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from appview_pipeline.network.fetch_errors import XrpcError
from appview_pipeline.network.xrpc import Client
from appview_pipeline.protocol.syntax import is_did, is_tid
from appview_pipeline.settings import Settings
from appview_pipeline.store.listing import ListedHost

LIST_HOSTS = "com.atproto.sync.listHosts"
LIST_REPOS = "com.atproto.sync.listRepos"
PAGE = 1_000
"""Entries that are asked for: the most that the lexicon allows."""
MAX_PAGE_BYTES = 5_000_000
MAX_ENTRIES = 10_000
"""Entries of a page that are read, whatever was asked for."""
MAX_CURSOR = 2_000
"""Characters of a cursor."""
MAX_DID = 256
"""Characters of a DID that is queued from a list: the longest there are have 60; the list is not trusted."""

_HOSTNAME = re.compile(r"(?=.{1,253}(?::|$))[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?(?::[0-9]{1,5})?")


class BadPage(Exception):
    """An answer that is no page of a list: why, as a part of a sentence."""


class NoSuchMethod(Exception):
    """The server does not have the method."""


@dataclass(frozen=True)
class HostPage:
    """A page of hosts; `cursor` leads to the next one, None: there is none. `entries`: as many as it had."""

    hosts: list[ListedHost]
    cursor: str | None
    entries: int


@dataclass(frozen=True)
class RepositoryPage:
    """A page of repositories of active accounts: their revs by DID, each once. `entries`: as many as it had.

    `accounts`: what the page says of accounts, also of those that are not active: whether each is, and if not, why
    (None: it does not say why).
    """

    revs: dict[str, str]
    cursor: str | None
    entries: int
    accounts: dict[str, tuple[bool, str | None]] = field(default_factory=dict)


def relay_origin(settings: Settings) -> str:
    """Where the relay answers XRPC queries."""
    return re.sub("^ws", "http", settings.relay_url)


def origin_of(hostname: str, settings: Settings) -> str | None:
    """The origin of a host that a relay lists; None where that is no name of a host.

    One with a port is without TLS, as it is in closed networks (`APPVIEW_ALLOW_PRIVATE_HOSTS`); otherwise it is none.
    """
    name = hostname.lower().removesuffix(".")
    if _HOSTNAME.fullmatch(name) is None or ".." in name:
        return None
    if ":" in name:
        return f"http://{name}" if settings.allow_private_hosts else None
    return f"https://{name}"


def host_page(client: Client, settings: Settings, cursor: str | None) -> HostPage:
    """A page of the relay's hosts. Raises `NoSuchMethod`, `BadPage`, and `FetchError`."""
    body = _page(client, relay_origin(settings), LIST_HOSTS, cursor, is_trusted=True)
    entries = _entries(body, "hosts")
    hosts = []
    for entry in entries:
        name, status, accounts = entry.get("hostname"), entry.get("status"), entry.get("accountCount")
        origin = origin_of(name, settings) if isinstance(name, str) and len(name) <= 300 else None
        if origin is not None:
            hosts.append(
                ListedHost(
                    origin,
                    status if isinstance(status, str) and re.fullmatch("[a-z]{1,20}", status) else "unknown",
                    accounts if type(accounts) is int and 0 <= accounts < 10**12 else None,
                )
            )
    return HostPage(hosts, _cursor(body), len(entries))


def repository_page(client: Client, origin: str, cursor: str | None, *, is_trusted: bool = False) -> RepositoryPage:
    """A page of a server's repositories. Raises `NoSuchMethod`, `BadPage`, and `FetchError`.

    `is_trusted`: it is the relay.
    """
    body = _page(client, origin, LIST_REPOS, cursor, is_trusted=is_trusted)
    entries = _entries(body, "repos")
    revs: dict[str, str] = {}
    accounts: dict[str, tuple[bool, str | None]] = {}
    for entry in entries:
        did, rev, active, status = (entry.get(name) for name in ("did", "rev", "active", "status"))
        if not isinstance(did, str) or len(did) > MAX_DID or not is_did(did):
            continue
        if isinstance(active, bool):
            is_reason = not active and isinstance(status, str) and re.fullmatch("[a-z]{1,20}", status) is not None
            accounts[did] = active, status if is_reason else None
        if active is not False and isinstance(rev, str) and is_tid(rev):
            revs[did] = max(rev, revs.get(did, ""))
    return RepositoryPage(revs, _cursor(body), len(entries), accounts)


def _page(client: Client, origin: str, method: str, cursor: str | None, *, is_trusted: bool) -> Mapping[str, Any]:
    parameters = {"limit": str(PAGE)} | ({} if cursor is None else {"cursor": cursor})
    try:
        body = client.query(origin, method, parameters, max_bytes=MAX_PAGE_BYTES, is_trusted=is_trusted)
    except XrpcError as error:
        if error.status in (404, 501) or error.name == "MethodNotImplemented":
            raise NoSuchMethod(error.reason) from error
        raise
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise BadPage(f"{origin} answered {method} with something that is not JSON") from None
    if not isinstance(value, dict):
        raise BadPage(f"{origin} answered {method} with JSON that is no object")
    return value


def _entries(body: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    entries = body.get(name)
    if not isinstance(entries, list):
        raise BadPage(f"the list has no {name}")
    return [entry for entry in entries[:MAX_ENTRIES] if isinstance(entry, dict)]


def _cursor(body: Mapping[str, Any]) -> str | None:
    """The next page's cursor. Raises `BadPage` for one that can't be kept."""
    cursor = body.get("cursor")
    if cursor is None or cursor == "":
        return None
    if not isinstance(cursor, str) or len(cursor) > MAX_CURSOR or not cursor.isprintable():
        raise BadPage("the list has a cursor that is none")
    return cursor
