"""The socket that a server of ours listens on."""

from __future__ import annotations

import socket

from appview_pipeline.errors import OperatorError

BACKLOG = 256
"""Connections that the kernel keeps until the server takes them."""


def listen(address: tuple[str, int], setting: str, send_buffer_bytes: int | None = None) -> socket.socket:
    """A socket that listens at an address (host, port; port 0: any) of this machine.

    `setting`: the variable that names the address. `send_buffer_bytes`: what the kernel holds for each client that does
    not take it in; None: as the system has it. Raises `OperatorError`.
    """
    host, port = address
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if send_buffer_bytes is not None:
                listener.setsockopt(
                    socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer_bytes
                )  # its connections have it too
            listener.bind(where)
            listener.listen(BACKLOG)
        except BaseException:
            listener.close()
            raise
    except OSError as error:
        raise OperatorError(
            f"Nothing can listen at {host}:{port} ({error.strerror or error}): choose another {setting}."
        ) from error
    return listener


def url_of(listener: socket.socket) -> str:
    """Where a socket listens, as `http://host:port`."""
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
