"""The one client for everything that is fetched over HTTP: documents, handles, and XRPC queries of other servers.

What it guarantees, whatever a server sends (docs/fetching.md has the reasons):

- it connects only to checked addresses of the public network, with TLS, and to the operator's own servers;
- a request ends within its limit of time, and its body and header have a limit of bytes;
- a download holds one piece of its body in memory, and has to bring a minimum of bytes a second;
- no redirect is followed unless asked for, and each is checked like a URL of its own;
- one server has a limited number of requests at a time, gets the pauses that it asks for, and is left alone for a while
  when it keeps failing. None of that holds up requests to others.
"""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from urllib.parse import urlencode

import requests
import urllib3

from appview_pipeline import __version__
from appview_pipeline.network.budget import Budget, spending
from appview_pipeline.network.checked_sockets import tls_context
from appview_pipeline.network.fetch_errors import FetchError, XrpcError
from appview_pipeline.network.hosts import Hosts, Target
from appview_pipeline.network.pools import Adapter, new_pool, prepared
from appview_pipeline.network.rate_limits import PARKING_STATUSES
from appview_pipeline.network.upstreams import MAX_IDLE, Turn, Upstream, Upstreams
from appview_pipeline.protocol.event_stream import printable
from appview_pipeline.settings import Settings

MAX_REDIRECTS = 3
MAX_HEADER_BYTES = 65_536
"""Bytes of an answer's header; it has at most 100 lines (`http.client`)."""
MAX_ERROR_BYTES = 65_536
"""Bytes of an XRPC error that are read for its name."""
USER_AGENT = f"appview-pipeline/{__version__}"

_REDIRECTS = (301, 302, 303, 307, 308)
_PIECE = 65_536
_FAILURES = ("connection", "tls", "timeout")
"""Kinds of errors that count for the circuit breaker."""
_MALFORMED = (
    requests.RequestException,
    urllib3.exceptions.HTTPError,
    http.client.HTTPException,
    ValueError,  # a negative chunk size, among others
)
"""What the libraries raise for answers that are not HTTP; all other errors come from our sockets."""


@dataclass(frozen=True)
class Answer:
    """An HTTP answer: the URL that gave it (after redirects), its status, its headers (any case) and its body."""

    url: str
    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Download:
    """A body that was streamed: how many `bytes` of it, in how many `seconds` from the question to the last byte, of
    which `content_type`, and the `url` that sent it (after redirects)."""

    bytes: int
    seconds: float
    content_type: str
    url: str


@dataclass(frozen=True)
class _Sink:
    """Where the body of a download goes. `begins` is called with its headers before the first piece."""

    write: Callable[[bytes], object]
    begins: Callable[[Mapping[str, str]], None]


class Client:
    """Fetches over HTTP; one for a process, for any of its threads.

    `ca_file` replaces the root certificates (PEM). `clock` gives seconds that never go back, for pauses and circuit
    breakers. `hosts` replaces the look-up of names. Raises `OperatorError` where a URL of the operator's own can't be
    asked.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        ca_file: str | None = None,
        clock: Callable[[], float] = time.monotonic,
        hosts: Hosts | None = None,
    ) -> None:
        self.hosts = Hosts(settings) if hosts is None else hosts
        self._settings = settings
        self._tls = None if ca_file is None else tls_context(ca_file)
        self._upstreams = Upstreams(
            settings.host_concurrency, self._new_adapter, clock, downloads=settings.host_repo_fetches
        )

    def get(
        self,
        url: str,
        *,
        max_bytes: int,
        redirects: int = 0,
        seconds: float | None = None,
        accept: str = "application/json",
        is_repeated: bool = False,
        is_trusted: bool = False,
    ) -> Answer:
        """The answer to GET `url`: any status below 500 but 429, with a body of at most `max_bytes`.

        The body of a status from 400 on is cut off there; any other that is longer is an error.
        `redirects`: how many are followed, at most 3. `seconds`: limit from the look-up of the host to the last byte
        (default: APPVIEW_FETCH_SECONDS). `is_repeated`: the request has failed before; that it fails again says nothing
        new about its server, so it does not count for the circuit breaker. `is_trusted`: the URL is at a server that
        the settings name, and no stranger had a word in that. Raises `FetchError` for everything else.
        """
        answer, target = self._fetch(
            url,
            max_bytes=max_bytes,
            budget=self._budget(seconds),
            redirects=redirects,
            accept=accept,
            is_repeated=is_repeated,
            is_trusted=is_trusted,
        )
        if answer.status >= 500:
            raise FetchError("status", f"{target.name} answered HTTP {answer.status}", host=target.name)
        return answer

    def post(
        self, url: str, body: bytes, *, headers: Mapping[str, str], max_bytes: int, seconds: float | None = None
    ) -> Answer:
        """The answer to a POST of `body` to a URL of the settings, as for `get`; no redirect is followed.

        Raises `FetchError`.
        """
        answer, target = self._fetch(
            url,
            max_bytes=max_bytes,
            budget=self._budget(seconds),
            accept="*/*",
            is_trusted=True,
            body=body,
            more_headers=headers,
        )
        if answer.status >= 400:
            raise FetchError("status", f"{target.name} answered HTTP {answer.status}", host=target.name)
        return answer

    def query(
        self,
        service: str,
        method: str,
        parameters: Mapping[str, str],
        *,
        max_bytes: int,
        seconds: float | None = None,
        is_trusted: bool = False,
    ) -> bytes:
        """The body of the answer to an XRPC query of `method` (an NSID) at `service` (`https://host`).

        `is_trusted` as for `get`. Raises `XrpcError` for an answer that is an error, and `FetchError` where there is
        none.
        https://atproto.com/specs/xrpc
        """
        answer, target = self._fetch(
            _query_url(service, method, parameters),
            max_bytes=max_bytes,
            budget=self._budget(seconds),
            accept="*/*",
            is_trusted=is_trusted,
        )
        if answer.status == 200:
            return answer.body
        raise _error_answer(answer, target)

    def download(
        self,
        service: str,
        method: str,
        parameters: Mapping[str, str],
        sink: Callable[[bytes], object],
        *,
        max_bytes: int,
        seconds: float | None = None,
        redirects: int = MAX_REDIRECTS,
    ) -> Download:
        """Streams the body of the answer to an XRPC query into `sink`, in pieces of at most 64 KiB.

        `seconds`: limit of everything (default: APPVIEW_REPO_SECONDS). The server has APPVIEW_FETCH_SECONDS for the
        header, and is never silent for longer; when the body has gone on for that long it has to have brought
        APPVIEW_REPO_RATE bytes a second. Of the places at one server downloads take APPVIEW_HOST_REPO_FETCHES at most.
        `redirects`: how many are followed; a PDS may send us to where the repository is.

        Raises the errors of `query`; after one of them the sink may have a part of the body. What the sink raises
        passes.
        """
        settings = self._settings
        budget = Budget(
            settings.repo_seconds if seconds is None else seconds,
            settings.fetch_connect_seconds,
            max(settings.fetch_read_seconds, settings.fetch_seconds),
            min_rate=settings.repo_rate,
            rate_seconds=settings.fetch_seconds,
        )
        count = 0

        def write(piece: bytes) -> None:
            nonlocal count
            count += len(piece)
            sink(piece)

        answer, target = self._fetch(
            _query_url(service, method, parameters),
            max_bytes=max_bytes,
            budget=budget,
            accept="*/*",
            redirects=redirects,
            write=write,
        )
        if answer.status != 200:
            raise _error_answer(answer, target)
        content_type = printable(answer.headers.get("Content-Type", ""))[:100]
        return Download(count, time.monotonic() - budget.began, content_type, answer.url)

    def upstreams(self) -> list[Upstream]:
        """The servers asked lately, and their states: at most 4,096, the last asked first."""
        return self._upstreams.states()

    def close(self) -> None:
        """Closes all connections that are idle."""
        self._upstreams.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _new_adapter(self, target: Target) -> Adapter:
        """Called under the lock of all servers, so there is one context."""
        if self._tls is None and target.scheme == "https":
            self._tls = tls_context(None)  # takes 30 ms, which a closed network does without
        concurrency = self._settings.host_concurrency
        max_idle = concurrency if target.is_trusted else min(concurrency, MAX_IDLE)
        return Adapter(new_pool(target, self.hosts, self._tls, max_idle))

    def _budget(self, seconds: float | None) -> Budget:
        settings = self._settings
        return Budget(
            settings.fetch_seconds if seconds is None else seconds,
            settings.fetch_connect_seconds,
            settings.fetch_read_seconds,
        )

    def _fetch(
        self,
        url: str,
        *,
        max_bytes: int,
        budget: Budget,
        redirects: int = 0,
        accept: str,
        is_repeated: bool = False,
        is_trusted: bool = False,
        write: Callable[[bytes], object] | None = None,
        body: bytes | None = None,
        more_headers: Mapping[str, str] | None = None,
    ) -> tuple[Answer, Target]:
        """The answer of any status, and where it is from. `write` gets the body of one with status 200, in pieces.
        `body`: what is sent; None for a GET."""
        assert 0 <= redirects <= MAX_REDIRECTS, redirects
        headers = {"User-Agent": USER_AGENT, "Accept": accept, "Accept-Encoding": "identity", **(more_headers or {})}
        target = self.hosts.target(url, is_trusted=is_trusted)
        followed = 0
        while True:
            answer = self._ask(target, budget, headers, max_bytes, is_repeated=is_repeated, write=write, body=body)
            if answer.status not in _REDIRECTS:
                return answer, target
            location = answer.headers.get("Location")
            if location is None:
                raise FetchError("redirect", f"{target.name} redirects to nowhere", host=target.name)
            if followed == redirects:
                what = f"more than {redirects} times" if redirects else f"to {printable(location)[:200]}"
                raise FetchError("redirect", f"{target.name} redirects {what}", host=target.name)
            target = self.hosts.redirected(target, location)
            followed += 1

    def _ask(
        self,
        target: Target,
        budget: Budget,
        headers: Mapping[str, str],
        max_bytes: int,
        *,
        is_repeated: bool,
        write: Callable[[bytes], object] | None,
        body: bytes | None,
    ) -> Answer:
        """One request, with its part in the server's state. Raises `FetchError`, also for 429 and 503."""
        began = time.monotonic()
        is_download = write is not None
        with self._upstreams.turn(target, budget, is_repeated=is_repeated, is_download=is_download) as turn:
            waited = time.monotonic() - began
            sink = None if write is None else _Sink(write, turn.begins)
            try:
                answer = _exchange(
                    turn.adapter, target, budget, headers=headers, max_bytes=max_bytes, sink=sink, body=body
                )
            except FetchError as error:
                if error.kind == "timeout" and waited > budget.seconds / 2:
                    error.blames_account = False  # the server had too little time: we waited for our turn
                _settle(turn, error)
                raise
            if answer.status in PARKING_STATUSES:
                seconds = turn.parked(answer.headers)
                reason = f"{target.name} answered HTTP {answer.status} and is left alone for {seconds:.0f} s"
                raise FetchError("parked", reason, host=target.name, retry_after=seconds, blames_account=False)
            if answer.status >= 500 and answer.status != 501:  # 501 is an answer: it does not have the method
                turn.failed(f"{target.name} answered HTTP {answer.status}")
            else:
                turn.answered({} if is_download and answer.status == 200 else answer.headers)
            return answer


def _settle(turn: Turn, error: FetchError) -> None:
    """What a failed request says about its server."""
    if error.kind in _FAILURES and error.blames_account:
        turn.failed(error.reason)
    elif error.kind in ("too big", "encoding"):
        turn.answered({})


def _exchange(
    adapter: Adapter,
    target: Target,
    budget: Budget,
    *,
    headers: Mapping[str, str],
    max_bytes: int,
    sink: _Sink | None,
    body: bytes | None,
) -> Answer:
    """Sends a request and reads its answer. Raises `FetchError`.

    A pooled connection may have been closed by the server just now. Where it ends without a byte of an answer, the
    request is sent once more on a new one.
    """
    budget.begin(target.name)
    with spending(budget):
        try:
            return _send(adapter, target, budget, headers=headers, max_bytes=max_bytes, sink=sink, body=body)
        except FetchError as error:
            if budget.has_connected or budget.received or error.kind not in ("connection", "tls"):
                raise
        budget.wants_connection = True
        return _send(adapter, target, budget, headers=headers, max_bytes=max_bytes, sink=sink, body=body)


def _send(
    adapter: Adapter,
    target: Target,
    budget: Budget,
    *,
    headers: Mapping[str, str],
    max_bytes: int,
    sink: _Sink | None,
    body: bytes | None,
) -> Answer:
    budget.allow(MAX_HEADER_BYTES, "a header")
    try:
        response = adapter.send(
            prepared(target.url, headers, body), stream=True, timeout=(budget.connect_seconds, budget.read_seconds)
        )
        with response:
            status = response.status_code
            if not 200 <= status < 600:
                raise FetchError("connection", f"{target.name} answered HTTP {status}, which is none", host=target.name)
            needs_body = status not in _REDIRECTS and status not in PARKING_STATUSES
            if not needs_body:
                answered = b""
            elif sink is not None and status == 200:
                answered = b""
                sink.begins(response.headers)
                _stream_body(response, target, budget, max_bytes, sink.write)
            else:
                limit = max_bytes if sink is None else min(max_bytes, MAX_ERROR_BYTES)
                answered = _body(response, target, budget, limit)
            return Answer(target.url, status, response.headers, answered)
    except _SinkFailed as error:
        raise error.error from None
    except _MALFORMED as error:
        raise _malformed(error, target) from None


def _body(response: requests.Response, target: Target, budget: Budget, max_bytes: int) -> bytes:
    """The body, read in pieces. Raises `FetchError`."""
    is_error = response.status_code >= 400
    if not _is_plain(response, target, max_bytes):
        return b""
    # Chunks have a frame: of tiny ones it is larger than the body, and they cost more to read.
    budget.allow(max_bytes + max_bytes // 4 + MAX_HEADER_BYTES, "a body")
    pieces: list[bytes] = []
    count = 0
    for piece in _pieces(response):
        pieces.append(piece)
        count += len(piece)
        if count > max_bytes:
            if is_error:
                return b"".join(pieces)[:max_bytes]
            raise FetchError("too big", f"{target.name} sends more than {max_bytes:,} bytes", host=target.name)
    response.raw.release_conn()  # keeps the connection, of which nothing is left to read, for later
    return b"".join(pieces)


def _stream_body(
    response: requests.Response,
    target: Target,
    budget: Budget,
    max_bytes: int,
    write: Callable[[bytes], object],
) -> None:
    """Gives the body away in pieces as it is read. Raises `FetchError`, and `_SinkFailed`."""
    _is_plain(response, target, max_bytes)
    header, count = budget.received, 0
    budget.begin_rate()
    # Frames of chunks are limited as for other bodies, but at any time: gigabytes of tiny chunks would keep a processor
    # busy until the deadline. What the socket's buffer and the next piece need comes on top.
    spare = MAX_HEADER_BYTES + 2 * _PIECE
    budget.allow(spare, "a body")
    for piece in _pieces(response):
        count += len(piece)
        if count > max_bytes:
            raise FetchError("too big", f"{target.name} sends more than {max_bytes:,} bytes", host=target.name)
        try:
            write(piece)
        except Exception as error:
            raise _SinkFailed(error) from None
        budget.max_received = header + count + count // 4 + spare
    response.raw.release_conn()


class _SinkFailed(Exception):
    """What a sink raised, on its way past those who take errors for the server's."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


def _is_plain(response: requests.Response, target: Target, max_bytes: int) -> bool:
    """Whether the body can be read; of a status from 400 on it need not. Raises `FetchError` otherwise."""
    is_error = response.status_code >= 400
    for header, usual in (("Content-Encoding", "identity"), ("Transfer-Encoding", "chunked")):
        encoding = response.headers.get(header, usual).strip().lower()
        if encoding != usual:
            if is_error:
                return False
            reason = f"{target.name} sends the content encoding {printable(encoding)[:50]}, which was not asked for"
            raise FetchError("encoding", reason, host=target.name)
    length = response.raw.length_remaining
    if length is not None and length > max_bytes and not is_error:
        shown = f"{length:,}" if length < 10**15 else "far too many"
        reason = f"{target.name} sends {shown} bytes; {max_bytes:,} are allowed"
        raise FetchError("too big", reason, host=target.name)
    return True


def _pieces(response: requests.Response) -> Iterator[bytes]:
    pieces: Iterator[bytes] = response.raw.stream(_PIECE, decode_content=False)
    return pieces


def _malformed(error: Exception, target: Target) -> FetchError:
    """The error for one of `_MALFORMED`: what is wrong with the answer."""
    chain: list[object] = [error]
    for link in chain:  # the libraries wrap errors in arguments, in attributes and as causes
        if isinstance(link, Exception) and len(chain) < 20:
            chain += [*link.args, getattr(link, "reason", None), link.__cause__, link.__context__]
    name = target.name
    if any(isinstance(link, http.client.LineTooLong) or "got more than" in str(link) for link in chain):
        return FetchError("too big", f"{name} sends a header with too many or too long lines", host=name)
    is_chunk = any(isinstance(link, urllib3.exceptions.InvalidChunkLength) for link in chain)
    if not is_chunk and any(
        isinstance(link, http.client.IncompleteRead) or "prematurely" in str(link) for link in chain
    ):
        return FetchError("connection", f"{name} closed the connection before the end of its answer", host=name)
    return FetchError("connection", f"{name} sent an answer that is not HTTP", host=name)


def _query_url(service: str, method: str, parameters: Mapping[str, str]) -> str:
    query = f"?{urlencode(parameters, errors='replace')}" if parameters else ""
    return f"{service.rstrip('/')}/xrpc/{method}{query}"


def _error_answer(answer: Answer, target: Target) -> XrpcError:
    """The error of an XRPC method's answer that is none of success."""
    name, message = _xrpc_error(answer.body[:MAX_ERROR_BYTES])
    said = ": ".join(part for part in (name, message) if part)
    reason = f"{target.name} answered HTTP {answer.status}" + (f" ({said})" if said else "")
    return XrpcError(answer.status, name, reason, host=target.name)


def _xrpc_error(body: bytes) -> tuple[str, str]:
    """Name and message in the body of an error; empty where there is none."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return "", ""
    if not isinstance(value, dict):
        return "", ""
    return printable(value.get("error"))[:100], printable(value.get("message"))[:200]
