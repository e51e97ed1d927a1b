"""docker/appview/: how the published reference AppView is started, watched and ended, and what it may do.

Needs `just reference`. docs/serve.md says the same to operators; what stands there is started here.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import psycopg2.errors
import pytest

from appview_pipeline.store.database import Database
from appview_pipeline.store.database_url import libpq_url
from appview_pipeline.store.embedded.attach import EmbeddedPostgres
from appview_pipeline_tests.conformance.reference import packages as packages_module
from appview_pipeline_tests.conformance.reference.check import node_url, scratch_database
from appview_pipeline_tests.conformance.reference.packages import MANIFEST, NODE
from appview_pipeline_tests.conformance.reference.reader import (
    SERVE,
    Answer,
    Reader,
    environment,
    free_ports,
    serving,
    started,
)
from appview_pipeline_tests.support import http_server
from appview_pipeline_tests.support.checkout import CHECKOUT
from appview_pipeline_tests.support.frames import WHEN, Person, Stream, create, post
from appview_pipeline_tests.support.label_rows import apply_rows, label_row
from appview_pipeline_tests.support.ports import free_port
from appview_pipeline_tests.support.tables import fresh_database, replayed_frames, rows
from appview_pipeline_tests.support.waiting import wait_for

METHODS = Path(packages_module.__file__).with_name("methods.mjs")
ROLE = MANIFEST / "role.sql"
PARTS = ("bsync", "dataplane", "subscription", "appview")
DOCUMENT = (CHECKOUT / "docs" / "serve.md").read_text(encoding="utf-8")
ADMIN = "did:example:admin"
"""Whom `Reader` names to show the password of the admin, who may do this as anybody."""
LABELER = "did:plc:labelerlabelerlabelerlab"


def as_role(url: str) -> str:
    """The database's address for node, as the role that role.sql makes."""
    address = node_url(url)
    assert "://postgres@" in address
    return address.replace("://postgres@", "://appview_server@")


def name_of(url: str) -> str:
    return str(rows(url, "SELECT current_database()")[0][0])


def ask(port: int, path: str, body: Any = None) -> tuple[int, Any]:
    """Status and JSON of an answer; with a body, it is posted as JSON."""
    data = None if body is None else json.dumps(body).encode()
    request = Request(f"http://127.0.0.1:{port}{path}", data, {"content-type": "application/json"} if data else {})
    try:
        with urlopen(request, timeout=30) as answer:
            return answer.status, json.load(answer)
    except HTTPError as error:
        return error.code, json.load(error)


def said(variables: dict[str, str], *arguments: str) -> tuple[int, str]:
    """Exit code and last line of the program."""
    done = subprocess.run([NODE, SERVE, *arguments], env=variables, capture_output=True, text=True, timeout=120)
    line = (done.stdout + done.stderr).strip().splitlines()[-1]
    return done.returncode, json.loads(line).get("msg", line) if line.startswith("{") else line


@dataclass
class Served:
    """Ann and bob, the database that has them, and the AppView over it as docs/serve.md starts it."""

    database: Database
    ann: Person
    bob: Person
    reader: Reader
    process: subprocess.Popen[bytes]

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        return rows(self.database.url, statement)

    def becomes(self, statement: str, want: Any) -> None:
        wait_for(lambda: self.rows(statement) == want, explain=lambda: str(self.rows(statement)))


def documented_environment() -> dict[str, str]:
    """The file serve.env of docs/serve.md."""
    (block,) = re.findall(r"^```ini\n(.*?)^```", DOCUMENT, re.DOTALL | re.MULTILINE)
    return dict(line.split("=", 1) for line in block.splitlines())


@pytest.fixture(scope="module")
def served(
    server: EmbeddedPostgres, template_database: str, tmp_path_factory: pytest.TempPathFactory, packages: Path
) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("serve")
    with fresh_database(server, template_database) as database:
        ann, bob = (Person(stream, name) for stream in [Stream()] for name in ("ann", "bob"))
        profile = create("app.bsky.actor.profile/self", {"displayName": "Ann", "createdAt": WHEN})
        lists = [
            create(
                "app.bsky.graph.list/l", {"name": "a", "purpose": "app.bsky.graph.defs#curatelist", "createdAt": WHEN}
            ),
            create(
                "app.bsky.graph.starterpack/s",
                {"name": "a", "list": ann.uri("app.bsky.graph.list/l"), "createdAt": WHEN},
            ),
            create(
                "app.bsky.feed.generator/g", {"did": "did:web:feeds.example.com", "displayName": "a", "createdAt": WHEN}
            ),
        ]
        bobs = create("app.bsky.actor.profile/self", {"displayName": "Bob", "createdAt": WHEN})
        replayed_frames(
            database, folder, [ann.commit(profile, post("a", "of ann"), *lists), bob.commit(bobs, post("b", "b"))]
        )
        rows(database.url, "UPDATE bsky.actor SET handle = %s WHERE did = %s", "ann.test", ann.did)
        now = datetime.now(timezone.utc)
        labels = [
            label_row(LABELER, ann.did, f"ends-{hours:+d}", exp=f"{now + timedelta(hours=hours):%Y-%m-%dT%H:%M:%SZ}")
            for hours in (-1, 1)
        ]
        apply_rows(database, labels)
        # West of Greenwich, what has ended would last some hours longer.
        rows(database.url, f"ALTER DATABASE \"{name_of(database.url)}\" SET timezone = 'America/New_York'")
        rows(database.url, ROLE.read_text(encoding="utf-8"))
        rows(database.url, ROLE.read_text(encoding="utf-8"))
        try:
            with scratch_database(database.url) as bsync:
                rows(bsync, f'ALTER DATABASE "{name_of(bsync)}" OWNER TO appview_server')
                (folder / "signing-key").write_text(said(free_ports(packages), "new-key")[1])
                given = documented_environment()
                assert {"DATABASE_URL", "BSYNC_DB_POSTGRES_URL", "BSKY_SERVICE_SIGNING_KEY_FILE"} < given.keys()
                given["DATABASE_URL"] = as_role(database.url)
                given["BSYNC_DB_POSTGRES_URL"] = as_role(bsync)
                given["BSKY_SERVICE_SIGNING_KEY_FILE"] = str(folder / "signing-key")
                given["BSKY_ADMIN_PASSWORDS"] = "admin"  # what `Reader` shows
                given["MOD_SERVICE_DID"] = given["BSKY_LABELS_FROM_ISSUER_DIDS"] = LABELER
                (folder / "serve.env").write_text("".join(f"{name}={value}\n" for name, value in given.items()))
                log = folder / "serve.log"
                with started(free_ports(packages), log, f"--env-file={folder / 'serve.env'}") as (process, ports):
                    yield Served(database, ann, bob, Reader(ports["appview"], ports=ports), process)
        finally:
            rows(database.url, "DROP OWNED BY appview_server")
            rows(database.url, "DROP ROLE appview_server")


def test_what_the_documents_start_serves_profiles_and_feeds(served: Served) -> None:
    profile = served.reader.get("app.bsky.actor.getProfile", actor=served.ann.did)
    assert (profile.status, profile.body["displayName"]) == (200, "Ann")
    feed = served.reader.get("app.bsky.feed.getAuthorFeed", actor=served.ann.did)
    assert [item["post"]["record"]["text"] for item in feed.body["feed"]] == ["of ann"]
    status, document = ask(served.reader.ports["appview"], "/.well-known/did.json")
    given = documented_environment()
    assert (status, document["id"]) == (200, given["BSKY_SERVER_DID"])
    assert {service["serviceEndpoint"] for service in document["service"]} == {given["BSKY_PUBLIC_URL"]}


def test_health_is_asked_of_every_part(served: Served) -> None:
    port = served.reader.ports["health"]
    assert ask(port, "/readyz") == (200, {"status": "ok", "parts": dict.fromkeys(PARTS, "ok")})
    assert ask(port, "/livez") == (200, {"status": "ok"})
    assert ask(port, "/")[0] == 404


def test_labels_end_on_time_whatever_the_time_zone_of_the_database(served: Served) -> None:
    assert served.rows("SHOW timezone") == [("America/New_York",)]
    found = served.reader.get("app.bsky.actor.getProfile", actor=served.ann.did).body["labels"]
    assert [label["val"] for label in found] == ["ends-+1"]


def test_all_ports_are_of_the_loopback_address_only(served: Served) -> None:
    for name, port in served.reader.ports.items():
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) == 0, name
        with socket.socket() as probe:  # an address of this machine, too
            assert probe.connect_ex(("127.0.0.2", port)) != 0, f"{name} listens on every address"


def test_the_role_writes_what_accounts_keep_to_themselves(served: Served) -> None:
    ann, bob, reader = served.ann.did, served.bob.did, served.reader
    uri = served.bob.uri("app.bsky.feed.post/b")
    (cid,) = served.rows(f"SELECT cid FROM bsky.post WHERE uri = '{uri}'")[0]
    draft = {"posts": [{"text": "a draft"}]}
    notify = {"post": True, "reply": False}
    done = [
        reader.post("app.bsky.graph.muteActor", ann, actor=bob),
        reader.post("app.bsky.graph.muteActorList", ann, list=served.bob.uri("app.bsky.graph.list/l")),
        reader.post("app.bsky.graph.muteThread", ann, root=uri),
        reader.post("app.bsky.bookmark.createBookmark", ann, uri=uri, cid=cid),
        reader.post("app.bsky.draft.createDraft", ann, draft=draft),
        reader.post("app.bsky.notification.putActivitySubscription", ann, subject=bob, activitySubscription=notify),
        reader.post("app.bsky.notification.putPreferences", ann, priority=True),
        reader.post("app.bsky.notification.updateSeen", ann, seenAt=WHEN),
    ]
    assert [answer.status for answer in done] == [200] * len(done), done
    for table in ("mute", "list_mute", "thread_mute", "bookmark", "draft", "activity_subscription", "private_data"):
        wait_for(lambda table=table: served.rows(f"SELECT FROM bsky.{table}"), explain=lambda table=table: table)  # type: ignore[misc]
    served.becomes(f"SELECT \"bookmarkCount\" FROM bsky.post_agg WHERE uri = '{uri}'", [(1,)])
    served.becomes('SELECT "priorityNotifs", "lastSeenNotifs" >= \'2025\' FROM bsky.actor_state', [(True, True)])
    assert reader.post("app.bsky.bookmark.deleteBookmark", ann, uri=uri).status == 200
    served.becomes(f"SELECT \"bookmarkCount\" FROM bsky.post_agg WHERE uri = '{uri}'", [(0,)])


def test_the_role_takes_down_and_back(served: Served) -> None:
    account = {"$type": "com.atproto.admin.defs#repoRef", "did": served.bob.did}
    uri = served.bob.uri("app.bsky.feed.post/b")
    (cid,) = served.rows(f"SELECT cid FROM bsky.post WHERE uri = '{uri}'")[0]
    record = {"$type": "com.atproto.repo.strongRef", "uri": uri, "cid": cid}
    blob = {"$type": "com.atproto.admin.defs#repoBlobRef", "did": served.bob.did, "cid": cid}
    for applied in (True, False):
        for subject in (account, record, blob):
            change = {"subject": subject, "takedown": {"applied": applied, "ref": "a reason"}}
            answer = served.reader.post("com.atproto.admin.updateSubjectStatus", ADMIN, **change)
            assert answer.status == 200, answer
        of_account = f"SELECT \"takedownRef\" IS NOT NULL FROM bsky.actor WHERE did = '{served.bob.did}'"
        of_record = f"SELECT \"takedownRef\" IS NOT NULL FROM bsky.record WHERE uri = '{uri}'"
        assert served.rows(of_account) == served.rows(of_record) == [(applied,)]
        assert served.rows("SELECT count(*) FROM bsky.blob_takedown") == [(int(applied),)]


def test_the_role_can_do_nothing_else(served: Served) -> None:
    address = libpq_url(served.database.url).replace("//postgres@", "//appview_server@")
    with closing(psycopg2.connect(address)) as connection:
        assert connection.info.user == "appview_server"
        refused = (
            "SELECT FROM pipeline.repo",
            "DELETE FROM bsky.of_later",
            "DELETE FROM bsky.post",
            "UPDATE bsky.record SET json = '{}'",
            "UPDATE bsky.actor SET handle = NULL",
            'UPDATE bsky.post_agg SET "likeCount" = 0',
            "CREATE TABLE bsky.its_own ()",
        )
        served.rows("CREATE TABLE bsky.of_later ()")  # a later migration's
        try:
            for statement in refused:
                with connection.cursor() as cursor, pytest.raises(psycopg2.errors.InsufficientPrivilege):
                    cursor.execute(statement)
                connection.rollback()
            with connection.cursor() as cursor:
                cursor.execute("SELECT FROM bsky.of_later")
        finally:
            connection.rollback()
            served.rows("DROP TABLE bsky.of_later")


# -- what works


def every_method(packages: Path) -> list[dict[str, Any]]:
    done = subprocess.run([NODE, METHODS, packages], capture_output=True, text=True, check=True, timeout=120)
    return [json.loads(line) for line in done.stdout.splitlines()]


def outcomes(served: Served, packages: Path) -> dict[str, Answer]:
    """The answer of every method, asked once by ann for what is indexed."""
    uri, cid = served.rows(f"SELECT uri, cid FROM bsky.post WHERE creator = '{served.bob.did}'")[0]
    mine = served.ann.uri
    subjects: dict[str, Any] = {
        **dict.fromkeys(("actor", "repo"), served.bob.did),
        **{name: [served.bob.did] for name in ("actors", "dids")},
        **dict.fromkeys(("uri", "root", "anchor"), uri),
        "uris": [uri],
        "cid": cid,
        "collection": "app.bsky.feed.post",
        "rkey": "b",
        "list": mine("app.bsky.graph.list/l"),
        "starterPack": mine("app.bsky.graph.starterpack/s"),
        "feed": mine("app.bsky.feed.generator/g"),
        "feeds": [mine("app.bsky.feed.generator/g")],
        "handle": "ann.test",
        "subject": served.bob.did,
        "activitySubscription": {"post": True, "reply": False},
        "priority": False,
        "seenAt": WHEN,
        "q": "ann",
        "url": "https://example.com",
        "id": "3l6oveex3ii2l",
        "email": "ann@example.com",
        "language": "en",
        "countryCode": "US",
        "token": "token",
        "contacts": ["+15550100"],
        "phone": "+15550100",
        "code": "1234",
        "from": served.ann.did,
        "to": served.bob.did,
        "serviceDid": "did:web:api.example.com",
        "platform": "ios",
        "appId": "app",
    }  # fmt: skip
    drafts = {
        "app.bsky.draft.createDraft": {"posts": [{"text": "a draft"}]},
        "app.bsky.draft.updateDraft": {"id": "3l6oveex3ii2l", "draft": {"posts": [{"text": "a draft"}]}},
    }
    special: dict[str, dict[str, Any]] = {
        "com.atproto.admin.updateSubjectStatus": {
            "subject": {"$type": "com.atproto.admin.defs#repoRef", "did": served.bob.did},
            "takedown": {"applied": False},
        },
        "com.atproto.admin.getSubjectStatus": {"did": served.bob.did},
        "app.bsky.feed.searchPostsV2": {"query": "ann"},
        "app.bsky.feed.getActorLikes": {"actor": served.ann.did},
        "com.atproto.label.queryLabels": {"uriPatterns": [served.ann.did], "sources": [LABELER]},
        "app.bsky.actor.searchActors": {"q": "ann"},
        "app.bsky.actor.searchActorsTypeahead": {"q": "ann"},
        "internal.bsky.actor.getProfiles": {"dids": [served.bob.did]},
    }
    found = {}
    for method in every_method(packages):
        name = method["id"]
        given = special.get(name) or {key: drafts.get(name, subjects.get(key)) for key in method["required"]}
        call = served.reader.post if method["type"] == "procedure" else served.reader.get
        found[name] = call(name, served.ann.did, **given)
    return found


def test_every_method_works_as_the_documents_say(served: Served, packages: Path) -> None:
    found = outcomes(served, packages)
    assert len(found) > 90
    _, _, text = DOCUMENT.partition("### What works")
    working = sum(answer.status == 200 for answer in found.values())
    assert re.search(rf"^Each of the {len(found)} methods .* {working} of them$", text, re.MULTILINE)
    without, _, others = text.partition("\n## ")[0].partition("**Not at all")
    named = {part: set(re.findall(r"`((?:app|com)\.[\w.]+)`", part)) for part in (without, others)}
    assert {name for name, answer in found.items() if answer.status == 501} == named[without]
    failing = {name for name, answer in found.items() if answer.status not in (200, 501)}
    assert failing == named[others], {name: found[name] for name in failing}


# -- starting and ending


def test_mistakes_of_the_operator_are_one_sentence(packages: Path) -> None:
    right = environment(packages, "postgresql://postgres@127.0.0.1:1/none")
    mistakes: list[tuple[dict[str, str], str]] = [
        ({"SERVE_PARTS": "dataplane,indexer"}, "SERVE_PARTS names indexer, but the parts are "),
        ({"DATABASE_URL": ""}, "DATABASE_URL is not set: "),
        ({"BSKY_SERVER_DID": ""}, "BSKY_SERVER_DID is not set: "),
        ({"MOD_SERVICE_DID": "example.com"}, "MOD_SERVICE_DID is example.com, which is no DID."),
        ({"BSKY_PUBLIC_URL": ""}, "BSKY_PUBLIC_URL is not set: "),
        ({"SERVE_POOL_SIZE": "many"}, "SERVE_POOL_SIZE is many, but must be a whole number from 1 to 1000."),
        ({"BSKY_SERVICE_SIGNING_KEY": "ab"}, "The signing key is not 64 hexadecimal digits: "),
        ({"BSKY_SERVICE_SIGNING_KEY_FILE": "/none"}, "BSKY_SERVICE_SIGNING_KEY_FILE names /none, which cannot be read"),
        ({"PGPASSWORD_FILE": "/none"}, "PGPASSWORD_FILE names /none, which cannot be read: ENOENT."),
        ({"SERVE_PARTS": "appview"}, "BSKY_DATAPLANE_URLS is not set, and SERVE_PARTS has no dataplane"),
        ({"SERVE_PARTS": "dataplane,subscription"}, "BSKY_BSYNC_URL is not set, and SERVE_PARTS has no bsync"),
        ({"SERVE_PARTS": "bsync,dataplane"}, "BSYNC_DB_POSTGRES_URL is not set: "),
        (
            {"SERVE_PARTS": "bsync,dataplane", "BSYNC_DB_POSTGRES_URL": right["DATABASE_URL"]},
            "BSYNC_DB_POSTGRES_URL is the pipeline's database, but bsync needs one of its own",
        ),
        ({"SERVE_PACKAGES": "/none"}, "The package @atproto/bsky is not in /none: run `npm ci --omit=dev`"),
    ]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda mistake: said({**right, **mistake[0]}), mistakes))
    for (_, sentence), (code, text) in zip(mistakes, found, strict=True):
        assert (code, text[: len(sentence)]) == (2, sentence)
    code, text = said({**right, "SERVE_PACKAGES": "/none"}, "new-key")
    assert (code, text.partition(":")[0]) == (2, "The package @atproto/crypto is not in /none")


@pytest.mark.slow
def test_a_database_that_cannot_be_served_is_said_in_one_sentence(server: EmbeddedPostgres, packages: Path) -> None:
    nobody = environment(packages, f"postgresql://postgres@127.0.0.1:{free_port()}/none")
    code, text = said(nobody)
    assert code == 1 and text.startswith("The database of DATABASE_URL does not answer: ") and "ECONNREFUSED" in text
    with scratch_database(server.url("postgres")) as empty:
        code, text = said(environment(packages, empty))
    sentence = r"The database lacks \d+ migrations of this version of the reference, up to _\w+: run `appview-pipeline"
    assert code == 1 and re.match(sentence, text)


@pytest.mark.slow
def test_it_ends_by_itself_after_sigterm(database: Database, packages: Path, tmp_path: Path) -> None:
    """Exit code 0: everything has ended. Whatever would last longer ends with 1 after 9 s."""
    log = tmp_path / "serve.log"
    with scratch_database(database.url) as bsync:
        more = {"SERVE_PARTS": ",".join(PARTS), "BSYNC_DB_POSTGRES_URL": node_url(bsync)}
        with (
            started(environment(packages, database.url, **more), log) as (process, ports),
            socket.create_connection(("127.0.0.1", ports["appview"])) as kept_open,
        ):
            kept_open.sendall(b"GET /xrpc/_health HTTP/1.1\r\nHost: a\r\n\r\n")
            assert kept_open.recv(15).startswith(b"HTTP/1.1 200")
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0, log.read_text()


@pytest.mark.slow
def test_lost_connections_come_back_or_end_it(database: Database, packages: Path, tmp_path: Path) -> None:
    """PostgreSQL ends them, as at its restart: those of the data plane, then those of bsync."""
    end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = %s AND datname = %s"
    with scratch_database(database.url) as bsync:
        more = {"SERVE_PARTS": ",".join(PARTS), "BSYNC_DB_POSTGRES_URL": node_url(bsync)}
        with started(environment(packages, database.url, **more), tmp_path / "log") as (process, ports):
            assert ask(ports["health"], "/readyz")[0] == 200
            assert rows(database.url, end, "bsky-dataplane", name_of(database.url)) != [(0,)]
            wait_for(lambda: ask(ports["health"], "/readyz")[0] == 200)
            assert process.poll() is None
            assert rows(database.url, end, "bsync", name_of(bsync)) != [(0,)]
            assert process.wait(60) == 1
            assert b"to be started again" in (tmp_path / "log").read_bytes()


@pytest.mark.slow
def test_its_parts_run_in_processes_of_their_own(database: Database, packages: Path, tmp_path: Path) -> None:
    ann, bob = (Person(stream, name) for stream in [Stream()] for name in ("ann", "bob"))
    with scratch_database(database.url) as bsync:
        more = {"SERVE_PARTS": "bsync,subscription,dataplane", "BSYNC_DB_POSTGRES_URL": node_url(bsync)}
        keys = {"BSYNC_API_KEYS": "a,b", "BSKY_BSYNC_API_KEY": "b"}
        with started(environment(packages, database.url, **more, **keys), tmp_path / "inner.log") as (_, inner):
            assert set(inner) == {"bsync", "dataplane", "health"}
            urls = {
                "BSKY_DATAPLANE_URLS": f"http://127.0.0.1:{inner['dataplane']}",
                "BSKY_BSYNC_URL": f"http://127.0.0.1:{inner['bsync']}",
            }
            outer_environment = environment(packages, database.url, SERVE_PARTS="appview", **keys, **urls)
            with started(outer_environment, tmp_path / "outer.log") as (_, outer):
                reader = Reader(outer["appview"], ports=outer)
                assert reader.post("app.bsky.graph.muteActor", ann.did, actor=bob.did).status == 200
                wait_for(lambda: rows(database.url, "SELECT FROM bsky.mute"))
                assert said({**outer_environment, "SERVE_HEALTH_PORT": str(outer["health"])}, "healthy")[0] == 0


@pytest.mark.slow
def test_the_servers_of_feeds_get_no_password_and_inner_addresses_no_request(
    database: Database, packages: Path, tmp_path: Path
) -> None:
    """A stranger's feed names its server in a DID document; the AppView asks it with the headers of who asks."""
    ann, did = Person(Stream(), "ann"), "did:plc:feedfeedfeedfeedfeedfeed"
    feed = create("app.bsky.feed.generator/g", {"did": did, "displayName": "a", "createdAt": WHEN})
    replayed_frames(database, tmp_path, [ann.commit(feed, post("a", "of ann"))])
    asked: list[dict[str, str]] = []

    def answer(request: http_server.Request) -> bytes:
        if "getFeedSkeleton" in request.path:
            asked.append({name.lower(): value for name, value in request.headers.items()})
            body: dict[str, Any] = {"feed": [{"post": ann.uri("app.bsky.feed.post/a")}]}
        else:
            service = {"id": "#bsky_fg", "type": "BskyFeedGenerator", "serviceEndpoint": outside.url}
            body = {"id": did, "service": [service]}
        return http_server.ok(json.dumps(body).encode(), "Content-Type: application/json\r\n")

    with http_server.HttpServer(answer) as outside:
        generator = {"feed": ann.uri("app.bsky.feed.generator/g")}
        with serving(packages, database.url, tmp_path / "all.log", directory=outside.url) as reader:
            found = reader.get("app.bsky.feed.getFeed", ann.did, **generator)
            assert [item["post"]["record"]["text"] for item in found.body["feed"]] == ["of ann"]
            assert len(asked) == 1 and asked[0]["user-agent"] and "authorization" not in asked[0]
            guarded = environment(
                packages,
                database.url,
                SERVE_PARTS="appview",
                BSKY_DATAPLANE_URLS=f"http://127.0.0.1:{reader.ports['dataplane']}",
            )
            with started(guarded, tmp_path / "guarded.log") as (_, ports):
                found = Reader(ports["appview"]).get("app.bsky.feed.getFeed", **generator)
                assert (found.status, found.body["message"]) == (502, "feed unavailable")
    assert len(asked) == 1


GUARD = """
const { guardFetch } = await import(PROGRAM)
const wrap = await import(WRAP)
const { fetch } = globalThis
const asked = []
for (const disableSsrfProtection of [true, false]) {
  globalThis.fetch = fetch
  guardFetch(wrap, { disableSsrfProtection }, { BSKY_SEARCH_URL: SERVICE, BSKY_DATAPLANE_URLS: INNER })
  for (const url of [SERVICE, INNER]) {
    for (const authorization of ['Basic YTpi', 'Bearer token']) {
      for (const input of [url, new Request(url, { headers: { authorization } })]) {
        const given = input === url ? { headers: { authorization } } : undefined
        asked.push(await globalThis.fetch(input, given).then((answer) => answer.text(), () => 'refused'))
      }
    }
  }
  asked.push(await globalThis.fetch(`${INNER}/large`).then((answer) => answer.text(), () => 'refused'))
}
console.log(JSON.stringify(asked))
"""


def test_what_strangers_name_is_guarded_and_services_of_the_environment_are_not(packages: Path) -> None:
    def answer(request: http_server.Request) -> bytes:
        shown = {name.lower(): value for name, value in request.headers.items()}.get("authorization", "nothing")
        return http_server.ok(bytes(3_000_000) if request.path == "/large" else shown.encode())

    with http_server.HttpServer(answer) as service, http_server.HttpServer(answer) as inner:
        named = {
            "PROGRAM": str(MANIFEST / "guard.mjs"),
            "WRAP": str(packages / "@atproto-labs" / "fetch-node" / "dist" / "index.js"),
            "SERVICE": service.url, "INNER": inner.url,
        }  # fmt: skip
        constants = "".join(f"const {name} = {json.dumps(value)};" for name, value in named.items())
        done = subprocess.run(
            [NODE, "--input-type=module", "-e", constants + GUARD],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
    services = ["Basic YTpi"] * 2 + ["Bearer token"] * 2
    strangers = ["nothing"] * 2 + ["Bearer token"] * 2
    assert json.loads(done.stdout) == services + strangers + ["refused"] + services + ["refused"] * 5


DOCUMENTS = """
const { boundDocuments } = await import(PROGRAM)
const { MemoryCache } = await import(IDENTITY)
const cache = new MemoryCache()
boundDocuments(cache, 2)
const keep = (name, document = {}) => cache.refreshCache(name, async () => document)
await keep('a'); await keep('b'); await keep('a'); await keep('c')
await keep('large', { text: 'x'.repeat(10_000) })
const found = await Promise.all(['a', 'b', 'c', 'large'].map((name) => cache.checkCache(name)))
console.log(JSON.stringify(found.map(Boolean)))
"""


def test_documents_of_strangers_are_kept_up_to_a_number(packages: Path) -> None:
    identity = packages / "@atproto" / "identity" / "dist" / "index.js"
    named = {"PROGRAM": str(MANIFEST / "cache.mjs"), "IDENTITY": str(identity)}
    constants = "".join(f"const {name} = {json.dumps(value)};" for name, value in named.items())
    done = subprocess.run(
        [NODE, "--input-type=module", "-e", constants + DOCUMENTS],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert json.loads(done.stdout) == [True, False, True, False]


def test_the_oldest_images_go_when_the_cache_is_full(tmp_path: Path) -> None:
    images = ("did:web:a.com::bafy1::avatar", "did:plc:a::bafy2::banner", "did:plc:a::bafy3::feed_full")
    for age, name in enumerate(images):
        (tmp_path / name).write_bytes(bytes(400))
        os.utime(tmp_path / name, (1_000_000 + age, 1_000_000 + age))
    (tmp_path / "not-an-image").write_bytes(bytes(10_000))

    def left(most: int) -> set[str]:
        program, folder = (json.dumps(str(path)) for path in (MANIFEST / "cache.mjs", tmp_path))
        script = f"import {{ shrink }} from {program}; await shrink({folder}, {most})"
        subprocess.run([NODE, "--input-type=module", "-e", script], check=True, timeout=60)
        return {path.name.rpartition("::")[2] for path in tmp_path.iterdir()}

    assert left(1_200) == {"avatar", "banner", "feed_full", "not-an-image"}
    assert left(1_199) == {"banner", "feed_full", "not-an-image"}
    assert left(799) == {"feed_full", "not-an-image"}


# -- documents and files


def test_the_documents_have_every_variable(packages: Path) -> None:
    program = "".join(path.read_text(encoding="utf-8") for path in MANIFEST.glob("*.mjs"))
    own = set(re.findall(r"\b(?:SERVE_[A-Z_]*[A-Z]|[A-Z]+_FILE|BSYNC_[A-Z_]*[A-Z])\b", program))
    named = set(re.findall(r"`([A-Z][A-Z_]+)`", DOCUMENT)) | set(documented_environment())
    assert own - named == set()
    # Those that the reference reads.
    theirs = "".join(
        (packages / "@atproto" / file).read_text(encoding="utf-8")
        for file in ("bsky/dist/config.js", "bsync/dist/config.js", "common/dist/logger.js")
    )
    others = {"DATABASE_URL", "NODE_ENV"}
    unread = {name for name in named - own - others if name.startswith(("BSKY_", "BSYNC_", "MOD_", "LOG_"))}
    assert {name for name in unread if not re.search(rf"\b{name}\b", theirs + program)} == set()


def test_the_image_is_pinned_and_not_roots() -> None:
    text = (MANIFEST / "Dockerfile").read_text(encoding="utf-8")
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line and not line.startswith("#")]
    assert re.fullmatch(r"ARG NODE_IMAGE=node:22-\w+-slim", lines[0])
    assert "npm ci --omit=dev --ignore-scripts" in text
    last = lines[max(number for number, line in enumerate(lines) if line.startswith("FROM")) :]
    assert [line.split()[1] for line in last if line.startswith("USER")] == ["10001:10001"]
    assert any(line.startswith("HEALTHCHECK") for line in last) and not any("npm" in line for line in last)
    copied = {name for line in last if line.startswith("COPY") and "--from" not in line for name in line.split()[1:-1]}
    assert copied == {path.name for path in MANIFEST.glob("*.mjs")}


def test_the_lock_file_names_no_registry() -> None:
    lock = json.loads((MANIFEST / "package-lock.json").read_text(encoding="utf-8"))
    packages = {name: package for name, package in lock["packages"].items() if name}
    assert packages and not [name for name, package in packages.items() if "resolved" in package]
    assert all("integrity" in package for package in packages.values())
