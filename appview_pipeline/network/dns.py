"""Look-ups in DNS: TXT records of handles, and addresses of hosts, by dnspython.

The name servers are those of `APPVIEW_DNS_SERVERS`, or the system's (`/etc/resolv.conf`). They are tried in order:
a later one is asked when an earlier one is silent, fails (SERVFAIL, ...) or sends something unreadable. Nothing is
cached here: name servers cache, and what resolution finds is stored in `pipeline.identity`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from pathlib import Path

import dns.exception
import dns.message
import dns.name
import dns.nameserver
import dns.rdata
import dns.rdatatype
import dns.resolver
from dns.rdtypes.ANY.TXT import TXT
from dns.rdtypes.IN.A import A
from dns.rdtypes.IN.AAAA import AAAA

from appview_pipeline.settings import Settings

MAX_ADDRESSES = 8
"""Addresses of one kind (IPv4, IPv6) that a host is given; a connection tries no more."""
MAX_SERVERS_NAMED = 4
"""Name servers that one reason names."""
_PAYLOAD = 1_232
"""Bytes of a UDP answer that we ask for (EDNS): no network splits such a packet. A larger answer comes over TCP."""
_RESOLV_CONF = Path("/etc/resolv.conf")


class DnsError(Exception):
    """A look-up without a result. `reason`, also `str()`, is a part of a sentence that a person can read.

    `is_final`: the domain has answered, and asking again soon gives the same. Otherwise there was trouble on the way.
    """

    def __init__(self, reason: str, is_final: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.is_final = is_final


class _NoSuchName(DnsError):
    """NXDOMAIN: there are no records of any type."""


class Resolver:
    """Thread-safe. One look-up takes at most `APPVIEW_DNS_SECONDS`, all name servers and retries included."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._lock = threading.Lock()
        self._changed: int | None = None
        self._configured: dns.resolver.Resolver | None = None

    def txt(self, name: str) -> list[str]:
        """The TXT records of `name`, each with its strings joined (RFC 1464), in the order of the answer; never none.

        Bytes that are not UTF-8 become U+FFFD. An answer that does not fit into a UDP packet is asked for over TCP; it
        has at most 65,535 bytes there. Raises `DnsError`.
        """
        records = self._ask(name, dns.rdatatype.TXT, self.settings.dns_seconds)
        return [b"".join(record.strings).decode("utf-8", "replace") for record in records if isinstance(record, TXT)]

    def addresses(self, host: str, seconds: float) -> list[str]:
        """The IPv4, then the IPv6 addresses of `host`, as text and unchecked, within `seconds`; never none.

        Raises `DnsError`.
        """
        began = time.monotonic()
        seconds = min(seconds, self.settings.dns_seconds)
        found: list[str] = []
        errors: list[DnsError] = []
        for kind in (dns.rdatatype.A, dns.rdatatype.AAAA):
            left = seconds - (time.monotonic() - began)
            try:
                # Some domains never answer for IPv6: that must not use the time up in which IPv4 could be tried.
                records = self._ask(host, kind, left / 4 if found else left)
            except _NoSuchName:
                if not found:
                    raise
            except DnsError as error:
                errors.append(error)
            else:
                found += [record.address for record in records[:MAX_ADDRESSES] if isinstance(record, A | AAAA)]
        if found:
            return found
        if all(error.is_final for error in errors):
            raise DnsError(f"{host} has no address in DNS", True)
        raise next(error for error in errors if not error.is_final)

    def _ask(self, name: str, kind: dns.rdatatype.RdataType, seconds: float) -> list[dns.rdata.Rdata]:
        try:
            asked = dns.name.from_text(name, dns.name.root)
            if asked == dns.name.root:
                raise dns.name.EmptyLabel
        except (dns.exception.DNSException, ValueError) as error:
            too_long = isinstance(error, dns.name.NameTooLong | dns.name.LabelTooLong)
            reason = "is too long for DNS" if too_long else "is no name that DNS knows"
            raise DnsError(f"{name[:300]} {reason}", True) from None
        if seconds <= 0:
            raise DnsError("no time is left for the look-up in DNS", False)
        try:
            return list(self._resolver().resolve(asked, kind, lifetime=seconds, search=False))
        except dns.resolver.NXDOMAIN:
            raise _NoSuchName(f"the name {name} does not exist in DNS", True) from None
        except dns.resolver.NoAnswer:
            raise DnsError(f"{name} has no {dns.rdatatype.to_text(kind)} record in DNS", True) from None
        except dns.resolver.NoNameservers as error:
            # An answer that is cut short over UDP is asked for over TCP: what came of that is among them, too.
            errors = [it for it in error.kwargs["errors"] if it[1] or not isinstance(it[3], dns.message.Truncated)]
            # A chain of aliases is what the domain has answered; all the others are the servers' trouble.
            is_final = bool(errors) and all(isinstance(it[3], dns.message.ChainTooLong) for it in errors)
            raise DnsError(f"no name server answers for {name}: {_problems(errors)}", is_final) from None
        except dns.exception.Timeout as error:
            problems = _problems((error.kwargs or {}).get("errors") or ())
            reason = f"no answer for {name} from DNS within {seconds:.3g} s"
            raise DnsError(f"{reason}: {problems}" if problems else reason, False) from None
        except (dns.exception.DNSException, OSError) as error:  # YXDOMAIN, no socket left, ...
            raise DnsError(f"the look-up of {name} in DNS failed: {type(error).__name__}", False) from None

    def _resolver(self) -> dns.resolver.Resolver:
        """dnspython's resolver, made anew when the system's configuration has changed."""
        servers = self.settings.dns_servers
        with self._lock:
            changed = None if servers else _changed(_RESOLV_CONF)
            if self._configured is None or changed != self._changed:
                self._changed = changed
                found = dns.resolver.Resolver(configure=False)
                found.nameservers = [dns.nameserver.Do53Nameserver(one.address, one.port) for one in servers]
                if not servers:
                    _read_system(found)
                found.use_edns(0, payload=_PAYLOAD)
                # Each server is asked within the time, and a single one twice: a packet may be lost.
                found.timeout = self.settings.dns_seconds / max(2, len(found.nameservers))
                self._configured = found
            return self._configured


def _changed(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None


def _read_system(resolver: dns.resolver.Resolver) -> None:
    try:
        resolver.read_resolv_conf(str(_RESOLV_CONF))
    except dns.resolver.NoResolverConfiguration:
        resolver.nameservers = ["127.0.0.1"]  # resolv.conf(5): the default is the server on this machine


def _problems(errors: Iterable[dns.resolver.ErrorTuple]) -> str:
    """What went wrong with each name server, in words: `127.0.0.1 answers SERVFAIL, 10.0.0.1 does not answer`."""
    said: list[str] = []
    for server, _, port, problem, _ in errors:
        address = (server or "?").partition(":")[2].rpartition("@")[0]
        sentence = f"{address}{'' if port == 53 else f' port {port}'} {_problem(problem)}"
        if sentence not in said:
            said.append(sentence)
    more = [f"and {len(said) - MAX_SERVERS_NAMED} more"] if len(said) > MAX_SERVERS_NAMED else []
    return ", ".join(said[:MAX_SERVERS_NAMED] + more)


def _problem(problem: Exception | str) -> str:
    if isinstance(problem, str):
        return f"answers {problem}"
    for kind, words in (
        (dns.exception.Timeout, "does not answer"),
        (dns.message.ChainTooLong, "answers with aliases (CNAME) that lead in a circle or are too many"),
        (dns.message.Truncated, "cuts its answer short, over TCP too"),
        (EOFError, "hangs up"),
        (OSError, "can't be reached"),
    ):
        if isinstance(problem, kind):
            return words
    return "sends an answer that can't be read"
