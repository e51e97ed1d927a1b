"""DIDs resolved: `did:plc` by the PLC directory, `did:web` by its own host (https://atproto.com/specs/did)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from appview_pipeline.identity.documents import (
    MAX_DOCUMENT_BYTES,
    Document,
    InvalidDocument,
    document_json,
    parse_document,
    read_json,
)
from appview_pipeline.network.fetch_errors import FetchError
from appview_pipeline.network.xrpc import Client
from appview_pipeline.protocol.syntax import MAX_DID, is_did, is_did_plc, is_handle
from appview_pipeline.settings import Settings

PLC = "plc"
WEB = "web"
FOUND = "found"
NOT_FOUND = "not found"
TOMBSTONED = "tombstoned"
INVALID = "invalid"

WHY_TOMBSTONED = "the DID was given up: its last operation is a tombstone"

_match_private_host = re.compile(r"[a-zA-Z0-9](?:[a-zA-Z0-9.-]{0,251}[a-zA-Z0-9])?").fullmatch
_match_port = re.compile(r"[1-9][0-9]{0,4}").fullmatch

# Of a did:web, the account's own host answered, in a way that can't be used; it is not asked again at once.
_FINAL_OF_WEB = frozenset({"too big", "redirect", "encoding", "refused address", "url"})
# All accounts share the PLC directory: most of what goes wrong there says nothing about one of them.
_FINAL_OF_PLC = frozenset({"too big"})


@dataclass(frozen=True, slots=True)
class Resolution:
    """What came of the resolution of a DID.

    `state`: "found", "not found", "tombstoned" or "invalid" (there is an answer that can't be used); None: no answer,
    to be tried again. `source`: "plc" or "web"; None for a DID of another method. `document` and `json` (the text to
    store, always storable as jsonb) where it is found. `reason`: why there is no document, in words; None where it is
    found, whose own problems are in `document.problems`. `retry_after`: seconds to wait, where the server said so.
    `blames_account`: False where the failure says nothing about the account (a parked host, an open breaker): it is no
    failed attempt of the account's.
    """

    did: str
    state: str | None
    source: str | None
    document: Document | None = None
    json: str | None = None
    reason: str | None = None
    retry_after: float | None = None
    blames_account: bool = True


def resolve_did(client: Client, settings: Settings, did: str, *, is_repeated: bool = False) -> Resolution:
    """Fetches the document of a DID: one request, without redirects, of at most `MAX_DOCUMENT_BYTES`.

    Never raises for what the DID is or what its server does. A `did:web` is a host name alone, asked by https. With
    APPVIEW_ALLOW_PRIVATE_HOSTS it may be any host, and `did:web:HOST%3APORT` and `did:web:localhost` are asked by http.
    `is_repeated`: the last attempt at this DID had no answer (see `Client.get`).
    """
    try:
        source, url = _where(settings, did)
    except InvalidDocument as error:
        return Resolution(did, INVALID, None, reason=str(error))
    asked = "the PLC directory" if source == PLC else url.split("/")[2]
    try:
        answer = client.get(
            url,
            max_bytes=MAX_DOCUMENT_BYTES,
            accept="application/did+ld+json, application/json;q=0.9, */*;q=0.1",
            is_repeated=is_repeated,
            is_trusted=source == PLC,
        )
    except FetchError as error:
        is_final = error.kind in (_FINAL_OF_PLC if source == PLC else _FINAL_OF_WEB)
        return Resolution(
            did,
            INVALID if is_final else None,
            source,
            reason=f"{asked} gave no document: {error.reason}",
            retry_after=error.retry_after,
            blames_account=error.blames_account,
        )
    if answer.status == 200:
        return _read(settings, did, source, answer.body)
    if source == PLC and answer.status == 410 and _is_object(answer.body):
        return Resolution(did, TOMBSTONED, source, reason=WHY_TOMBSTONED)
    if answer.status == 404 or (source == WEB and answer.status == 410):
        reason = f"{asked} does not know the DID" if source == PLC else f"{asked} has no DID document"
        return Resolution(did, NOT_FOUND, source, reason=f"{reason} (status {answer.status})")
    return Resolution(did, None, source, reason=f"{asked} gave no document: it answered with status {answer.status}")


def _read(settings: Settings, did: str, source: str, body: bytes) -> Resolution:
    try:
        value = read_json(body)
        document = parse_document(did, value, plain_http=settings.allow_private_hosts)
    except InvalidDocument as error:
        return Resolution(did, INVALID, source, reason=str(error))
    return Resolution(did, FOUND, source, document=document, json=document_json(document, value))


def _is_object(body: bytes) -> bool:
    """Whether it is the directory that says so. Who answers in its place, a proxy say, does it with a web page: it must
    not delete accounts."""
    try:
        return isinstance(read_json(body), dict)
    except InvalidDocument:
        return False


def _where(settings: Settings, did: str) -> tuple[str, str]:
    """The source of a DID's document, and its URL. Raises InvalidDocument where the DID has none."""
    if len(did) > MAX_DID:
        raise InvalidDocument(f"the DID has more than {MAX_DID:,} characters")
    if not is_did(did):
        raise InvalidDocument("it is not a DID")
    method, _, name = did[4:].partition(":")
    if method == PLC:
        if not is_did_plc(did):
            raise InvalidDocument("a did:plc has 24 characters of a to z and 2 to 7 after its prefix")
        return PLC, f"{settings.plc_url}/{did}"
    if method == WEB:
        return WEB, f"{_origin(name, settings.allow_private_hosts)}/.well-known/did.json"
    raise InvalidDocument(f"DIDs of the method {method[:20]} are not part of the AT Protocol, only did:plc and did:web")


def _origin(name: str, allow_private: bool) -> str:
    """The origin of the host that a did:web names. Raises InvalidDocument."""
    if ":" in name:
        raise InvalidDocument("a did:web of the AT Protocol names a host alone, without a path")
    host, separator, port = name.replace("%3a", "%3A").partition("%3A")
    if not allow_private:
        if separator:
            raise InvalidDocument("a did:web of the AT Protocol names a host alone, without a port")
        if not is_handle(host):
            raise InvalidDocument("the did:web names no host of the public network")
        return f"https://{host.lower()}"
    if _match_private_host(host) is None or (separator and not (_match_port(port) and int(port) < 65_536)):
        raise InvalidDocument("the did:web names no valid host")
    if separator:
        return f"http://{host.lower()}:{port}"
    return f"{'http' if host.lower() == 'localhost' else 'https'}://{host.lower()}"
