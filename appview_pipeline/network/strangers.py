"""Connections of subscriptions to servers that strangers name: to addresses that were looked up and checked for them.

As for HTTP (`pools.py`, `checked_sockets.py`), one look-up is for the check and for the connection, so that a name
can't get another address between the two, and TLS gets the name. docs/fetching.md has the rules and their reasons.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import time
from functools import lru_cache

from appview_pipeline.network.checked_sockets import MAX_ADDRESSES, in_turns, is_without_route, tls_context
from appview_pipeline.network.event_loop import SubscriptionLoop
from appview_pipeline.network.fetch_errors import FetchError
from appview_pipeline.network.hosts import Hosts


def labeler_address(endpoint: str, hosts: Hosts) -> str:
    """Where the streams of a labeler are (`wss://host`), by the endpoint in its DID document (`https://host`).

    Raises `FetchError` (`url`, `refused address`) for one that may not be connected to, by its text alone.
    """
    target = hosts.target(endpoint)
    if target.path != "/":
        raise FetchError("url", f"the endpoint of a labeler has no path, and this one has {target.path[:100]}")
    return f"ws{target.url.removeprefix('http').removesuffix('/')}"


async def connected_socket(url: str, hosts: Hosts, seconds: float) -> socket.socket:
    """A socket that is connected to an address of the host of `url` (`wss://host`).

    The host is looked up now, and all its addresses are checked. They share the `seconds`: none uses up the time of the
    next. Raises `FetchError`, and `OSError` of the last address tried.
    """
    began = time.monotonic()
    target = hosts.target(re.sub("^ws", "http", url))
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SubscriptionLoop)
    found = await loop.in_thread(lambda: hosts.checked_addresses(target.host, target.port, seconds))
    tried = in_turns(found)[:MAX_ADDRESSES]
    failure: OSError | None = None
    for number, address in enumerate(tried):
        left = max(0.01, seconds - (time.monotonic() - began)) / (len(tried) - number)
        sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await asyncio.wait_for(loop.sock_connect(sock, (address, target.port)), left)
            return sock
        except (OSError, asyncio.TimeoutError) as error:
            sock.close()
            if failure is None or not (isinstance(error, OSError) and is_without_route(error)):
                failure = error if isinstance(error, OSError) else TimeoutError()
        except BaseException:
            sock.close()
            raise
    raise failure or FetchError("name", f"{target.host} has no address", host=target.name)


@lru_cache(maxsize=1)
def strangers_context() -> ssl.SSLContext:
    """What certificates are checked against. Made once: it holds this machine's root certificates."""
    return tls_context(None)
