"""Asks an AppView as an account of the simulated network, with a token that the account's key signs, as its PDS would.

Runs inside of the container `network` (session.py gives it to python's standard input):
python - URL SERVICE-DID DID METHOD [NAME=VALUE ...]
It calls a query; with a body of JSON instead of NAME=VALUE a procedure.
Prints one line of JSON: {"status": ..., "body": ...}. DID `-`: as nobody; `stranger:DID`: with another key.
"""

from __future__ import annotations

import base64
import json
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

from appview_pipeline_tests.simulated_network.accounts import Account, Key, make_key, sign

SEED, MOST_ACCOUNTS = 1, 10_000  # of the command's defaults


def key_of(did: str) -> Key:
    for index in range(MOST_ACCOUNTS):
        for p256 in (False, True):
            account = Account(SEED, index, 0, p256=p256)
            if account.did == did:
                return account.key
    raise SystemExit(f"{did} is no account of the simulated network")


def encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def token(key: Key, did: str, service: str, method: str) -> str:
    now = int(time.time())
    header = {"typ": "JWT", "alg": "ES256K" if type(key).__module__.startswith("coincurve") else "ES256"}
    claims = {"iss": did, "aud": service, "lxm": method, "iat": now, "exp": now + 60, "jti": f"{now}-{method}"}
    signed = f"{encoded(json.dumps(header).encode())}.{encoded(json.dumps(claims).encode())}"
    return f"{signed}.{encoded(sign(key, signed.encode()))}"


def main(url: str, service: str, did: str, method: str, *given: str) -> None:
    headers, body, query = {}, None, ""
    if did.startswith("stranger:"):
        did = did.partition(":")[2]
        headers["Authorization"] = f"Bearer {token(make_key('stranger'), did, service, method)}"
    elif did != "-":
        headers["Authorization"] = f"Bearer {token(key_of(did), did, service, method)}"
    if given and given[0].startswith("{"):
        body = given[0].encode()
        headers["Content-Type"] = "application/json"
    elif given:
        query = "?" + urllib.parse.urlencode([tuple(item.split("=", 1)) for item in given])
    try:
        request = urllib.request.Request(f"{url}/xrpc/{method}{query}", body, headers)  # noqa: S310 (http)
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 (http)
            status, text = answer.status, answer.read()
    except urllib.error.HTTPError as error:
        status, text = error.code, error.read()
    print(json.dumps({"status": status, "body": json.loads(text) if text else None}))


main(*sys.argv[1:])
