"""The AppView asked as clients ask it: with the published Python SDK (`atproto`), whose models its answers must fit.

A PDS asks the AppView in the name of its accounts with a token that the account's key signs (service auth,
https://atproto.com/specs/xrpc#inter-service-authentication-jwt). So does this client; the AppView checks the signature
with the key in the account's DID document.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx
from atproto import Client
from atproto_client.models.base import UnknownUnionModel
from atproto_client.models.utils import get_model_as_dict
from atproto_client.request import Request
from coincurve import PrivateKey
from pydantic import BaseModel

from appview_pipeline_tests.simulated_network.accounts import Key, sign

TOKEN_SECONDS = 60


def service_token(key: Key, account: str, service: str, method: str, now: float | None = None) -> str:
    """A token with which `account` (DID) calls `method` (NSID) of `service` (DID), signed by the account's key."""
    seconds = int(time.time() if now is None else now)
    header = {"typ": "JWT", "alg": "ES256K" if isinstance(key, PrivateKey) else "ES256"}
    claims = {
        "iss": account,
        "aud": service,
        "lxm": method,
        "iat": seconds,
        "exp": seconds + TOKEN_SECONDS,
        "jti": f"{seconds}-{method}",
    }
    signed = ".".join(_base64(json.dumps(part).encode()) for part in (header, claims))
    return f"{signed}.{_base64(sign(key, signed.encode()))}"


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@dataclass(frozen=True)
class Account:
    """Who asks: an account of the network with its key."""

    did: str
    key: Key


@dataclass
class Call:
    """A request that was answered, for those who want to see it."""

    method: str
    parameters: dict[str, str]
    status: int
    headers: dict[str, str]
    body: Any


class AppViewRequest(Request):  # type: ignore[misc]
    """Sends requests to the AppView, each with the token of its method. `seen` is told of each answer."""

    def __init__(self, account: Account | None, service: str, seen: Callable[[Call], object] | None) -> None:
        super().__init__(timeout=60, verify=False)
        self.account, self.service, self.seen = account, service, seen

    def _send_request(self, method: str, url: str, **kwargs: Any) -> httpx.Response:
        headers = dict(kwargs.pop("headers", None) or {})
        name = urlsplit(url).path.rpartition("/")[2]
        if self.account is not None and "Authorization" not in headers:
            token = service_token(self.account.key, self.account.did, self.service, name)
            headers["Authorization"] = f"Bearer {token}"
        response = super()._send_request(method, url, headers=headers, **kwargs)
        if self.seen is not None:
            query = dict(response.request.url.params)
            self.seen(Call(name, query, response.status_code, dict(response.headers), response.json()))
        return response


def client(
    port: int,
    account: Account | None = None,
    *,
    service: str,
    labelers: str | None = None,
    seen: Callable[[Call], object] | None = None,
) -> Client:
    """The SDK's client of the AppView at `port`, as an account or as nobody. `service`: the AppView's DID. `labelers`:
    the header `atproto-accept-labelers`."""
    request = AppViewRequest(account, service, seen)
    if labelers is not None:
        request.add_additional_header("atproto-accept-labelers", labelers)
    return Client(base_url=f"http://127.0.0.1:{port}", request=request)


def to_the_end(ask: Callable[[dict[str, Any]], Any], items: str, limit: int, **parameters: Any) -> list[Any]:
    """All items of a list that is asked for page by page. Fails where a page is larger than asked for, or where they
    never end."""
    found: list[Any] = []
    cursor: str | None = None
    for _ in range(500):
        asked = {**parameters, "limit": limit} | ({"cursor": cursor} if cursor else {})
        answer = ask(asked)
        page = getattr(answer, items)
        assert len(page) <= limit
        found += page
        cursor = answer.cursor
        if not cursor:
            return found
    raise AssertionError(f"{items} do not end")


def unknown_parts(value: Any, path: str = "") -> Iterator[str]:
    """Where an answer has parts that the SDK knows no model of."""
    if isinstance(value, UnknownUnionModel):
        yield f"{path}: {value.py_type}"
    if isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from unknown_parts(getattr(value, name), f"{path}.{name}")
    elif isinstance(value, list | tuple):
        for number, it in enumerate(value):
            yield from unknown_parts(it, f"{path}[{number}]")


def as_json(answer: Any) -> Any:
    """An answer of the SDK as JSON."""
    return get_model_as_dict(answer)
