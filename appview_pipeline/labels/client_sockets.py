"""The server's side of a client's WebSocket: uvicorn's, and an end that does not wait for the client.

An application behind ASGI can only send when the client takes in what was sent before. A client that takes nothing in
could therefore neither be told why its stream ends, nor be got rid of.
"""

from __future__ import annotations

from typing import cast

from starlette.websockets import WebSocket
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from appview_pipeline import backoff


class ClientSocket(WebSocketsSansIOProtocol):
    """One client's connection. Used by the event loop's thread only."""

    async def run_asgi(self) -> None:
        """Runs the application, which finds the socket by `socket_of`."""
        self.scope["state"]["client_socket"] = self
        await super().run_asgi()

    @property
    def is_open(self) -> bool:
        """Whether frames can still be sent."""
        return not (self.close_sent or self.disconnected or self.transport.is_closing())

    @property
    def is_full(self) -> bool:
        """Whether the client has not taken in what was sent before; another frame would wait in memory."""
        return not self.writable.is_set()

    def end_with(self, frame: bytes, code: int, reason: str) -> None:
        """Sends a last frame and closes, behind all that the client has not taken in yet, without waiting for it."""
        if self.is_open:
            self.stop_keepalive()
            self.conn.send_binary(frame)
            self.conn.send_close(code, reason)
            self.transport.write(b"".join(self.conn.data_to_send()))
            self.close_sent = True
            self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
            # As after a close by the application: run_asgi then leaves the connection to the client's answer.
            self.close_timer = self.loop.call_later(self.close_timeout, self.transport.close)

    def give_up_soon(self) -> None:
        """Drops the connection once the client has had its time to take the last frames in."""
        if not self.disconnected:
            self.loop.call_later(backoff.LABELS_CLOSE_SECONDS, self.transport.abort)


def socket_of(websocket: WebSocket) -> ClientSocket:
    """The socket that an application's WebSocket is on."""
    return cast(ClientSocket, websocket.scope["state"]["client_socket"])
