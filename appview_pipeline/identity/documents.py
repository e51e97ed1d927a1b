"""DID documents: what this pipeline reads in them, and the form in which they are stored.

The rules are those of https://atproto.com/specs/did. A document is read liberally: an entry that can't be used is
skipped, with its problem in words, and the next one of its kind counts. What is given is strict: each field of a
`Document` is valid by its own syntax, or None.

Three differences from the reference: the first *valid* handle, key and service counts, as the specification says, where
the reference takes the first one, valid or not; a key that another DID controls is skipped; a document with an entry of
a wrong type is still read.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

import orjson

from appview_pipeline.protocol.signing import InvalidKey, parse_verification_method
from appview_pipeline.protocol.syntax import is_handle, normalize_handle

MAX_DOCUMENT_BYTES = 256_000
"""Limit of the bytes of a document that is fetched. Real ones have about 1,000; an operation of the PLC directory has
at most 7,500."""
MAX_STORED_BYTES = 10_000
"""A larger document is stored reduced to what was read of it (`document_json`)."""
MAX_ENTRIES = 1_000
"""Limit of the entries of one list that are looked at."""
MAX_PROBLEMS = 10
"""Limit of the problems that are kept of one document."""
MAX_SHOWN = 100
"""Limit of the characters that a problem shows of somebody's text."""
MAX_ENDPOINT = 2_000
"""Limit of the characters of a service's address that is looked at."""
MAX_HOST = 253
"""Limit of the characters of its host, as of every name in DNS."""

PDS = ("atproto_pds", "AtprotoPersonalDataServer")
LABELER = ("atproto_labeler", "AtprotoLabeler")
"""Id and type of the two services that are read."""
SIGNING_KEY = "atproto"
LABELER_KEY = "atproto_label"
"""Ids of the two keys that are read."""


class InvalidDocument(ValueError):
    """Bytes or a value that is no DID document of the DID; the message is the reason in words."""


@dataclass(frozen=True, slots=True)
class Document:
    """What is read of a DID document.

    `handle`: the one that the document claims, in lower case; whether it leads back to the DID is not known here.
    `pds`, `labeler`: origins (`https://host` or `https://host:port`). `signing_key`, `labeler_key`: `did:key:...`.
    `problems`: what was skipped or is missing, in words.
    """

    did: str
    handle: str | None = None
    pds: str | None = None
    signing_key: str | None = None
    labeler: str | None = None
    labeler_key: str | None = None
    problems: tuple[str, ...] = ()


def parse_document(did: str, value: object, *, plain_http: bool = False) -> Document:
    """What a document (JSON as Python values) says of `did`.

    `plain_http`: services without TLS count too (`APPVIEW_ALLOW_PRIVATE_HOSTS`). Raises InvalidDocument where the value
    is no object, or is the document of another DID; nothing else, whatever the value holds.
    """
    if not isinstance(value, dict):
        raise InvalidDocument(f"the document is {_kind(value)}, not a JSON object")
    if value.get("id") != did:
        named = value.get("id")
        raise InvalidDocument(
            f"the document is of another DID, {_shown(named)}"
            if isinstance(named, str)
            else "the document does not name its DID (`id`)"
        )
    problems = _Problems()
    handle = _handle(value, problems)
    methods = _entries(value, "verificationMethod", problems)
    services = _entries(value, "service", problems)
    signing_key = _key(did, methods, SIGNING_KEY, problems)
    labeler_key = _key(did, methods, LABELER_KEY, problems)
    pds = _service(did, services, PDS, plain_http=plain_http, problems=problems)
    labeler = _service(did, services, LABELER, plain_http=plain_http, problems=problems)
    if handle is None:
        problems.add("the document names no handle that can be used")
    if signing_key is None:
        problems.add("the document has no signing key that can be used (#atproto)")
    if pds is None:
        problems.add("the document names no PDS that can be used (#atproto_pds)")
    if labeler is not None and labeler_key is None:
        problems.add("the document names a label service, but no key for its labels (#atproto_label)")
    return Document(
        did=did,
        handle=handle,
        pds=pds,
        signing_key=signing_key,
        labeler=labeler,
        labeler_key=labeler_key,
        problems=tuple(problems.found),
    )


def read_json(body: bytes) -> object:
    """The JSON value of a fetched body; a byte order mark before it is skipped. Raises InvalidDocument.

    The value is at most 1,024 levels deep, which is the parser's own limit. Of two equal keys the later one counts, as
    for the reference and for PostgreSQL.
    """
    body = body.removeprefix(b"\xef\xbb\xbf")
    try:
        value: object = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        if not body.strip():
            raise InvalidDocument("the answer is empty") from None
        if body.lstrip()[:1] == b"<":
            raise InvalidDocument("the answer is a web page, not JSON") from None
        raise InvalidDocument(f"the answer is not JSON: {error}") from None
    return value


def document_json(document: Document, value: object) -> str:
    """The JSON text under which a document is stored: `value` as it came, if PostgreSQL can store it as jsonb.

    A document is reduced to what was read of it, as a document that says the same, where it has more than
    `MAX_STORED_BYTES`, holds U+0000 or text that is not Unicode, or is nested more than 250 levels deep.
    """
    try:
        stored = orjson.dumps(value)
    except TypeError:
        return _reduced(document)
    if len(stored) > MAX_STORED_BYTES or b"\\u0000" in stored:
        return _reduced(document)
    return stored.decode()


def _reduced(document: Document) -> str:
    did = document.did
    keys = ((SIGNING_KEY, document.signing_key), (LABELER_KEY, document.labeler_key))
    services = ((PDS, document.pds), (LABELER, document.labeler))
    reduced = {
        "id": did,
        "alsoKnownAs": [] if document.handle is None else [f"at://{document.handle}"],
        "verificationMethod": [
            {"id": f"{did}#{name}", "type": "Multikey", "controller": did, "publicKeyMultibase": key[8:]}
            for name, key in keys
            if key is not None
        ],
        "service": [
            {"id": f"#{name}", "type": kind, "serviceEndpoint": endpoint}
            for (name, kind), endpoint in services
            if endpoint is not None
        ],
    }
    return orjson.dumps(reduced).decode()


class _Problems:
    """The problems of one document, up to the limit. They show somebody's text by `_shown` alone."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def add(self, problem: str) -> None:
        if len(self.found) < MAX_PROBLEMS and problem not in self.found:
            self.found.append(problem)


def _entries(document: dict[Any, Any], name: str, problems: _Problems) -> list[Any]:
    """A list of the document; empty where it is missing."""
    value = document.get(name)
    if value is None:
        return []
    if not isinstance(value, list):
        problems.add(f"`{name}` is {_kind(value)}, not a list")
        return []
    if len(value) > MAX_ENTRIES:
        problems.add(f"`{name}` has {len(value):,} entries, of which the first {MAX_ENTRIES:,} are looked at")
        return value[:MAX_ENTRIES]
    return value


# --- handles ---------------------------------------------------------------------------------------------------------


def _handle(document: dict[Any, Any], problems: _Problems) -> str | None:
    """The first valid handle among the names of the account."""
    for name in _entries(document, "alsoKnownAs", problems):
        if not isinstance(name, str):
            problems.add(f"`alsoKnownAs` has an entry that is {_kind(name)}, not text")
        elif name.startswith("at://"):
            written = name[5:]
            without_dot = written.removesuffix(".")
            # Before letters are made small: some that are not ASCII become ASCII by that.
            if is_handle(without_dot):
                handle = normalize_handle(without_dot)
                if handle != written:
                    problems.add(f"the handle is written {_shown(written)}, and read as {handle}")
                return handle
            problems.add(f"{_shown(written)} is no valid handle{_reason(without_dot)}")
    return None


def _reason(handle: str) -> str:
    """Why a handle is not valid, where one of the usual reasons is it."""
    if handle.startswith("did:"):
        return ": it is a DID"
    if not handle.isascii():
        return ": letters beyond ASCII have to be written as punycode (xn--...)"
    if "/" in handle or "?" in handle or "#" in handle:
        return ": nothing may follow the name of the host"
    if "." not in handle:
        return ": it has no domain"
    return ""


# --- keys ------------------------------------------------------------------------------------------------------------


def _key(did: str, methods: list[Any], name: str, problems: _Problems) -> str | None:
    """The first valid key of that name, as a did:key."""
    for method in methods:
        if not isinstance(method, dict):
            problems.add(f"`verificationMethod` has an entry that is {_kind(method)}, not an object")
        elif _is_named(did, method, name):
            controller, kind, key = (method.get(part) for part in ("controller", "type", "publicKeyMultibase"))
            if controller is not None and controller != did:
                problems.add(f"the key #{name} is controlled by {_shown(controller)}, not by the account itself")
            elif not isinstance(kind, str) or not isinstance(key, str):
                problems.add(f"the key #{name} has no `type` or no `publicKeyMultibase`")
            else:
                try:
                    return _did_key(kind, key)
                except InvalidKey as error:
                    problems.add(f"the key #{name} can't be used: {error}")
    return None


@lru_cache(maxsize=1_000)
def _did_key(kind: str, key: str) -> str:
    return parse_verification_method(kind, key).did_key()


def _is_named(did: str, entry: dict[Any, Any], name: str) -> bool:
    """Whether an entry has that id, in the short form or in the long one."""
    found = entry.get("id")
    return isinstance(found, str) and found.endswith(name) and found in (f"#{name}", f"{did}#{name}")


# --- services --------------------------------------------------------------------------------------------------------


def _service(
    did: str, services: list[Any], wanted: tuple[str, str], *, plain_http: bool, problems: _Problems
) -> str | None:
    """The origin of the first valid service of that id and type."""
    name, kind = wanted
    origin: str | None = None
    for service in services:
        if not isinstance(service, dict):
            problems.add(f"`service` has an entry that is {_kind(service)}, not an object")
        elif _is_named(did, service, name):
            if origin is not None:
                problems.add(f"the document has more than one service #{name}: the first one that is valid counts")
                break
            if service.get("type") != kind:
                problems.add(f"the service #{name} is of the type {_shown(service.get('type'))}, not {kind}")
                continue
            try:
                origin, problem = _origin(service.get("serviceEndpoint"), plain_http)
            except ValueError as error:
                problems.add(f"the address of #{name} can't be used: {error}")
            else:
                if problem is not None:
                    problems.add(f"the address of #{name} {problem}")
    return origin


def _origin(endpoint: object, plain_http: bool) -> tuple[str, str | None]:
    """The origin of a service's address, and what is wrong with the rest of it. Raises ValueError with the reason."""
    if not isinstance(endpoint, str):
        raise ValueError(f"it is {_kind(endpoint)}, not text")
    if endpoint.startswith("https://") and is_handle(endpoint[8:]) and endpoint.islower():
        return endpoint, None  # a host alone, as nearly all are
    return _odd_origin(endpoint, plain_http)


def _odd_origin(endpoint: str, plain_http: bool) -> tuple[str, str | None]:
    """`_origin` of an address that is not just a scheme and a host in small letters."""
    if len(endpoint) > MAX_ENDPOINT:
        raise ValueError(f"it has {len(endpoint):,} characters")
    if re.search(r"[\s\x00-\x20\x7f\\]", endpoint) or not re.match(r"(?i)https?://", endpoint):
        raise ValueError(f"{_shown(endpoint)} is not an https URL")
    try:
        parts = urlsplit(endpoint)
        host, port = _host(parts.hostname or ""), parts.port
    except ValueError:
        raise ValueError(f"{_shown(endpoint)} names no valid host") from None
    if port == 0:
        raise ValueError(f"{_shown(endpoint)} names no valid port")
    if parts.scheme == "http" and not plain_http:
        raise ValueError(f"{_shown(endpoint)} is without TLS (http)")
    if parts.username is not None or parts.password is not None:
        raise ValueError("it has a user or a password in it")
    origin = f"{parts.scheme}://{host}"
    if port is not None and port != {"http": 80, "https": 443}[parts.scheme]:
        origin = f"{origin}:{port}"
    has_more = parts.path not in ("", "/") or parts.query or parts.fragment
    return origin, f"is {_shown(endpoint)}, of which only {origin} counts" if has_more else None


def _host(host: str) -> str:
    """A host in its one spelling. Raises ValueError where it is none."""
    if ":" in host:
        if "%" in host:
            raise ValueError  # a zone: it means something on one machine only
        return f"[{ipaddress.IPv6Address(host).compressed}]"
    if len(host) > MAX_HOST:  # before IDNA, whose work grows faster than its text
        raise ValueError
    name = host if host.isascii() else host.encode("idna").decode("ascii")
    name = name.lower().removesuffix(".")
    labels = name.split(".")
    if len(name) > MAX_HOST or not all(
        re.fullmatch(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?", label) for label in labels
    ):
        raise ValueError
    if re.fullmatch(r"\d+|0x[0-9a-f]*", labels[-1]):
        return ipaddress.IPv4Address(name).compressed  # no name: an address, of which only the usual notation counts
    return name


# --- words -----------------------------------------------------------------------------------------------------------


def _kind(value: object) -> str:
    """The JSON type of a value, in words."""
    if value is None:
        return "null"
    kinds = ((bool, "true or false"), (str, "text"), ((int, float), "a number"), (list, "a list"), (dict, "an object"))
    return next((word for kind, word in kinds if isinstance(value, kind)), "nothing that JSON has")


def _shown(value: object) -> str:
    """Somebody's text for a sentence: quoted, on one line, without what PostgreSQL can't store, and not too long."""
    if not isinstance(value, str):
        return _kind(value)
    return ascii(value) if len(value) <= MAX_SHOWN else f"{value[:MAX_SHOWN]!a}..."
