"""`com.atproto.label.queryLabels`, served: the labels in effect of subjects.

Negated and expired labels are left out, since the lexicon promises relevant ones, and a client that looks at neither
`neg` nor `exp` would show them. (Ozone gives them out, as the newest of their key.) They are in the stream.
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from appview_pipeline.errors import OperatorError
from appview_pipeline.labels.live_feed import ServedFeed
from appview_pipeline.labels.stored_label import label_to_send
from appview_pipeline.labels.xrpc_answers import DATABASE_AWAY, invalid, number, unavailable
from appview_pipeline.protocol.label import as_json
from appview_pipeline.protocol.syntax import is_did
from appview_pipeline.store.errors import DatabaseError
from appview_pipeline.store.label_query import InvalidCursor, LabelPage, query_page

log = logging.getLogger(__name__)

QUERY_LABELS = "com.atproto.label.queryLabels"

THREADS = 2
"""Queries at the same time."""
MAX_LIMIT = 250
DEFAULT_LIMIT = 50
MAX_PATTERNS = 100
"""Patterns, and sources, in one query."""


class LabelQueries:
    """Answers queries about the labels that are served."""

    def __init__(self, feed: ServedFeed) -> None:
        self._feed = feed
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="label-queries")

    def close(self) -> None:
        """Ends the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def answer(self, request: Request) -> Response:
        """One page. Raises `Refused`."""
        asked = self._asked(request)
        if asked is None:
            return JSONResponse({"labels": []})
        try:
            page = await asyncio.get_running_loop().run_in_executor(self._threads, self._read, asked)
        except InvalidCursor as error:
            raise invalid(str(error)) from None
        except (DatabaseError, OperatorError) as error:
            log.warning("Labels can't be read (%s).", error)
            raise unavailable(DATABASE_AWAY) from None
        labels = [
            as_json(label_to_send(label)) for label in page.labels if self._feed.unsigned or label.sig is not None
        ]
        return JSONResponse({"labels": labels} if page.cursor is None else {"cursor": page.cursor, "labels": labels})

    async def check(self) -> None:
        """Raises `Refused` when the database is away."""
        try:
            await asyncio.get_running_loop().run_in_executor(self._threads, self._feed.bounds)
        except (DatabaseError, OperatorError):
            raise unavailable(DATABASE_AWAY) from None

    def _asked(self, request: Request) -> dict[str, Any] | None:
        """The parameters of the query; None where it can only have an empty answer. Raises `Refused`."""
        patterns = request.query_params.getlist("uriPatterns")
        sources = request.query_params.getlist("sources")
        cursors = request.query_params.getlist("cursor")
        if not patterns:
            raise invalid("uriPatterns is required: URIs, or prefixes of them that end with *.")
        if len(patterns) > MAX_PATTERNS or len(sources) > MAX_PATTERNS:
            raise invalid(f"No more than {MAX_PATTERNS} uriPatterns and sources at once.")
        if any("*" in pattern[:-1] for pattern in patterns):
            raise invalid("In uriPatterns, * may only be the last character.")
        if not all(map(is_did, sources)):
            raise invalid("sources must be DIDs.")
        if self._feed.sources is not None:
            sources = [source for source in self._feed.sources if not sources or source in sources]
            if not sources:
                return None
        return {
            "subjects": patterns,
            "sources": sources,
            "limit": number(request, "limit", 1, MAX_LIMIT) or DEFAULT_LIMIT,
            "cursor": cursors[0] if cursors and cursors[0] else None,
        }

    def _read(self, asked: dict[str, Any]) -> LabelPage:
        with self._feed.database.connect("reader") as connection:
            return query_page(connection, oldest_first=True, **asked)
