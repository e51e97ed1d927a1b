"""The one client for everything that is fetched over HTTP: documents, handles, and XRPC queries of other servers."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType

from appview_pipeline.network.fetch_errors import FetchError, XrpcError
from appview_pipeline.network.upstreams import Upstream
from appview_pipeline.settings import Settings

__all__ = ["Answer", "Client", "FetchError", "Upstream", "XrpcError"]


@dataclass(frozen=True)
class Answer:
    """An HTTP answer: the URL that gave it (after redirects), its status, its headers (any case) and its whole body."""

    url: str
    status: int
    headers: Mapping[str, str]
    body: bytes


class Client:
    """Fetches over HTTP; one for a process, for any of its threads.

    `ca_file` replaces the root certificates (PEM); `clock` gives UNIX seconds.
    """

    def __init__(
        self, settings: Settings, *, ca_file: str | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self._settings = settings

    def get(
        self,
        url: str,
        *,
        max_bytes: int,
        redirects: int = 0,
        seconds: float | None = None,
        accept: str = "application/json",
    ) -> Answer:
        """The answer to GET `url`: any status below 500 but 429, whose body has at most `max_bytes`.

        `redirects`: how many are followed, at most 3. `seconds`: limit from the look-up of the host to the last byte
        (default: APPVIEW_FETCH_SECONDS). Raises `FetchError` for everything else.
        """
        raise NotImplementedError

    def query(
        self,
        service: str,
        method: str,
        parameters: Mapping[str, str],
        *,
        max_bytes: int,
        seconds: float | None = None,
    ) -> bytes:
        """The body of the answer to an XRPC query of `method` (an NSID) at `service` (`https://host`).

        Raises `XrpcError` for an answer that is an error, and `FetchError` where there is none.
        """
        raise NotImplementedError

    def upstreams(self) -> list[Upstream]:
        """The servers asked lately, and their states. Bounded."""
        return []

    def close(self) -> None:
        """Closes all connections that are idle."""

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
