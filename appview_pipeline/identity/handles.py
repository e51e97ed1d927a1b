"""Handles, checked against the DID that claims them (https://atproto.com/specs/handle).

A handle names a DID in DNS (a TXT record `did=...` of `_atproto.{handle}`) or, where DNS names none, by HTTPS
(`https://{handle}/.well-known/atproto-did`). It is verified when that DID is the one whose document claims the handle.

DNS is asked first, and what it names counts: the web is not asked for a second opinion, as the specification prefers
DNS where the two differ. The reference asks both at once and takes DNS's answer too. Two different DIDs in DNS are a
failure, as the specification says; the reference would go on to the web then (docs/differences.md).
"""

from __future__ import annotations

from dataclasses import dataclass

from appview_pipeline.network.dns import DnsError, Resolver
from appview_pipeline.network.fetch_errors import FetchError
from appview_pipeline.network.xrpc import MAX_REDIRECTS, Answer, Client
from appview_pipeline.protocol.syntax import MAX_HANDLE, is_did, is_handle, normalize_handle
from appview_pipeline.settings import Settings

DNS = "dns"
HTTPS = "https"

NO_HANDLE = "handle.invalid"
"""What services show and documents name where an account has no handle."""
MAX_WELL_KNOWN_BYTES = 16_384
"""A DID has at most 2,048 characters. The rest is room for a page that says it is none, which the reason names then."""
_MAX_SHOWN = 60
_RESERVED = frozenset({"alt", "arpa", "example", "internal", "invalid", "local", "localhost", "onion", "test"})
"""Top-level domains that no handle may have; `test` may where private hosts are allowed, as it is for development."""
_FINAL = frozenset({"url", "name", "refused address", "tls", "too big", "redirect", "encoding"})
"""Kinds of `FetchError` that are what the handle's own host is like; the others may be better in a minute."""


@dataclass(frozen=True)
class NamedAccount:
    """The account that a handle names: `did` and `source` (`dns`, `https`), or the `reason` why it names none.

    `is_final`: asking again soon gives the same. When it is False, `retry_after` has the seconds to wait where they are
    known, and `blames_account` is False where the handle's host was not even asked (a parked host, an open breaker).
    """

    did: str | None
    source: str | None
    reason: str | None
    is_final: bool
    retry_after: float | None = None
    blames_account: bool = True


@dataclass(frozen=True)
class HandleCheck:
    """Whether a handle belongs to the DID that claims it.

    `did` is whom the handle names and `source` where (`dns`, `https`); `reason` says in words why it is not verified.
    The others are as in `NamedAccount`.
    """

    handle: str
    verified: bool
    did: str | None
    source: str | None
    reason: str | None
    is_final: bool
    retry_after: float | None = None
    blames_account: bool = True


def check_handle(client: Client, resolver: Resolver, did: str, handle: str) -> HandleCheck:
    """Checks that `handle`, which the document of `did` claims, names `did`. Never raises for what upstream does.

    At most one look-up in DNS and, where that names no account, one request with up to 3 redirects.
    """
    if handle.isascii():  # some letters beyond ASCII have a small form within it
        handle = normalize_handle(handle)
    named = resolve_handle(client, resolver, handle)
    reason = named.reason
    if named.did is not None and named.did != did:
        where = "in DNS" if named.source == DNS else "by HTTPS"
        reason = f"{did} claims the handle, but {where} it names {_shown(named.did)}"
        if named.reason:
            reason = f"{reason} ({named.reason})"
    verified = named.did == did
    return HandleCheck(
        handle=handle,
        verified=verified,
        did=named.did,
        source=named.source,
        reason=None if verified else reason,
        is_final=verified or named.is_final,
        retry_after=named.retry_after,
        blames_account=named.blames_account,
    )


def resolve_handle(client: Client, resolver: Resolver, handle: str) -> NamedAccount:
    """The account that `handle` (in lower case) names. Whether its document claims the handle is not known here.

    A DID that the web names while DNS is in trouble is not final, and has DNS's trouble as its `reason`.
    """
    if problem := handle_problem(handle, resolver.settings):
        return NamedAccount(None, None, problem, is_final=True)
    try:
        records = resolver.txt(f"_atproto.{handle}")
    except DnsError as error:
        reason, is_final = error.reason, error.is_final
    else:
        named = [record.removeprefix("did=") for record in records if record.startswith("did=")]
        dids = list(dict.fromkeys(value for value in named if is_did(value)))
        if len(dids) == 1:
            return NamedAccount(dids[0], DNS, None, is_final=True)
        if dids:
            shown = ", ".join(_shown(did) for did in dids[:3]) + (", ..." if len(dids) > 3 else "")
            reason = f"the TXT records of _atproto.{handle} name {len(dids)} accounts, and only one is allowed: {shown}"
            return NamedAccount(None, None, reason, is_final=True)
        if named:
            reason = f"the TXT record of _atproto.{handle} has {_quoted(named[0])} after `did=`, which is no DID"
        else:
            reason = f"no TXT record of _atproto.{handle} begins with `did=`"
        is_final = True
    return _ask_web(client, resolver.settings, handle, dns_reason=reason, dns_is_final=is_final)


def _ask_web(client: Client, settings: Settings, handle: str, *, dns_reason: str, dns_is_final: bool) -> NamedAccount:
    url = settings.well_known_url.replace("{handle}", handle)
    try:
        answer = client.get(
            url, max_bytes=MAX_WELL_KNOWN_BYTES, redirects=MAX_REDIRECTS, accept="text/plain, */*;q=0.1"
        )
    except FetchError as error:
        return NamedAccount(
            None,
            None,
            f"{dns_reason}; {url}: {error.reason}",
            is_final=dns_is_final and error.kind in _FINAL,
            retry_after=error.retry_after,
            blames_account=error.blames_account,
        )
    did, problem = _read(answer)
    if did is None:
        return NamedAccount(None, None, f"{dns_reason}; {url} {problem}", is_final=dns_is_final)
    return NamedAccount(did, HTTPS, None if dns_is_final else dns_reason, is_final=dns_is_final)


def _read(answer: Answer) -> tuple[str | None, str]:
    """The DID in the first line of an answer, or what is wrong with it.

    The status must be one of success, as the specification says; the reference does not look at it. As there, the
    content type does not count, space around the DID and a UTF-8 byte order mark are dropped, and what follows the
    first line does not matter.
    """
    if not 200 <= answer.status < 300:
        return None, f"answers with status {answer.status}"
    if answer.body.startswith((b"\xff\xfe", b"\xfe\xff")):
        return None, "answers in UTF-16, not in UTF-8"
    text = answer.body.decode("utf-8", "replace").removeprefix("\ufeff")
    line = text.partition("\n")[0].strip()
    if is_did(line):
        return line, ""
    if text.lstrip()[:1] == "<":
        return None, "answers with a web page, not with a DID"
    if not line:
        return None, "answers with an empty first line, not with a DID"
    return None, f"answers with {_quoted(line)}, which is no DID"


def handle_problem(handle: str, settings: Settings) -> str | None:
    """Why `handle` can't be one, in words; None where it can. Its case does not matter."""
    if handle.lower() == NO_HANDLE:
        return f"the account has no handle at present ({NO_HANDLE})"
    shown = _quoted(handle)
    if not handle.isascii():
        return f"{shown} has letters beyond ASCII, which a handle writes as punycode (xn--...)"
    if len(handle) > MAX_HANDLE:
        return f"{shown} has more than {MAX_HANDLE} characters"
    if handle.endswith("."):
        return f"{shown} ends with a dot"
    if not is_handle(handle):
        return f"{shown} is no valid host name" if "." in handle else f"{shown} has no domain"
    domain = handle.lower().rpartition(".")[2]
    if domain in _RESERVED and not (domain == "test" and settings.allow_private_hosts):
        return f"{shown} ends in .{domain}, which is not for hosts of the public network"
    return None


def _shown(did: str) -> str:
    return did if len(did) <= _MAX_SHOWN else did[:_MAX_SHOWN] + "..."


def _quoted(text: str) -> str:
    """Text of others in one line of ASCII."""
    quoted = ascii(text[:_MAX_SHOWN])
    return f"{quoted}..." if len(text) > _MAX_SHOWN else quoted
