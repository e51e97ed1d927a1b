"""Addresses of servers: read as the protocol's own client reads them, and named without their secrets.

A password may stand in an address where nobody meant it to: in a URL whose password has an unescaped `@` or `/`, a
part of it looks like the host. So an address that can be read in two ways is refused, and no sentence of this module
repeats the address that it was given.
"""

from __future__ import annotations

import base64
import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, unquote, urlencode, urlsplit

import psycopg2
from psycopg2.extensions import parse_dsn

SECRET_PARAMETERS = ("password", "sslpassword", "passfile", "scram_client_key", "scram_server_key")
"""libpq's parameters that are never shown, also not in another's message."""

_ESCAPE = "percent-encode the special characters of user and password (@ is %40, / is %2F, : is %3A)"
_UNREADABLE = f"can't be read: write it as postgresql://user:password@host:port/database and {_ESCAPE}"
_SCHEMES = ("postgres", "postgresql")


class AddressError(ValueError):
    """What is wrong with an address, as the end of a sentence that begins with its name."""


# ----------------------------------------------------------------------------------------------------------------------
# Databases


@dataclass(frozen=True)
class DatabaseAddress:
    """A PostgreSQL database as libpq's parameters (`host`, `port`, `dbname`, ...; several hosts by commas)."""

    parameters: Mapping[str, str] = field(repr=False)

    @property
    def user(self) -> str:
        """The role's name, for sentences."""
        return _printable(self.parameters.get("user") or os.environ.get("PGUSER") or "the default user")

    @property
    def database(self) -> str:
        """The database's name as libpq defaults it; empty where only the server knows."""
        given, environment = self.parameters, os.environ
        names = (given.get("dbname"), environment.get("PGDATABASE"), given.get("user"), environment.get("PGUSER"))
        return next(filter(None, names), "")

    @property
    def hosts(self) -> list[tuple[str, str]]:
        """(host or socket folder, port) in the order in which they are tried; empty for libpq's own default."""
        given, environment = self.parameters, os.environ
        hosts = given.get("host") or given.get("hostaddr") or environment.get("PGHOST") or ""
        ports = (given.get("port") or environment.get("PGPORT") or "").split(",")
        names = hosts.split(",")
        if len(ports) != len(names):
            ports = ports[:1] * len(names)
        return list(zip(names, ports, strict=True)) if hosts or any(ports) else []

    def describe(self) -> str:
        """The database in words, without secrets: `database appview on db.example.com:5432`."""
        if "service" in self.parameters and "host" not in self.parameters:
            name = self.parameters.get("dbname", "(default)")
            return _printable(f"database {name} of service {self.parameters['service']}")
        where = ",".join(
            (_bracketed(host) or "the local socket") + ("" if _is_default_port(host, port) else f":{port}")
            for host, port in self.hosts
        )
        return _printable(f"database {self.database or '(default)'} on {where or 'the local socket'}")

    def named(self) -> str:
        """The address as a URL of hosts and database only, for logs."""
        hosts = ",".join(
            (quote(host, safe="") if "/" in host or "@" in host else _bracketed(host)) + (f":{port}" if port else "")
            for host, port in self.hosts
        )
        return f"postgresql://{_printable(hosts)}/{quote(self.database, safe='')}"

    def url(self, scheme: str = "postgresql") -> str:
        """The address as one URL that libpq and SQLAlchemy read alike, password included."""
        rest = dict(self.parameters)
        user, password = rest.pop("user", ""), rest.pop("password", None)
        host, port = rest.get("host", ""), rest.get("port", "")
        credentials = quote(user, safe="") + ("" if password is None else f":{quote(password, safe='')}")
        place = ""
        if re.fullmatch(r"[0-9A-Za-z._:-]+", host) and "," not in port:
            place = _bracketed(rest.pop("host")) + (f":{rest.pop('port')}" if port else "")
        query = urlencode({name: value for name, value in rest.items() if name != "dbname"}, quote_via=quote, safe="")
        return (
            f"{scheme}://{credentials}{'@' if credentials or not place else ''}{place}"
            f"/{quote(rest.get('dbname', ''), safe='')}{'?' if query else ''}{query}"
        ).replace("://@/", ":///", 1)

    def without_secrets(self, text: str) -> str:
        """`text`, a message of the server or the driver, with the secrets in it replaced."""
        for name in SECRET_PARAMETERS:
            secret = self.parameters.get(name, "")
            for form in {secret, quote(secret, safe=""), quote(secret)}:
                if len(form) > 2:
                    text = text.replace(form, "***")
        return text


def database_address(text: str) -> DatabaseAddress:
    """Reads a PostgreSQL URL or a `keyword=value` string by libpq's rules; `postgresql+psycopg2://` is accepted too.

    Only libpq's parser runs; no connection is made. Raises `AddressError` for text that is neither, and for a URL whose
    password may have been taken apart: one with a second `@`, which has to be percent-encoded.
    """
    text = text.strip()
    scheme, separator, rest = text.partition("://")
    if separator and "=" not in scheme:
        if scheme.partition("+")[0].lower() not in _SCHEMES:
            raise AddressError("must start with postgresql:// (this is not PostgreSQL's)")
        _check_at_signs(rest)
        text = f"postgresql://{rest}"
    elif "=" not in text:
        raise AddressError(f"must start with postgresql://; it {_UNREADABLE}")
    if re.search(r"[\x00-\x1f\x7f]", text):
        raise AddressError(_UNREADABLE)
    try:
        found = parse_dsn(text)
    except (psycopg2.Error, ValueError) as error:
        unknown = "invalid URI query parameter" in str(error) or "invalid connection option" in str(error)
        reason = "is not accepted: it has a parameter that libpq does not know" if unknown else _UNREADABLE
    else:
        address = DatabaseAddress({name: value for name, value in found.items() if value != ""})
        if _is_plausible(address):
            return address
        reason = _UNREADABLE
    # Outside of the `except`: libpq's error repeats a part of the text, and must not even be this one's context.
    raise AddressError(reason)


def _check_at_signs(rest: str) -> None:
    """Raises `AddressError` where an `@` beyond the one before the hosts makes the URL mean two things."""
    authority, _, after = rest.partition("/")
    hosts_begin = authority.rfind("@")
    parameter_before = re.search(r"[?&](ssl)?password=", authority[: max(hosts_begin, 0)])
    if authority.count("@") > 1 or parameter_before or "@" in after.partition("?")[0]:
        raise AddressError(f"has an @ that may end the password or not: {_ESCAPE}")


def _is_plausible(address: DatabaseAddress) -> bool:
    """Whether hosts and ports look like hosts and ports, rather than like a part of a password."""
    given = address.parameters
    hosts, ports = given.get("host", "").split(","), [port for port in given.get("port", "").split(",") if port]
    names = all("/" in host or re.fullmatch(r"@?[\w.:%-]*", host) for host in hosts)
    return names and all(port.isdecimal() and 0 < int(port) < 65536 for port in ports)


def _is_default_port(host: str, port: str) -> bool:
    return not port or (host.startswith(("/", "@")) and port == "5432")


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


# ----------------------------------------------------------------------------------------------------------------------
# Relays


def split_relay(text: str) -> tuple[str, str | None]:
    """A relay's name, which is also the URL to connect to, and its `user:password` (percent-decoded).

    All spellings of an address have one name: `wss://` for `https://` or nothing, the host in small letters, without a
    port that is the scheme's own, a dot after the host, a path, a query. Raises `AddressError`.
    """
    scheme_given, separator, rest = text.strip().partition("://")
    if not separator:
        scheme_given, rest = "wss", text.strip()
    scheme = {"http": "ws", "https": "wss"}.get(scheme_given.lower(), scheme_given.lower())
    wanted = "must be a URL starting with ws:// or wss:// or http:// or https://"
    if scheme not in ("ws", "wss"):
        raise AddressError(wanted)
    if re.search(r"[\s\x00-\x1f\x7f\\]", rest):
        raise AddressError(f"{wanted}, without spaces")
    if re.search(r"[/?#].*@", rest):
        raise AddressError(f"has an @ that may end the password or not: {_ESCAPE}")
    try:
        parts = urlsplit(f"{scheme}://{rest}")
        host, port = parts.hostname, parts.port  # reading the port checks it
        name = None if host is None else _host(host)
    except ValueError:
        name = None
    if not name:
        raise AddressError(wanted)  # outside of the `except`, whose error repeats a part of the text
    if port is not None and port != {"ws": 80, "wss": 443}[scheme]:
        name = f"{name}:{port}"
    if parts.username is None:
        return f"{scheme}://{name}", None
    return f"{scheme}://{name}", f"{unquote(parts.username)}:{unquote(parts.password or '')}"


def relay_name(text: str) -> str:
    """The name of the relay at the address `text`; `text` itself where that is no relay's address."""
    try:
        return split_relay(text)[0]
    except AddressError:
        return text


def _host(host: str) -> str:
    """A host's one spelling. Raises `ValueError` for text that is no host."""
    if ":" in host:
        return f"[{ipaddress.ip_address(host).compressed}]"
    host = host.lower() if host.isascii() else host.encode("idna").decode("ascii").lower()
    if not re.fullmatch(r"[0-9a-z._-]+", host.rstrip(".")):
        raise ValueError("not a host name")
    return host.removesuffix(".")


def basic_authorization(credentials: str) -> str:
    """The value of an `Authorization` header for `user:password` (RFC 7617, UTF-8)."""
    return "Basic " + base64.b64encode(credentials.encode()).decode("ascii")


# ----------------------------------------------------------------------------------------------------------------------
# Name servers


@dataclass(frozen=True)
class NameServer:
    """A DNS server: its IP address and port."""

    address: str
    port: int = 53

    def __str__(self) -> str:
        host = f"[{self.address}]" if ":" in self.address else self.address
        return host if self.port == 53 else f"{host}:{self.port}"


def name_server(text: str) -> NameServer:
    """Reads `1.1.1.1`, `1.1.1.1:5353`, `2606:4700::1111` or `[2606:4700::1111]:5353`. Raises `AddressError`."""
    match = re.fullmatch(r"\[([0-9a-fA-F:.]+)\](?::(\d{1,5}))?|([0-9.]+)(?::(\d{1,5}))?|([0-9a-fA-F:.]+)", text)
    if match is not None:
        address, port = match[1] or match[3] or match[5], int(match[2] or match[4] or 53)
        try:
            return NameServer(ipaddress.ip_address(address).compressed, _port(port))
        except ValueError:
            pass
    raise AddressError("must be IP addresses of name servers, separated by commas: 1.1.1.1,[2606:4700::1111]:5353")


def _port(number: int) -> int:
    if not 0 < number < 65_536:
        raise ValueError
    return number
