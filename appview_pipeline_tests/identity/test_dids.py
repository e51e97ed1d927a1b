"""Resolution of DIDs: which URL is asked, and what each answer means."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import orjson
import pytest

from appview_pipeline.identity.dids import Resolution, resolve_did
from appview_pipeline.identity.documents import MAX_DOCUMENT_BYTES, parse_document
from appview_pipeline.network.fetch_errors import FetchError, Kind
from appview_pipeline.network.xrpc import Answer, Client
from appview_pipeline.settings import Settings, load
from appview_pipeline_tests.simulated_network import SimulatedNetwork, World
from appview_pipeline_tests.simulated_network.http_service import Answer as Served
from appview_pipeline_tests.simulated_network.http_service import HttpService, Parameters, json_answer

PLC = "did:plc:ewvi7nxzyoun6zhxrhs64oiz"
WEB = "did:web:somebody.example.com"
PUBLIC = Settings()
PRIVATE = Settings(allow_private_hosts=True, plc_url="http://127.0.0.1:2582")


class ScriptedClient(Client):
    """Gives one answer, or raises it, and keeps what it was asked."""

    def __init__(self, given: Answer | FetchError) -> None:
        super().__init__(PUBLIC)
        self.given = given
        self.asked: list[tuple[str, int, int]] = []

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
        assert is_trusted == url.startswith(("https://plc.directory/", "http://127.0.0.1:2582/"))
        self.asked.append((url, max_bytes, redirects))
        if isinstance(self.given, FetchError):
            raise self.given
        return self.given


def answer(status: int = 200, body: bytes = b"") -> Answer:
    return Answer("https://somewhere", status, {}, body)


def document(did: str, **changes: Any) -> dict[str, Any]:
    return {
        "id": did,
        "alsoKnownAs": ["at://a.test"],
        "verificationMethod": [
            {
                "id": "#atproto",
                "type": "Multikey",
                "controller": did,
                "publicKeyMultibase": "zQ3shXjHeiBuRCKmM36cuYnm7YEMzhGnCmCyW92sRJ9pribSF",
            }
        ],
        "service": [
            {"id": "#atproto_pds", "type": "AtprotoPersonalDataServer", "serviceEndpoint": "http://localhost:2583"}
        ],
        **changes,
    }


def resolve(did: str, given: Answer | FetchError, settings: Settings = PUBLIC) -> Resolution:
    return resolve_did(ScriptedClient(given), settings, did)


@pytest.mark.parametrize(
    ("did", "settings", "url"),
    [
        (PLC, PUBLIC, f"https://plc.directory/{PLC}"),
        (PLC, PRIVATE, f"http://127.0.0.1:2582/{PLC}"),
        (WEB, PUBLIC, "https://somebody.example.com/.well-known/did.json"),
        ("did:web:Somebody.Example.com", PUBLIC, "https://somebody.example.com/.well-known/did.json"),
        (WEB, PRIVATE, "https://somebody.example.com/.well-known/did.json"),
        ("did:web:localhost%3A2583", PRIVATE, "http://localhost:2583/.well-known/did.json"),
        ("did:web:localhost%3a2583", PRIVATE, "http://localhost:2583/.well-known/did.json"),
        ("did:web:localhost", PRIVATE, "http://localhost/.well-known/did.json"),
        ("did:web:127.0.0.1%3A80", PRIVATE, "http://127.0.0.1:80/.well-known/did.json"),
        ("did:web:pds.test%3A8080", PRIVATE, "http://pds.test:8080/.well-known/did.json"),
    ],
)
def test_one_request_is_made(did: str, settings: Settings, url: str) -> None:
    client = ScriptedClient(answer(200, orjson.dumps(document(did))))
    found = resolve_did(client, settings, did)
    assert client.asked == [(url, MAX_DOCUMENT_BYTES, 0)]
    assert (found.did, found.state, found.source, found.reason) == (did, "found", did.split(":")[1], None)
    expected = parse_document(did, document(did), plain_http=settings.allow_private_hosts)
    assert found.document == expected and expected.pds == ("http://localhost:2583" if settings is PRIVATE else None)
    assert found.json is not None and orjson.loads(found.json) == document(did)


@pytest.mark.parametrize(
    ("did", "settings", "reason"),
    [
        ("did:plc:ewvi7nxzyoun6zhxrhs64oi", PUBLIC, "a did:plc has 24 characters"),
        ("did:plc:EWVI7nxzyoun6zhxrhs64oiz", PUBLIC, "a did:plc has 24 characters"),
        ("did:plc:", PUBLIC, "it is not a DID"),
        (PLC + "\n", PUBLIC, "it is not a DID"),
        ("did:web:a.test/../x", PUBLIC, "it is not a DID"),
        ("did:web:" + "a" * 2_048, PUBLIC, "the DID has more than 2,048 characters"),
        ("did:key:zQ3shXjHeiBuRCKmM36cuYnm7YEMzhGnCmCyW92sRJ9pribSF", PUBLIC, "DIDs of the method key are not part"),
        ("did:" + "x" * 1_000 + ":a", PUBLIC, "DIDs of the method xxxxxxxxxxxxxxxxxxxx are not part"),
        ("did:web:a.test:path", PUBLIC, "without a path"),
        ("did:web:a.test:path", PRIVATE, "without a path"),
        ("did:web:a.test%3A443", PUBLIC, "without a port"),
        ("did:web:localhost", PUBLIC, "names no host of the public network"),
        ("did:web:127.0.0.1", PUBLIC, "names no host of the public network"),
        ("did:web:a%2Fb.test", PUBLIC, "names no host of the public network"),
        ("did:web:a_b.test", PUBLIC, "names no host of the public network"),
        ("did:web:a%2Fb.test", PRIVATE, "names no valid host"),
        ("did:web:a.test%3A0", PRIVATE, "names no valid host"),
        ("did:web:a.test%3A65536", PRIVATE, "names no valid host"),
        ("did:web:a.test%3A80%40evil.test", PRIVATE, "names no valid host"),
        ("did:web:%3A80", PRIVATE, "names no valid host"),
        ("", PUBLIC, "it is not a DID"),
        ("a.test", PUBLIC, "it is not a DID"),
    ],
)
def test_a_did_that_can_not_be_resolved_is_asked_of_nobody(did: str, settings: Settings, reason: str) -> None:
    client = ScriptedClient(answer())
    found = resolve_did(client, settings, did)
    assert client.asked == []
    assert (found.state, found.source, found.document, found.json) == ("invalid", None, None, None)
    assert found.reason is not None and reason in found.reason


@pytest.mark.parametrize(
    ("did", "given", "state", "reason"),
    [
        (PLC, answer(404), "not found", "the PLC directory does not know the DID (status 404)"),
        (PLC, answer(410, b'{"message":"DID not available"}'), "tombstoned", "its last operation is a tombstone"),
        (PLC, answer(410), None, "the PLC directory gave no document: it answered with status 410"),
        (PLC, answer(410, b"<html>Gone"), None, "the PLC directory gave no document: it answered with status 410"),
        (PLC, answer(400), None, "the PLC directory gave no document: it answered with status 400"),
        (PLC, answer(302), None, "the PLC directory gave no document: it answered with status 302"),
        (WEB, answer(404), "not found", "somebody.example.com has no DID document (status 404)"),
        (WEB, answer(410), "not found", "somebody.example.com has no DID document (status 410)"),
        (WEB, answer(403), None, "somebody.example.com gave no document: it answered with status 403"),
        (WEB, answer(204), None, "somebody.example.com gave no document: it answered with status 204"),
        (WEB, answer(200, b"<html>"), "invalid", "the answer is a web page, not JSON"),
        (PLC, answer(200, b""), "invalid", "the answer is empty"),
        (PLC, answer(200, b"[" * 100_000), "invalid", "the answer is not JSON"),
        (PLC, answer(200, orjson.dumps(document(WEB))), "invalid", "the document is of another DID"),
    ],
)
def test_what_an_answer_means(did: str, given: Answer, state: str | None, reason: str) -> None:
    found = resolve(did, given)
    assert (found.state, found.source, found.document, found.json) == (state, did.split(":")[1], None, None)
    assert found.reason is not None and reason in found.reason
    assert found.blames_account and found.retry_after is None


@pytest.mark.parametrize(
    ("kind", "of_plc", "of_web"),
    [
        ("too big", "invalid", "invalid"),
        ("redirect", None, "invalid"),
        ("encoding", None, "invalid"),
        ("refused address", None, "invalid"),
        ("url", None, "invalid"),
        ("name", None, None),
        ("connection", None, None),
        ("tls", None, None),
        ("timeout", None, None),
        ("status", None, None),
    ],
)
def test_what_no_answer_means(kind: Kind, of_plc: str | None, of_web: str | None) -> None:
    for did, state, asked in ((PLC, of_plc, "the PLC directory"), (WEB, of_web, "somebody.example.com")):
        found = resolve(did, FetchError(kind, "it went wrong"))
        assert (found.state, found.reason) == (state, f"{asked} gave no document: it went wrong")
        assert found.blames_account


def test_a_host_that_asks_for_a_pause_is_no_fault_of_the_account() -> None:
    for kind in ("parked", "breaker open"):
        error = FetchError(kind, "it asked for a pause", retry_after=90.0, blames_account=False)
        for did in (PLC, WEB):
            found = resolve(did, error)
            assert (found.state, found.retry_after, found.blames_account) == (None, 90.0, False)


# ----------------------------------------------------------------------------------------------------------------------
# Over real sockets


@pytest.fixture(scope="module")
def network() -> Iterator[SimulatedNetwork]:
    with SimulatedNetwork(World(12, 5, start=1_790_000_000, pasts=())) as network:
        yield network


@pytest.fixture
def client(network: SimulatedNetwork) -> Iterator[Client]:
    with Client(settings_of(network)) as client:
        yield client


def settings_of(network: SimulatedNetwork) -> Settings:
    return replace(load(network.environment()), fetch_seconds=1.0, fetch_read_seconds=0.5)


def test_accounts_of_a_network_are_found(network: SimulatedNetwork, client: Client) -> None:
    accounts = [author.account for author in network.world.authors]
    for account in accounts:
        found = resolve_did(client, settings_of(network), account.did)
        assert found.state == "found" and found.document is not None and found.document.problems == ()
        assert (found.document.handle, found.document.pds) == (account.handle, network.pds.url)
        assert found.json is not None and orjson.loads(found.json) == account.document()
    assert resolve_did(client, settings_of(network), "did:plc:" + "a" * 24).state == "not found"


@pytest.mark.parametrize(
    ("kind", "state", "reason"),
    [
        ("hang", None, "sent nothing"),
        ("fail", None, "HTTP 500"),
        ("huge", "invalid", "more than 256,000 bytes"),
        ("drip", None, "gave no document"),
        ("missing", "not found", "does not know the DID"),
        ("gone", "tombstoned", "its last operation is a tombstone"),
        ("limited", None, "is left alone for 900 s"),
        ("garbage", "invalid", ""),
    ],
)
def test_each_fault_ends_in_a_reason(
    network: SimulatedNetwork, client: Client, kind: str, state: str | None, reason: str
) -> None:
    did, other = (author.account.did for author in network.world.authors[:2])
    network.plc.faults.named = {did: kind}
    network.plc.faults.retry_after = 3_600
    network.plc.faults.drip_seconds = 0.1
    try:
        began = time.monotonic()
        found = resolve_did(client, settings_of(network), did)
        assert time.monotonic() - began < 3
    finally:
        network.plc.faults.named = {}
    assert found.state == state and found.document is None
    assert found.reason is not None and reason in found.reason
    assert found.blames_account == (kind != "limited")
    beside = resolve_did(client, settings_of(network), other)
    assert beside.state == (None if kind == "limited" else "found")
    if kind == "limited":
        assert beside.retry_after is not None and 800 < beside.retry_after <= 900 and not beside.blames_account


class WebServer(HttpService):
    """The host of a did:web, which gives one answer to every request for its document."""

    answer = json_answer({})

    def get(self, path: str, parameters: Parameters, host: str) -> Served:
        return self.answer if path == "/.well-known/did.json" else Served(status=404)

    @property
    def did(self) -> str:
        return f"did:web:127.0.0.1%3A{self.port}"


@pytest.fixture(scope="module")
def web() -> Iterator[WebServer]:
    server = WebServer()
    server.start()
    yield server
    server.stop()


def test_a_did_web_is_asked_at_its_host(network: SimulatedNetwork, client: Client, web: WebServer) -> None:
    web.answer = json_answer(document(web.did))
    found = resolve_did(client, settings_of(network), web.did)
    assert found.state == "found" and found.document is not None and found.document.problems == ()
    with Client(PUBLIC) as public:
        requests = len(web.requests)
        assert resolve_did(public, PUBLIC, web.did).state == "invalid"
        assert len(web.requests) == requests


@pytest.mark.parametrize(
    ("served", "state", "reason"),
    [
        (Served(status=302, headers={"Location": "http://169.254.169.254/"}), "invalid", "redirects to"),
        (Served(status=200, headers={"Content-Encoding": "gzip"}, body=b"\x1f\x8b"), "invalid", "content encoding"),
        (Served(b'{"id": "', filled_to=50_000_000), "invalid", "more than 256,000 bytes"),
        (Served(b'{"a": ' * 20_000), "invalid", "is not JSON"),
        (Served(b"<html>not found</html>"), "invalid", "a web page"),
        (Served(status=404), "not found", "has no DID document"),
        (Served(status=503), None, "is left alone"),
    ],
    ids=["redirect", "encoding", "huge", "deep", "page", "missing", "limited"],
)
def test_what_a_host_of_a_did_web_can_do(
    network: SimulatedNetwork, client: Client, web: WebServer, served: Served, state: str | None, reason: str
) -> None:
    web.answer = served
    found = resolve_did(client, settings_of(network), web.did)
    assert found.state == state
    assert found.reason is not None and reason in found.reason
