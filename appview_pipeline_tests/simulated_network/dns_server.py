"""A name server for the simulated world, over UDP and TCP: TXT records of handles, and the addresses of their hosts.

It answers as a recursive resolver does: it follows aliases (CNAME) itself. What is in `records` comes before the world.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset
from dns.rdtypes.ANY.TXT import TXT
from dns.rdtypes.IN.A import A
from dns.rdtypes.IN.AAAA import AAAA

from appview_pipeline_tests.simulated_network.accounts import HANDLE_DOMAIN
from appview_pipeline_tests.simulated_network.faults import Faults, draw, garbage_for
from appview_pipeline_tests.simulated_network.world import World

MAX_CHAIN = 20
PREFIX = "_atproto."
TTL = 60


@dataclass(frozen=True)
class Records:
    """What a name answers. `txt`: texts, or tuples of the strings that one record is made of. `a`, `aaaa`: addresses.

    `rcode` other than NOERROR goes without records. `silent`: no answer. `garbage`: these bytes instead of a message.
    `cut`: the answer over UDP has no records and says that it was truncated.
    """

    txt: Sequence[str | tuple[str, ...]] = ()
    a: Sequence[str] = ()
    aaaa: Sequence[str] = ()
    cname: str | None = None
    rcode: str = "NOERROR"
    silent: bool = False
    garbage: bytes | None = None
    cut: bool = False


NO_SUCH_NAME = Records(rcode="NXDOMAIN")


class DnsServer:
    """On `port` of 127.0.0.1, UDP and TCP, in a thread of its own.

    All hosts of the world are at `address`. `txt_share` of the handles have a TXT record; the others name their account
    on the web alone. `records`: name (lower case, no dot at the end) -> `Records`, or a list of them: one for each
    request, the last one for ever. `requests`: the newest as (name, type, "udp" or "tcp"); `asked`: how many
    there were. The faults of an account are those of its handle's TXT record.
    """

    def __init__(self, world: World, port: int = 0, *, address: str = "127.0.0.1", txt_share: float = 1.0) -> None:
        self.world, self.address, self.txt_share = world, address, txt_share
        self.faults = Faults()
        self.records: dict[str, Records | list[Records]] = {}
        self.requests: deque[tuple[str, str, str]] = deque(maxlen=10_000)
        self.asked = 0
        self._tcp, self._udp = _sockets("127.0.0.1", port)
        self.port: int = self._tcp.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._thread: threading.Thread | None = None

    @property
    def server(self) -> str:
        """As in APPVIEW_DNS_SERVERS."""
        return f"127.0.0.1:{self.port}"

    # ---- answers

    def find(self, name: str) -> Records:
        """What a name says; `name` in lower case, without a dot at the end."""
        if (set_ := self.records.get(name)) is not None:
            if isinstance(set_, Records):
                return set_
            return set_.pop(0) if len(set_) > 1 else set_[0]
        if name.startswith(PREFIX):
            handle = name.removeprefix(PREFIX)
            owner = self.world.by_handle.get(handle)
            if owner is None:
                return NO_SUCH_NAME
            kind = self.faults.of(owner.did)
            if kind is not None:
                return self._faulty(kind, owner.did)
            if draw(f"txt {owner.did}") >= self.txt_share:
                return NO_SUCH_NAME
            return Records(txt=[f"did={owner.did}"])
        if name in self.world.by_handle or name == HANDLE_DOMAIN or name == f"pds.{HANDLE_DOMAIN}":
            return Records(a=[self.address])
        return NO_SUCH_NAME

    def _faulty(self, kind: str, did: str) -> Records:
        if kind in ("hang", "drip"):
            return Records(silent=True)
        if kind == "garbage":
            return Records(garbage=garbage_for(did)[0])
        if kind == "huge":
            return Records(txt=[f"padding {number} {'x' * 100}" for number in range(299)] + [f"did={did}"])
        if kind in ("missing", "gone"):
            return NO_SUCH_NAME
        return Records(rcode="SERVFAIL" if kind == "fail" else "REFUSED")

    def answer(self, wire: bytes, transport: str) -> bytes | None:
        """The answer to a request, both as messages of DNS; None: silence."""
        try:
            request = dns.message.from_wire(wire)
            question = request.question[0]
        except (dns.exception.DNSException, IndexError):
            return None
        name = question.name.to_text(omit_final_dot=True).lower()
        kind = dns.rdatatype.to_text(question.rdtype)
        self.requests.append((name, kind, transport))
        self.asked += 1
        response = dns.message.make_response(request, recursion_available=True)
        found = self.find(name)
        owner = question.name
        for _ in range(MAX_CHAIN):
            if found.cname is None:
                break
            target = dns.name.from_text(found.cname)
            alias = dns.rrset.from_text(owner, TTL, "IN", "CNAME", found.cname.rstrip(".") + ".")
            if alias in response.answer:
                break  # a circle
            response.answer.append(alias)
            owner = target
            found = self.find(target.to_text(omit_final_dot=True).lower())
        if found.silent:
            return None
        if found.garbage is not None:
            return wire[:2] + found.garbage
        response.set_rcode(dns.rcode.from_text(found.rcode))
        if response.rcode() == dns.rcode.NOERROR and found.cname is None:
            values: Sequence[str | tuple[str, ...]] = {"TXT": found.txt, "A": found.a, "AAAA": found.aaaa}.get(kind, ())
            if values:
                records = [_record(kind, value) for value in values]
                response.answer.append(dns.rrset.from_rdata_list(owner, TTL, records))
        limit = 65_535 if transport == "tcp" else max(512, request.payload)
        with contextlib.suppress(dns.exception.TooBig):
            if not found.cut or transport == "tcp":
                return response.to_wire(max_size=limit)
        response.answer.clear()
        response.flags |= dns.flags.TC
        return response.to_wire()

    # ---- life

    def start(self) -> None:
        started = threading.Event()

        async def serve() -> None:
            await self._loop.create_datagram_endpoint(lambda: _Udp(self), sock=self._udp)
            await self._loop.create_server(lambda: _Tcp(self), sock=self._tcp)

        def run() -> None:
            asyncio.set_event_loop(self._loop)
            self._loop.run_until_complete(serve())
            self._loop.call_soon(started.set)  # not before: a stop must find `run_forever`
            self._loop.run_forever()
            self._loop.close()

        self._thread = threading.Thread(target=run, name="simulated-dns", daemon=True)
        self._thread.start()
        started.wait()

    def stop(self) -> None:
        if self._thread is None:
            self._loop.close()
        elif self._thread.is_alive():
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10)
        self._tcp.close()
        self._udp.close()

    def later(self, send: Callable[[], None]) -> None:
        """Sends an answer when its delay is over. Called in the server's thread."""
        if self.faults.delay:
            self._loop.call_later(self.faults.delay, send)
        else:
            send()


def _record(kind: str, value: str | tuple[str, ...]) -> dns.rdata.Rdata:
    """One record. Bytes of a text that are not UTF-8 are written as Python's surrogates."""
    if kind != "TXT":
        return (A if kind == "A" else AAAA)(dns.rdataclass.IN, dns.rdatatype.from_text(kind), str(value))
    if isinstance(value, tuple):
        strings = [one.encode("utf-8", "surrogateescape") for one in value]
    else:
        whole = value.encode("utf-8", "surrogateescape")
        strings = [whole[at : at + 255] for at in range(0, len(whole) or 1, 255)]
    return TXT(dns.rdataclass.IN, dns.rdatatype.TXT, strings)


def _sockets(host: str, port: int) -> tuple[socket.socket, socket.socket]:
    """A TCP socket and a UDP one of the same number. Raises OSError when there is none."""
    for attempt in range(20):
        tcp = socket.create_server((host, port), backlog=1_024)
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            udp.bind(tcp.getsockname())
        except OSError as error:
            tcp.close()
            udp.close()
            if port or error.errno != errno.EADDRINUSE or attempt == 19:
                raise
        else:
            udp.setblocking(False)
            return tcp, udp
    raise AssertionError("the loop returns or raises")


class _Udp(asyncio.DatagramProtocol):
    def __init__(self, server: DnsServer) -> None:
        self.server = server
        self.transport: asyncio.DatagramTransport

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self.transport = transport

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        if (answer := self.server.answer(data, "udp")) is not None:
            self.server.later(lambda: self.transport.sendto(answer, address))


class _Tcp(asyncio.Protocol):
    """Messages with their length before them (RFC 1035 4.2.2)."""

    def __init__(self, server: DnsServer) -> None:
        self.server = server
        self.received = bytearray()
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data
        while len(self.received) >= 2 and len(self.received) >= (size := 2 + int.from_bytes(self.received[:2], "big")):
            message = bytes(self.received[2:size])
            del self.received[:size]
            if (answer := self.server.answer(message, "tcp")) is not None:
                framed = len(answer).to_bytes(2, "big") + answer
                self.server.later(partial(self.transport.write, framed))
