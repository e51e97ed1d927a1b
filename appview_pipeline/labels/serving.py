"""The label service for others: `appview-pipeline serve-labels` (docs/serving-labels.md).

Serves `com.atproto.label.subscribeLabels` (labels and negations as they take effect, resumed by a cursor) and
`com.atproto.label.queryLabels` (labels in effect), from the database alone: any number of such processes may run,
beside the pipeline or without it. All of them have the same sequence numbers.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from appview_pipeline import __version__, backoff
from appview_pipeline.errors import OperatorError
from appview_pipeline.identity.show import known_did
from appview_pipeline.labels.client_sockets import ClientSocket
from appview_pipeline.labels.label_queries import QUERY_LABELS, LabelQueries
from appview_pipeline.labels.label_streams import LabelStreams
from appview_pipeline.labels.live_feed import LiveFeed, ServedFeed
from appview_pipeline.labels.own_labeler import obstacles
from appview_pipeline.labels.xrpc_answers import (
    Refused,
    answer_defect,
    answer_http_error,
    answer_refused,
    error_answer,
)
from appview_pipeline.network.subscription import SUBSCRIBE_LABELS
from appview_pipeline.serving.listening import listen
from appview_pipeline.serving.server import HttpServer
from appview_pipeline.settings import Settings
from appview_pipeline.store.database import Database

log = logging.getLogger(__name__)

SEND_BUFFER_BYTES = 256 * 1024
"""What the kernel holds for a client that does not take it in. Its own tuning would go to some megabytes for each."""
MAX_MESSAGE_BYTES = 4_096
"""Size limit of what a client may send: the protocol has nothing for it to say."""
MORE_CONNECTIONS = 200
"""Connections beside those of the streams."""
_ABOUT = "This is a label service of the AT Protocol: see /xrpc/{stream} and /xrpc/{query}.\n"


def serve_labels(
    settings: Settings,
    database: Database,
    *,
    own: bool = False,
    sources: Collection[str] = (),
    unsigned: bool = False,
    started: Callable[[LabelServer], None] = lambda server: None,
) -> None:
    """Serves labels at `APPVIEW_LABELS_ADDRESS` until SIGTERM or SIGINT, or until the server is asked to stop.

    All sources by default, or those of `sources` (DIDs, or handles that are known), or only `APPVIEW_LABELER_DID`
    (`own`), as the service of a labeler has to. Labels without a signature only if `unsigned`. `started` is called once
    connections are accepted.

    Raises `OperatorError` for a mistake in the set-up, and what a defect of ours raised.
    """
    if own and settings.labeler_did is None:
        raise OperatorError("There are no labels of our own without APPVIEW_LABELER_DID: set it, or leave --own out.")
    if own and sources:
        raise OperatorError("Give either --own or --source.")
    named = [settings.labeler_did] if own and settings.labeler_did else [known_did(database, it) for it in sources]
    served = tuple(dict.fromkeys(named)) or None
    feed = ServedFeed(database, served, unsigned)
    newest = feed.bounds().newest
    if served is None or settings.labeler_did in served:
        for obstacle in obstacles(settings, database):
            log.warning("%s", obstacle)
    listener = listen(settings.labels_address, "APPVIEW_LABELS_ADDRESS", SEND_BUFFER_BYTES)
    LabelServer(feed, newest, listener, settings.labels_clients, started).run()


class LabelServer(HttpServer):
    """A server that listens on a socket."""

    def __init__(
        self,
        feed: ServedFeed,
        newest: int,
        listener: socket.socket,
        clients: int,
        started: Callable[[LabelServer], None],
    ) -> None:
        """`newest`: id of the newest label event. `clients`: limit of streams."""
        self._feed = feed
        self._newest = newest
        self._clients = clients
        self._started = started
        super().__init__(
            self._application(),
            listener,
            connections=clients + MORE_CONNECTIONS,
            websocket=ClientSocket,
            ws_max_size=MAX_MESSAGE_BYTES,
            ws_ping_interval=backoff.LABELS_PING_SECONDS,
            ws_ping_timeout=backoff.LABELS_PING_SECONDS,
            ws_per_message_deflate=False,  # labels are signatures and DIDs, which don't shrink
        )

    def _application(self) -> Starlette:
        @asynccontextmanager
        async def lifespan(application: Starlette) -> AsyncIterator[None]:
            live = LiveFeed(self._feed, self._newest, self.fail)
            streams = LabelStreams(self._feed, live, self._clients)
            queries = LabelQueries(self._feed)
            application.state.streams, application.state.queries = streams, queries
            live.start()
            log.info(
                "Serves labels at %s",
                self.url,
                extra={
                    "sources": "all" if self._feed.sources is None else ",".join(self._feed.sources),
                    "unsigned": self._feed.unsigned,
                    "newest": self._newest,
                },
            )
            self._started(self)
            try:
                yield
            finally:
                await live.stop()
                streams.close()
                queries.close()

        return Starlette(
            routes=[
                WebSocketRoute(f"/xrpc/{SUBSCRIBE_LABELS.method}", _subscribe),
                Route(f"/xrpc/{SUBSCRIBE_LABELS.method}", _upgrade),
                Route(f"/xrpc/{QUERY_LABELS}", _query),
                Route("/xrpc/_health", _health),
                Route("/xrpc/{method}", _unknown, methods=["GET", "POST"]),
                WebSocketRoute("/{path:path}", _unknown_stream),
                Route("/", _about),
            ],
            # Labels are public, and web pages may ask for them.
            middleware=[Middleware(CORSMiddleware, allow_origins=["*"], allow_methods=["GET"], allow_headers=["*"])],
            exception_handlers={
                Refused: answer_refused,
                HTTPException: answer_http_error,
                Exception: answer_defect,
            },
            lifespan=lifespan,
        )


async def _subscribe(websocket: WebSocket) -> None:
    streams: LabelStreams = websocket.app.state.streams
    await streams.serve(websocket)


async def _query(request: Request) -> Response:
    queries: LabelQueries = request.app.state.queries
    return await queries.answer(request)


async def _health(request: Request) -> Response:
    queries: LabelQueries = request.app.state.queries
    await queries.check()
    streams: LabelStreams = request.app.state.streams
    return JSONResponse({"version": __version__, "streams": streams.clients})


async def _upgrade(_: Request) -> Response:
    answer = error_answer(Refused(426, "InvalidRequest", "This is a stream: connect with a WebSocket."))
    answer.headers["Upgrade"] = "websocket"
    return answer


async def _unknown(_: Request) -> Response:
    raise Refused(501, "MethodNotImplemented", "Method Not Implemented")


async def _unknown_stream(websocket: WebSocket) -> None:
    await websocket.send_denial_response(error_answer(Refused(404, "NotFound", "There is no such stream.")))


async def _about(_: Request) -> Response:
    return PlainTextResponse(_ABOUT.format(stream=SUBSCRIBE_LABELS.method, query=QUERY_LABELS))
