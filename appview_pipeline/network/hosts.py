"""Which URLs may be fetched, and the addresses of their hosts, looked up and checked.

One module decides both, for HTTP and for WebSockets: `docs/fetching.md` has the rules and their reasons.
"""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Any
from urllib.parse import quote, urljoin

import idna

from appview_pipeline.errors import OperatorError
from appview_pipeline.network.dns import DnsError, Resolver
from appview_pipeline.network.fetch_errors import FetchError
from appview_pipeline.network.public_addresses import why_not_public
from appview_pipeline.settings import Settings

MAX_URL = 8_192
"""Characters of a URL."""
MAX_HOST = 253
"""Characters of a host name (RFC 1035)."""
MAX_LOOKUPS = 64
"""Look-ups of host names at the same time. The system's resolver can't be interrupted, so each one has a thread."""

_PORTS = {"https": 443, "http": 80}
_URL = re.compile(r"(?:([A-Za-z][A-Za-z0-9+.-]*):)?//([^/?#]*)([^?#]*)(\?[^#]*)?(?:#.*)?", re.DOTALL)
_AUTHORITY = re.compile(r"(\[[^\[\]]*\]|[^\[\]:]*)(?::([0-9]{0,5}))?")
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_UNUSUAL = re.compile(r"[\x00-\x20\x7f\\\ud800-\udfff]")
_PATH_CHARACTERS = "/:@!$&'()*+,;=~-._%?"


@dataclass(frozen=True)
class Target:
    """A URL that may be asked, in parts. `host` is in small letters and ASCII, an IPv6 address without brackets.

    `path` has the query. `is_trusted`: the operator named this server, and it is us who ask it, not a stranger who
    named it too. Its addresses are not checked.
    """

    scheme: str
    host: str
    port: int
    path: str
    is_trusted: bool

    @property
    def name(self) -> str:
        """The host as sentences name it: with its port where that is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def origin(self) -> tuple[str, str, int]:
        """Scheme, host and port."""
        return self.scheme, self.host, self.port

    @property
    def url(self) -> str:
        """The URL in its one spelling."""
        return f"{self.scheme}://{self.name}{self.path}"


class Hosts:
    """Reads URLs, and looks hosts up, by the rules of `settings`. Thread-safe.

    Raises `OperatorError` where a URL of the operator's own can't be asked.
    """

    def __init__(self, settings: Settings, *, lookup: Callable[[str, float], list[str]] | None = None) -> None:
        self._allows_private = settings.allow_private_hosts
        self._lookup_seconds = settings.dns_seconds
        self._lookup = lookup or _lookups(settings)
        # Look-ups of strangers' names may hang, all at once: those of the operator's own servers have other threads.
        self._trusted_lookup = lookup or _lookups(settings)
        self._trusted = {
            _origin(settings.plc_url, "APPVIEW_PLC_URL"),
            _origin(re.sub("^ws", "http", settings.relay_url), "APPVIEW_RELAY_URL"),
        }
        if settings.alert_webhook is not None:
            self._trusted.add(_origin(settings.alert_webhook, "APPVIEW_ALERT_WEBHOOK"))

    def target(self, url: str, *, is_trusted: bool = False) -> Target:
        """Reads a URL. Raises `FetchError` of kind `url` for one that may not be asked, by its text alone.

        `is_trusted`: the URL comes from the settings. A stranger who names the operator's own server, in a document or
        a redirect, is checked as any stranger is.
        """
        scheme, host, port, path = _split(url)
        is_trusted = is_trusted and (scheme, host, port) in self._trusted
        if not is_trusted and not self._allows_private:
            if scheme != "https":
                raise FetchError("url", f"{scheme}:// is not asked, only https://", host=host)
            if port != 443:
                raise FetchError("url", f"port {port} of {host} is not asked, only port 443", host=host)
            _check_name(host)
        return Target(scheme, host, port, path, is_trusted)

    def redirected(self, target: Target, location: str) -> Target:
        """The target that `target` redirects to, by its header `Location`. Raises `FetchError`."""
        try:
            location = location.encode("latin-1").decode("utf-8")  # as the header's bytes are read, and were meant
            url = location if _UNUSUAL.search(location) else urljoin(target.url, location[:MAX_URL])
        except ValueError:
            url = ""
        try:
            return self.target(url, is_trusted=target.is_trusted)
        except FetchError as error:
            reason = f"{target.name} redirects to a place that is not asked: {error}"
            raise FetchError(error.kind, reason, host=target.name) from None

    def addresses(self, target: Target, seconds: float) -> list[str]:
        """The IP addresses to connect to, in the order to try them. See `checked_addresses`."""
        if target.is_trusted:
            return self._resolve(target.host, seconds, self._trusted_lookup)
        return self.checked_addresses(target.host, target.port, seconds)

    def checked_addresses(self, host: str, port: int, seconds: float) -> list[str]:
        """The addresses of a host that a stranger named, for a connection with TLS (https, wss) to exactly these.

        The name is looked up once, within `seconds`, and every address is checked. One that is not public refuses the
        host: which address a connection is made to depends on the weather, and a host must not be reachable in fair
        weather only. Raises `FetchError` (`url`, `name`, `refused address`, `timeout`).
        """
        host = _host(host)
        if self._allows_private:
            return self._resolve(host, seconds, self._lookup)
        if port != 443:
            raise FetchError("url", f"port {port} of {host} is not asked, only port 443", host=host)
        _check_name(host)
        # With a dot at its end a name is complete: the system does not try it with its own domains first.
        found = self._resolve(host if _is_address(host) else f"{host}.", seconds, self._lookup)
        for address in found:
            what = why_not_public(address)
            if what is not None:
                reason = f"{host} has the address {address}, which is {what}, not public"
                raise FetchError("refused address", reason, host=host)
        return found

    def _resolve(self, host: str, seconds: float, lookup: Callable[[str, float], list[str]]) -> list[str]:
        if _is_address(host):
            return [host]
        return lookup(host, min(seconds, self._lookup_seconds))


class SystemLookups:
    """Looks hosts up as the system does (`/etc/hosts`, its name servers), within a limit of time.

    The system's resolver can't be interrupted. So each look-up runs in a thread of its own, which is left alone when
    the time is over, and of which there are at most `MAX_LOOKUPS`.
    """

    def __init__(self, getaddrinfo: Callable[..., Sequence[tuple[Any, ...]]] = socket.getaddrinfo) -> None:
        self._getaddrinfo = getaddrinfo
        self._free = threading.BoundedSemaphore(MAX_LOOKUPS)

    def addresses(self, host: str, seconds: float) -> list[str]:
        """The addresses of a host, in the system's order. Raises `FetchError` (`name`, `timeout`)."""
        deadline = time.monotonic() + seconds
        shown = host.removesuffix(".")
        if not self._free.acquire(timeout=seconds):
            reason = f"{shown} could not be looked up: all {MAX_LOOKUPS} look-ups of host names wait for an answer"
            raise FetchError("name", reason, host=shown, blames_account=False)
        done = threading.Event()
        answer: list[list[str] | OSError | UnicodeError] = []

        def look_up() -> None:
            try:
                found = self._getaddrinfo(host, None, type=socket.SOCK_STREAM)
                answer.append(list(dict.fromkeys(str(entry[4][0]) for entry in found)))
            except (OSError, UnicodeError) as error:
                answer.append(error)
            finally:
                self._free.release()
                done.set()

        try:
            threading.Thread(target=look_up, name=f"look-up of {shown}", daemon=True).start()
        except RuntimeError:  # the machine has no thread left
            self._free.release()
            reason = f"{shown} could not be looked up: this machine has no thread left"
            raise FetchError("name", reason, host=shown, blames_account=False) from None
        if not done.wait(max(0.0, deadline - time.monotonic())):
            raise FetchError("timeout", f"{shown} was not looked up within {seconds:.3g} s", host=shown)
        if not answer or isinstance(answer[0], UnicodeError):
            raise FetchError("name", f"{shown} is no name that can be looked up", host=shown)
        if isinstance(answer[0], OSError):
            raise _no_name(shown, answer[0])
        return answer[0]


def _lookups(settings: Settings) -> Callable[[str, float], list[str]]:
    return ask_name_servers(settings) if settings.dns_servers else SystemLookups().addresses


def ask_name_servers(settings: Settings) -> Callable[[str, float], list[str]]:
    """Looks hosts up through `APPVIEW_DNS_SERVERS`. Raises as `SystemLookups.addresses`."""
    resolver = Resolver(settings)

    def addresses(host: str, seconds: float) -> list[str]:
        try:
            return resolver.addresses(host, seconds)
        except DnsError as error:
            raise FetchError("name" if error.is_final else "timeout", error.reason, host=host.rstrip(".")) from None

    return addresses


def _no_name(host: str, error: OSError) -> FetchError:
    if isinstance(error, socket.gaierror) and error.errno in (socket.EAI_NONAME, socket.EAI_NODATA):
        return FetchError("name", f"{host} has no address", host=host)
    return FetchError("timeout", f"{host} could not be looked up ({error.strerror or error})", host=host)


def _origin(url: str, setting: str) -> tuple[str, str, int]:
    try:
        scheme, host, port, _ = _split(url)
    except FetchError as error:
        raise OperatorError(f"{setting} can't be asked ({error}): correct it or unset it.") from None
    return scheme, host, port


def _split(url: str) -> tuple[str, str, int, str]:
    """Scheme, host, port, and path with query, all in ASCII. Raises `FetchError`."""
    if len(url) > MAX_URL:
        raise FetchError("url", f"its URL has more than {MAX_URL:,} characters")
    match = None if _UNUSUAL.search(url) else _URL.fullmatch(url)
    if match is None or match[1] is None:
        raise FetchError("url", "its URL is none (https://host/path)")
    scheme = match[1].lower()
    if scheme not in _PORTS:
        raise FetchError("url", f"{scheme[:20]}:// is not asked, only https://")
    if "@" in match[2]:
        raise FetchError("url", "its URL has a user or a password in it")
    authority = _AUTHORITY.fullmatch(match[2])
    if authority is None or not authority[1]:
        raise FetchError("url", "its URL has no host, or a port that is none")
    port = int(authority[2] or _PORTS[scheme])
    if not 0 < port < 65_536:
        raise FetchError("url", "its URL has a port that is none")
    path = quote((match[3] or "/") + (match[4] or ""), safe=_PATH_CHARACTERS)
    return scheme, _host(authority[1]), port, path


def _host(text: str) -> str:
    """A host's one spelling: a name in small ASCII letters, or an IP address. Raises `FetchError`.

    A name whose last part is a number is an IPv4 address to some programs (`127.1`, `0x7f.1`, `2130706433`) and a name
    to others. Only the form with four decimal numbers is accepted.
    """
    if text.startswith("[") or ":" in text:
        if "%" in text:
            raise FetchError("url", "its URL has an address of one link (%)")
        try:
            return IPv6Address(text.removeprefix("[").removesuffix("]")).compressed
        except ValueError:
            raise FetchError("url", "its URL has an IPv6 address that is none") from None
    host = text.lower()
    if not host.isascii() and len(host) <= MAX_HOST:
        try:
            host = idna.encode(host, uts46=True).decode("ascii")
        except (idna.IDNAError, UnicodeError):
            raise FetchError("url", "its URL has a host whose name is none") from None
    host = host.removesuffix(".")
    labels = host.split(".")
    if _NUMBER.fullmatch(labels[-1]):
        try:
            return str(IPv4Address(host))
        except ValueError:
            raise FetchError("url", "its URL has an IPv4 address that is not four decimal numbers") from None
    if len(host) > MAX_HOST or not all(_LABEL.fullmatch(label) for label in labels):
        raise FetchError("url", "its URL has a host whose name is none")
    return host


def _check_name(host: str) -> None:
    """A name of the public network has a dot in it; an address is public. Raises `FetchError`."""
    if _is_address(host):
        what = why_not_public(host)
        if what is not None:
            raise FetchError("refused address", f"the address {host} is {what}, not public", host=host)
    elif "." not in host:
        raise FetchError("url", f"{host} is not a name of the public network", host=host)


def _is_address(host: str) -> bool:
    return ":" in host or _NUMBER.fullmatch(host.rpartition(".")[2]) is not None
