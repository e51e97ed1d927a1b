"""The label service for others, over real sockets: cursors, slow clients, queries, outages, ends."""

from __future__ import annotations

import base64
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import libipld
import pytest
from atproto import FirehoseSubscribeLabelsClient, parse_subscribe_labels_message
from websockets.exceptions import ConnectionClosed, ConnectionClosedError, InvalidStatus

from appview_pipeline import backoff
from appview_pipeline.errors import OperatorError
from appview_pipeline.labels import label_streams, live_feed
from appview_pipeline.labels.decoding import row_of
from appview_pipeline.labels.serving import serve_labels
from appview_pipeline.protocol.event_stream import Info, StreamError, control_of
from appview_pipeline.protocol.label import as_json, read_label, sign_label, verify_label
from appview_pipeline.protocol.signing import VerifyingKey, public_key_of, sign
from appview_pipeline.settings import Settings
from appview_pipeline.store.database import Database
from appview_pipeline_tests.support.checkout import CHECKOUT
from appview_pipeline_tests.support.database import run, run_sql
from appview_pipeline_tests.support.label_rows import apply_rows, label_row
from appview_pipeline_tests.support.label_service import (
    ANN,
    BOB,
    KEY,
    LabelServiceProcess,
    label_service,
    labels_in,
    signed_row,
    take,
)
from appview_pipeline_tests.support.ports import free_port
from appview_pipeline_tests.support.tables import rows
from appview_pipeline_tests.support.waiting import wait_for

LATE = 2**62
CID = "bafyreidfayvfuwqa7qlnopdjiqrxzs6blmoeu4rujcjtnci5beludirz2a"


def subjects(labels: list[dict[str, Any]]) -> list[str]:
    return [label["uri"] for label in labels]


def fits(label: dict[str, Any]) -> bool:
    return verify_label(VerifyingKey(public_key_of(KEY)), read_label(label, LATE), label) is not None


# ---------------------------------------------------------------------------------------------------------------------
# The stream.


def test_labels_come_as_they_were_signed(database: Database) -> None:
    apply_rows(
        database, [signed_row("did:plc:x"), signed_row("at://did:plc:x/a/1", cid=CID, exp="2099-01-01T00:00:00Z")]
    )
    with label_service(database) as service, service.connect("?cursor=0") as client:
        first, second = take(client, 2)
        assert {name: first[name] for name in ("ver", "src", "uri", "val", "cts")} == {
            "ver": 1,
            "src": ANN,
            "uri": "did:plc:x",
            "val": "spam",
            "cts": "2025-06-15T15:06:40.000Z",
        }
        assert "neg" not in first and "cid" not in first and "exp" not in first
        assert (second["cid"], second["exp"]) == (CID, "2099-01-01T00:00:00Z")
        apply_rows(database, [signed_row("did:plc:x", neg=True, cts="2025-06-16T00:00:00Z")])
        (negation,) = take(client, 1)
        assert negation["neg"] is True
        assert all(map(fits, (first, second, negation)))


def test_what_another_library_signed_stays_as_it_was(database: Database) -> None:
    """With `neg: false` under the signature."""
    label = sign_label(KEY, src=ANN, uri="did:plc:x", val="spam", cts="2025-06-15T15:06:40.000Z")
    value = {"ver": 1, "src": ANN, "uri": "did:plc:x", "val": "spam", "cts": label.cts, "neg": False}
    signed = libipld.encode_dag_cbor(value)
    label = replace(label, sig=sign(KEY, signed), signed=signed)
    apply_rows(database, [row_of(label, None)])
    with label_service(database) as service:
        with service.connect("?cursor=0") as client:
            (sent,) = take(client, 1)
        assert sent["neg"] is False
        assert libipld.encode_dag_cbor({name: it for name, it in sent.items() if name != "sig"}) == signed
        assert service.query("did:plc:x").body["labels"] == [as_json(label)]


def test_cursors(database: Database) -> None:
    apply_rows(database, [signed_row(f"did:plc:x{number}") for number in range(1, 6)])
    with label_service(database) as service:
        for query in ("", "?cursor="):
            with service.connect(query) as client:
                wait_for(lambda: service.streams == 1)
                apply_rows(database, [signed_row(f"did:plc:new{len(query)}")])
                assert subjects(take(client, 1)) == [f"did:plc:new{len(query)}"]
            wait_for(lambda: service.streams == 0)
        with service.connect("?cursor=3") as client:
            assert subjects(take(client, 4)) == ["did:plc:x4", "did:plc:x5", "did:plc:new0", "did:plc:new8"]
        with service.connect("?cursor=0") as client:
            seq, labels = labels_in(client.recv(30))
            assert (seq, len(labels)) == (7, 7)
        with service.connect("?cursor=8") as client:
            assert control_of(client.recv(30)) == StreamError(  # type: ignore[arg-type]
                "FutureCursor",
                "The cursor 8 lies in the future: the newest label event is 7. It is another database's, or this one "
                "was restored from an older copy: begin again with 0.",
            )
            with pytest.raises(ConnectionClosedError) as closed:
                client.recv(30)
            assert closed.value.rcvd is not None
            assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1008, "FutureCursor")
        run(database.url, f"INSERT INTO pipeline.label_swept VALUES ('{ANN}', 4)")
        with service.connect("?cursor=3") as client:
            info = control_of(client.recv(30))  # type: ignore[arg-type]
            assert isinstance(info, Info) and info.name == "OutdatedCursor"
            assert subjects(take(client, 4))[0] == "did:plc:x4"
        with service.connect("?cursor=4") as client:
            assert subjects(take(client, 3))[0] == "did:plc:x5"


@pytest.mark.parametrize("cursor", ["abc", "-1", "1.5", str(2**53), "1&cursor=2", "%D9%A3"])
def test_bad_cursors_are_refused(database: Database, cursor: str) -> None:
    with label_service(database) as service, pytest.raises(InvalidStatus) as refused:
        service.connect(f"?cursor={cursor}")
    assert refused.value.response.status_code == 400
    assert b'"error":"InvalidRequest","message":"cursor must be a whole number' in refused.value.response.body


def test_what_is_served_can_be_chosen(database: Database) -> None:
    apply_rows(
        database,
        [signed_row("did:plc:x"), signed_row("did:plc:y", src=BOB), label_row(BOB, "did:plc:z", "spam")],
    )
    chosen: list[tuple[dict[str, Any], list[str]]] = [
        ({}, ["did:plc:x", "did:plc:y"]),
        ({"unsigned": True}, ["did:plc:x", "did:plc:y", "did:plc:z"]),
        ({"sources": [BOB]}, ["did:plc:y"]),
        ({"own": True, "settings": Settings(labeler_did=ANN)}, ["did:plc:x"]),
    ]
    for options, expected in chosen:
        with label_service(database, **options) as service:
            with service.connect("?cursor=0") as client:
                assert subjects(take(client, len(expected))) == expected
            assert subjects(service.query("did:plc:*").body["labels"]) == expected
            others = service.query("did:plc:*", sources=["did:plc:" + "c" * 24])
            assert (others.status, others.body) == (200, {"labels": []})


def test_a_labeler_of_our_own_needs_its_did(database: Database) -> None:
    with pytest.raises(OperatorError, match="set it, or leave --own out"), label_service(database, own=True):
        pass


def test_a_source_that_is_no_labeler_is_a_sentence(database: Database) -> None:
    with (
        pytest.raises(OperatorError, match="'x' is neither a DID nor a handle"),
        label_service(database, sources=["x"]),
    ):
        pass


def test_an_address_that_is_taken_is_a_sentence(database: Database) -> None:
    with label_service(database) as service, pytest.raises(OperatorError, match="choose another APPVIEW_LABELS_ADD"):
        serve_labels(Settings(labels_address=("127.0.0.1", service.port)), database)


def test_the_published_python_client_reads_it(database: Database) -> None:
    apply_rows(database, [signed_row(f"did:plc:x{number}") for number in range(120)])
    with label_service(database) as service:
        client = FirehoseSubscribeLabelsClient({"cursor": 0}, base_uri=f"{service.url}/xrpc")
        found: list[Any] = []

        def take_in(message: Any) -> None:
            found.extend(parse_subscribe_labels_message(message).labels)
            if len(found) == 121:
                client.stop()
            elif len(found) == 120:
                apply_rows(database, [signed_row("did:plc:x0", neg=True, cts="2025-06-16T00:00:00Z")])

        client.start(take_in)
    assert [label.uri for label in found] == [*(f"did:plc:x{number}" for number in range(120)), "did:plc:x0"]
    assert found[-1].neg and found[0].src == ANN and found[0].ver == 1


def test_clients_beside_writers_get_all_labels_once_in_order(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever comes from the past and whatever is new: pages, parts and frames are small here, so that each client
    crosses between the two again and again."""
    monkeypatch.setattr(live_feed, "PAGE", 5)
    monkeypatch.setattr(label_streams, "PAGE", 7)
    monkeypatch.setattr(live_feed, "MAX_PARTS", 2)
    monkeypatch.setattr(live_feed, "MAX_FRAME_LABELS", 2)
    writers, batches, labels = 3, 12, 4
    total = writers * batches * labels

    def write(writer: int) -> None:
        for batch in range(batches):
            apply_rows(database, [signed_row(f"did:plc:x{writer}-{batch}-{number}") for number in range(labels)])

    def read(number: int) -> list[int]:
        random, cursor = Random(number), 0
        seen: list[int] = []
        while len(seen) < total:  # more would be repeated ones
            with service.connect(f"?cursor={cursor}") as client:
                for _ in range(random.randrange(1, 60)):
                    if len(seen) >= total:
                        break
                    cursor, sent = labels_in(client.recv(30))
                    seen += (seqs[label["uri"]] for label in sent)
                    assert seen[-1] == cursor
                    if random.random() < 0.1:
                        time.sleep(random.random() / 50)
        return seen

    seqs = _Ids(database)
    with label_service(database) as service, ThreadPoolExecutor(6) as pool:
        reading = [pool.submit(read, number) for number in range(3)]
        list(pool.map(write, range(writers)))
        expected = [row[0] for row in rows(database.url, "SELECT id FROM pipeline.label_event ORDER BY id")]
        assert len(expected) == total
        assert all(future.result(60) == expected for future in reading)


class _Ids(dict[str, int]):
    """The id of the label event of each subject."""

    def __init__(self, database: Database) -> None:
        super().__init__()
        self._database = database

    def __missing__(self, subject: str) -> int:
        self.update(rows(self._database.url, "SELECT uri, id FROM pipeline.label_event"))
        return self[subject]


# ---------------------------------------------------------------------------------------------------------------------
# Clients that do not behave.


def test_a_client_that_takes_nothing_in_is_told_and_dropped(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backoff, "LABELS_SEND_SECONDS", 0.3)
    apply_rows(database, [signed_row(f"at://did:plc:x/a/{'x' * 900}{number}") for number in range(6_000)])
    with label_service(database) as service:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 10_000)
        sock.connect(("127.0.0.1", service.port))
        with service.connect("?cursor=0", sock=sock, max_queue=1) as client:
            wait_for(lambda: service.streams == 0)
            # What it did take in is in order, and the last frame says why it was the last.
            last, count = None, 0
            with pytest.raises(ConnectionClosed) as closed:
                while True:
                    last = client.recv(30)
                    count += 1
            assert isinstance(last, bytes)
            error = control_of(last)
            assert isinstance(error, StreamError) and error.name == "ConsumerTooSlow"
            assert error.message == "No label was taken in for 0.3 s."
            assert closed.value.rcvd is not None and closed.value.rcvd.code == 1008
            assert 0 < count < 120


def test_a_client_that_never_takes_anything_in_again_is_cut_off(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backoff, "LABELS_SEND_SECONDS", 0.2)
    monkeypatch.setattr(backoff, "LABELS_CLOSE_SECONDS", 0.2)
    apply_rows(database, [signed_row(f"at://did:plc:x/a/{'x' * 900}{number}") for number in range(6_000)])
    with label_service(database) as service, socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 10_000)
        sock.connect(("127.0.0.1", service.port))
        key = base64.b64encode(bytes(16)).decode()
        sock.sendall(
            f"GET /xrpc/com.atproto.label.subscribeLabels?cursor=0 HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        wait_for(lambda: service.streams == 1)
        wait_for(lambda: not connections_to(service.port, sock.getsockname()[1]))


def connections_to(port: int, client: int) -> list[str]:
    """The server's side of a client's connection, as the kernel lists it: established, and not only buffered data."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
    ends = [(line[1].rpartition(":")[2], line[2].rpartition(":")[2], line[3]) for line in lines]
    return [state for here, there, state in ends if (here, there, state) == (f"{port:04X}", f"{client:04X}", "01")]


def test_a_client_that_the_feed_runs_away_from_is_too_slow(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_feed, "MAX_BYTES", 200_000)
    with label_service(database) as service:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 10_000)
        sock.connect(("127.0.0.1", service.port))
        with service.connect("", sock=sock, max_queue=1) as client, service.connect("") as quick:
            wait_for(lambda: service.streams == 2)
            for batch in range(8):
                said = [signed_row(f"at://did:plc:x/a/{'x' * 900}{batch}-{number}") for number in range(500)]
                apply_rows(database, said)
                assert len(take(quick, 500)) == 500
            error, began = None, time.monotonic()
            with pytest.raises(ConnectionClosed):
                while time.monotonic() - began < 30:
                    error = control_of(client.recv(30))  # type: ignore[arg-type]
            assert isinstance(error, StreamError)
            assert (error.name, error.message) == ("ConsumerTooSlow", "Labels come faster than they were taken in.")


def test_there_is_a_limit_of_clients(database: Database) -> None:
    with label_service(database, settings=Settings(labels_clients=1)) as service:
        with service.connect(), pytest.raises(InvalidStatus) as refused:
            service.connect()
        assert refused.value.response.status_code == 503
        assert refused.value.response.headers["Retry-After"] == "30"
        assert b"NotEnoughResources" in refused.value.response.body
        wait_for(lambda: service.streams == 0)
        with service.connect():
            pass


def test_what_clients_say_means_nothing(database: Database) -> None:
    with label_service(database) as service:
        with service.connect() as client:
            for _ in range(50):
                client.send(b"labels, please")
            apply_rows(database, [signed_row("did:plc:x")])
            assert subjects(take(client, 1)) == ["did:plc:x"]
        with service.connect() as client, pytest.raises(ConnectionClosed) as closed:
            client.send(b"x" * 100_000)
            client.recv(30)
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 1009


def test_clients_are_pinged(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that does not answer is dropped."""
    monkeypatch.setattr(backoff, "LABELS_PING_SECONDS", 0.2)
    with label_service(database) as service, socket.create_connection(("127.0.0.1", service.port)) as sock:
        sock.sendall(
            b"GET /xrpc/com.atproto.label.subscribeLabels HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n"
            b"Connection: Upgrade\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        wait_for(lambda: service.streams == 1)
        wait_for(lambda: service.streams == 0)


# ---------------------------------------------------------------------------------------------------------------------
# Queries.


def test_queries(database: Database) -> None:
    cts = "2025-06-16T00:00:00Z"
    apply_rows(
        database,
        [
            signed_row("did:plc:x"),
            signed_row("at://did:plc:x/a/1", cid=CID),
            signed_row("at://did:plc:x/a/1", "rude", src=BOB),
            signed_row("at://did:plc:x/a/2", exp="2025-06-17T00:00:00Z"),
            signed_row("at://did:plc:x/a/3"),
            signed_row("at://did:plc:x/a/3", neg=True, cts=cts),
            label_row(ANN, "at://did:plc:x/a/4", "spam"),
            signed_row("at://did:plc:xyz/a/1"),
        ],
    )
    with label_service(database) as service:
        answer = service.query("at://did:plc:x/*")
        assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (200, "*")
        assert answer.headers["Content-Type"] == "application/json"
        first, second = answer.body["labels"]
        assert (first["uri"], first["cid"], first["src"], "neg" in first) == ("at://did:plc:x/a/1", CID, ANN, False)
        assert second["val"] == "rude"
        sig = first.pop("sig")["$bytes"]
        assert fits({**first, "sig": base64.b64decode(sig + "=" * (-len(sig) % 4))})
        assert subjects(service.query("did:plc:x", "at://did:plc:xyz/a/1").body["labels"]) == [
            "at://did:plc:xyz/a/1",
            "did:plc:x",
        ]
        assert [it["val"] for it in service.query("at://did:plc:x/*", sources=[BOB]).body["labels"]] == ["rude"]
        assert service.query("at://did:plc:nobody/*").body == {"labels": []}
        pages: list[list[str]] = []
        cursor: dict[str, str] = {}
        while True:
            body = service.query("*", limit=2, **cursor).body
            pages.append(subjects(body["labels"]))
            if "cursor" not in body:
                break
            cursor = {"cursor": body["cursor"]}
        assert [subject for found in pages for subject in found] == [
            "did:plc:x",
            "at://did:plc:x/a/1",
            "at://did:plc:x/a/1",
            "at://did:plc:xyz/a/1",
        ]
        assert max(map(len, pages)) == 2


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({}, "uriPatterns is required"),
        ({"uriPatterns": "at://*/a"}, r"\* may only be the last character"),
        ({"uriPatterns": ["a"] * 101}, "No more than 100"),
        ({"uriPatterns": "*", "sources": "ann"}, "sources must be DIDs"),
        ({"uriPatterns": "*", "limit": "251"}, "limit must be a whole number from 1 to 250"),
        ({"uriPatterns": "*", "limit": "0"}, "limit must be"),
        ({"uriPatterns": "*", "cursor": "zzz"}, "cursor is none of this query"),
    ],
)
def test_bad_queries(database: Database, parameters: dict[str, Any], message: str) -> None:
    with label_service(database) as service:
        answer = service.get("/xrpc/com.atproto.label.queryLabels", **parameters)
    assert (answer.status, answer.body["error"]) == (400, "InvalidRequest")
    assert re.search(message, answer.body["message"])


def test_other_paths(database: Database) -> None:
    with label_service(database) as service:
        stream = service.get("/xrpc/com.atproto.label.subscribeLabels")
        assert (stream.status, stream.headers["Upgrade"]) == (426, "websocket")
        assert service.get("/xrpc/com.example.other").status == 501
        assert service.get("/nothing").body == {"error": "NotFound", "message": "Not Found"}
        assert service.get("/xrpc/_health").body == {"version": "0.1.0", "streams": 0}


# ---------------------------------------------------------------------------------------------------------------------
# Outages and ends.


def test_it_outlives_an_outage_of_the_database(database: Database, server: Any) -> None:
    apply_rows(database, [signed_row("did:plc:x")])
    name = database.url.rpartition("/")[2].partition("?")[0]
    with label_service(database) as service, service.connect("?cursor=0") as client:
        assert subjects(take(client, 1)) == ["did:plc:x"]
        run_sql(server, f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        run_sql(server, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", name)
        assert (service.query("*").status, service.get("/xrpc/_health").status) == (503, 503)
        with pytest.raises(InvalidStatus) as refused:
            service.connect("?cursor=1")
        assert refused.value.response.status_code == 503
        with service.connect() as newcomer:
            run_sql(server, f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
            apply_rows(database, [signed_row("did:plc:y")])
            assert subjects(take(client, 1)) == subjects(take(newcomer, 1)) == ["did:plc:y"]
        assert service.query("*").status == 200


def test_an_older_copy_of_the_database_ends_it(database: Database) -> None:
    """Clients have cursors that the copy has never given out. They are told when they come again, not left without."""
    apply_rows(database, [signed_row(f"did:plc:x{number}") for number in range(5)])
    with (
        pytest.raises(OperatorError, match="replaced by an older copy"),
        label_service(database) as service,
        service.connect("?cursor=0") as client,
    ):
        take(client, 5)
        run(database.url, "DELETE FROM pipeline.label_event WHERE id > 2")
        run(database.url, "SELECT setval('pipeline.label_event_id_seq', 2)")
        run(database.url, "NOTIFY appview_labels")
        with pytest.raises(ConnectionClosed):
            client.recv(30)
    with label_service(database) as service, service.connect("?cursor=5") as client:
        error = control_of(client.recv(30))  # type: ignore[arg-type]
        assert isinstance(error, StreamError) and error.name == "FutureCursor"


def test_the_process_ends_in_order(database: Database) -> None:
    """Clients are told to come back, and one that takes nothing in does not hold it up."""
    apply_rows(database, [signed_row(f"at://did:plc:x/a/{'x' * 900}{number}") for number in range(2_000)])
    service = LabelServiceProcess(database.url, free_port(), "--source", ANN)
    with service.service.connect("") as idle, socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 10_000)
        sock.connect(("127.0.0.1", service.service.port))
        stuck = service.service.connect("?cursor=0", sock=sock, max_queue=1)
        wait_for(lambda: service.service.streams == 2)
        assert service.end() < 6
        assert service.process.returncode == 0
        with pytest.raises(ConnectionClosed) as closed:
            idle.recv(30)
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 1012
        stuck.close_socket()
    assert any(f"sources={ANN}" in line for line in service.lines)


CLIENT = """
import sys
from appview_pipeline.backoff import Backoff
from appview_pipeline.network.subscription import SUBSCRIBE_LABELS, Subscription
from appview_pipeline.protocol.label_frames import read_labels_frame
backoff = Backoff(first=0.1, longest=0.5)
with Subscription(sys.argv[1], int(sys.argv[2]), stream=SUBSCRIBE_LABELS, backoff=backoff) as subscription:
    while True:
        for frame in subscription.take(100, 1.0):
            seq, labels = read_labels_frame(frame)
            print(seq, *(label["uri"] for label in labels), flush=True)
"""


class Reader:
    """A client in a process of its own: what it has reported is what it has stored."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.cursor = 0
        self.subjects: list[str] = []
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", CLIENT, self.url, str(self.cursor)], cwd=CHECKOUT, stdout=subprocess.PIPE, text=True
        )
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.endswith("\n"):
                seq, *found = line.split()
                self.cursor = int(seq)
                self.subjects += found

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.thread.join(30)


@pytest.mark.slow
def test_clients_go_on_after_kills_of_the_server_and_of_themselves(database: Database) -> None:
    """Nothing is missed; what is repeated is what the client had not stored yet, so here nothing."""
    port = free_port()
    service = LabelServiceProcess(database.url, port)
    readers = [Reader(service.service.url) for _ in range(2)]
    written = 0

    def write(count: int) -> None:
        nonlocal written
        apply_rows(database, [signed_row(f"did:plc:x{written + number}") for number in range(count)])
        written += count

    def until(condition: Callable[[], bool]) -> None:
        wait_for(condition, explain=lambda: f"{[len(reader.subjects) for reader in readers]} of {written}")

    try:
        write(300)
        until(lambda: all(reader.subjects for reader in readers))
        readers[0].kill()
        write(300)
        readers[0].start()
        write(300)
        service.end(signal.SIGKILL)
        write(300)
        service = LabelServiceProcess(database.url, port)
        write(300)
        until(lambda: all(len(reader.subjects) >= written for reader in readers))
        expected = [f"did:plc:x{number}" for number in range(written)]
        assert all(reader.subjects == expected for reader in readers)
    finally:
        for reader in readers:
            reader.kill()
        service.end(signal.SIGKILL)
