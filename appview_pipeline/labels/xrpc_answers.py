"""Answers over HTTP as XRPC has them: JSON, and errors as `{error, message}` (https://atproto.com/specs/xrpc)."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response

from appview_pipeline import backoff

DATABASE_AWAY = "The database is away. Try again soon."


class Refused(Exception):
    """A request that is not answered: HTTP status, name of the error, and what is wrong, for people."""

    def __init__(self, status: int, error: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.error = error
        self.message = message


def invalid(message: str) -> Refused:
    """A request that the client has to change."""
    return Refused(400, "InvalidRequest", message)


def unavailable(message: str) -> Refused:
    """A request that may succeed later."""
    return Refused(503, "NotEnoughResources", message)


def error_answer(refused: Refused) -> Response:
    """The answer that says so."""
    headers = {"Retry-After": str(backoff.LABELS_RETRY_AFTER)} if refused.status == 503 else None
    return JSONResponse({"error": refused.error, "message": refused.message}, refused.status, headers)


async def answer_refused(_: Request, error: Exception) -> Response:
    """The exception handler for `Refused`."""
    assert isinstance(error, Refused)
    return error_answer(error)


async def answer_http_error(_: Request, error: Exception) -> Response:
    """The exception handler for what the router refuses."""
    assert isinstance(error, HTTPException)
    name = "NotFound" if error.status_code == 404 else "InvalidRequest"
    return JSONResponse({"error": name, "message": error.detail}, error.status_code, error.headers)


async def answer_defect(_: Request, __: Exception) -> Response:
    """The exception handler for defects of ours; the server logs them."""
    return JSONResponse({"error": "InternalServerError", "message": "Internal Server Error"}, 500)


def number(connection: HTTPConnection, name: str, low: int, high: int) -> int | None:
    """A parameter that is a whole number; None where it is absent or empty. Raises `Refused`."""
    texts = connection.query_params.getlist(name)
    if not texts or texts == [""]:
        return None
    if len(texts) == 1 and texts[0].isascii() and texts[0].isdigit() and len(texts[0]) <= 20:
        value = int(texts[0])
        if low <= value <= high:
            return value
    raise invalid(f"{name} must be a whole number from {low} to {high}.")
