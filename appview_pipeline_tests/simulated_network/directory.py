"""The PLC directory and the PDS over plain HTTP: read-only endpoints of the simulated world, errors as the real ones.

Each is a threading HTTP server on 127.0.0.1. `Faults` lets requests fail: statuses are used up one a request.
"""

from __future__ import annotations

import json
import re
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from appview_pipeline.protocol import cid
from appview_pipeline.protocol.cbor import decode_record_json
from appview_pipeline_tests.simulated_network.accounts import HANDLE_DOMAIN
from appview_pipeline_tests.simulated_network.world import Author, World

CAR = "application/vnd.ipld.car"
Parameters = Mapping[str, list[str]]


class XrpcError(Exception):
    """An error answer: HTTP status, error name, message."""

    def __init__(self, status: int, name: str, text: str) -> None:
        super().__init__(text)
        self.status, self.name, self.text = status, name, text


@dataclass
class Faults:
    """`statuses`: what the next requests are answered instead, one each. `delay`: seconds before every answer."""

    statuses: deque[int] = field(default_factory=deque)
    delay: float = 0.0
    injected: int = 0


@dataclass(frozen=True)
class Answer:
    body: bytes
    content_type: str = "application/json; charset=utf-8"
    status: int = 200


def json_answer(value: Any, status: int = 200) -> Answer:
    return Answer(json.dumps(value).encode(), status=status)


class HttpService:
    """A threading HTTP server in the background; subclasses answer `get`."""

    name = "service"

    def __init__(self, port: int = 0, host: str = "127.0.0.1") -> None:
        self.faults = Faults()
        self.requests: deque[str] = deque(maxlen=10_000)  # the newest request targets, for tests to read
        self._pause = threading.Event()
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                service.requests.append(self.path)
                if service.faults.delay:
                    service._pause.wait(service.faults.delay)
                try:
                    if service.faults.statuses:
                        service.faults.injected += 1
                        status = service.faults.statuses.popleft()
                        raise XrpcError(
                            status, "RateLimitExceeded" if status == 429 else "InternalServerError", "simulated"
                        )
                    target = urlsplit(self.path)
                    answer = service.get(
                        target.path, parse_qs(target.query, keep_blank_values=True), self.headers.get("Host", "")
                    )
                except XrpcError as error:
                    answer = service.failure(error)
                self.send_response(answer.status)
                self.send_header("Content-Type", answer.content_type)
                self.send_header("Content-Length", str(len(answer.body)))
                if answer.status == 429:
                    self.send_header("Retry-After", "1")
                self.end_headers()
                self.wfile.write(answer.body)

            def log_message(self, *_: object) -> None:
                """Nothing: tests and people watching the pipeline read other things."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 256

            def handle_error(self, *_: object) -> None:
                """A client that hung up."""

        self._server = Server((host, port), Handler)
        self.port: int = self._server.server_address[1]
        self.url = f"http://{host}:{self.port}"

    def get(self, path: str, parameters: Parameters, host: str) -> Answer:
        raise NotImplementedError

    def failure(self, error: XrpcError) -> Answer:
        return json_answer({"error": error.name, "message": error.text}, error.status)

    def start(self) -> None:
        threading.Thread(
            target=self._server.serve_forever, args=(0.05,), name=f"simulated-{self.name}", daemon=True
        ).start()

    def stop(self) -> None:
        self._pause.set()
        self._server.shutdown()
        self._server.server_close()


class PlcDirectory(HttpService):
    """`GET /{did}`, `/{did}/log/audit`, `/{did}/log/last`, `/{did}/data`, `/_health`; 404 unknown, 410 tombstoned."""

    name = "plc"

    def __init__(self, world: World, pds_url: str, port: int = 0) -> None:
        super().__init__(port)
        self.world, self.pds_url = world, pds_url

    def failure(self, error: XrpcError) -> Answer:
        return json_answer({"message": error.text}, error.status)

    def get(self, path: str, parameters: Parameters, host: str) -> Answer:
        if path == "/_health":
            return json_answer({"version": "simulated"})
        did, _, what = unquote(path[1:]).partition("/")
        with self.world.lock:
            author = self.world.by_did.get(did)
            if author is None:
                raise XrpcError(404, "", f"DID not registered: {did}")
            account = author.account
            account.settle_at(self.pds_url)
            if what == "log/audit":
                return json_answer(account.audit_log())
            if account.tombstoned:
                raise XrpcError(410, "", f"DID not available: {did}")
            if what == "log/last":
                return json_answer(account.log[-1][1])
            if what == "data":
                fields = ("verificationMethods", "rotationKeys", "alsoKnownAs", "services")
                return json_answer({"did": did} | {name: account.log[-1][1][name] for name in fields})
            if what:
                raise XrpcError(404, "", "Not Found")
            return Answer(json.dumps(account.document()).encode(), "application/did+ld+json; charset=utf-8")


class Pds(HttpService):
    """All accounts' PDS: the XRPC methods named in `get`, and `/.well-known/atproto-did` by the Host header."""

    name = "pds"

    def __init__(self, world: World, port: int = 0) -> None:
        super().__init__(port)
        self.world = world

    def get(self, path: str, parameters: Parameters, host: str) -> Answer:
        if path == "/xrpc/_health":
            return json_answer({"version": "simulated"})
        if path == "/.well-known/atproto-did":
            with self.world.lock:
                owner = self.world.by_handle.get(host.split(":")[0])
            if owner is None:
                raise XrpcError(404, "NotFound", "User not found")
            return Answer(owner.did.encode(), "text/plain")
        method = {
            "com.atproto.sync.getRepo": self._get_repo,
            "com.atproto.sync.getRecord": self._get_record_proof,
            "com.atproto.sync.getLatestCommit": self._get_latest_commit,
            "com.atproto.sync.getRepoStatus": self._get_repo_status,
            "com.atproto.sync.listRepos": self._list_repos,
            "com.atproto.repo.getRecord": self._get_record,
            "com.atproto.repo.listRecords": self._list_records,
            "com.atproto.repo.describeRepo": self._describe_repo,
            "com.atproto.identity.resolveHandle": self._resolve_handle,
            "com.atproto.server.describeServer": self._describe_server,
        }.get(path.removeprefix("/xrpc/"))
        if method is None:
            raise XrpcError(501, "MethodNotImplemented", "Method Not Implemented")
        with self.world.lock:
            return method(parameters)

    def query(self, nsid: str, parameters: dict[str, str]) -> tuple[int, Any] | None:
        """What the relay answers on its own port: it lists the same repositories."""
        if nsid not in (
            "com.atproto.sync.listRepos",
            "com.atproto.sync.getRepoStatus",
            "com.atproto.sync.getLatestCommit",
        ):
            return None
        try:
            answer = self.get(f"/xrpc/{nsid}", {name: [value] for name, value in parameters.items()}, "")
        except XrpcError as error:
            return error.status, {"error": error.name, "message": error.text}
        return 200, json.loads(answer.body)

    # ---- who and what is asked for

    @staticmethod
    def _required(parameters: Parameters, name: str) -> str:
        values = parameters.get(name)
        if not values:
            raise XrpcError(400, "InvalidRequest", f'Error: Params must have the property "{name}"')
        return values[-1]

    @staticmethod
    def _limit(parameters: Parameters, default: int, maximum: int) -> int:
        text = parameters.get("limit", [str(default)])[-1]
        if not re.fullmatch(r"[0-9]{1,6}", text) or not 1 <= int(text) <= maximum:
            raise XrpcError(400, "InvalidRequest", f"Error: limit must be between 1 and {maximum}")
        return int(text)

    def _known(self, parameters: Parameters) -> Author:
        did = self._required(parameters, "did")
        author = self.world.by_did.get(did)
        if author is None or author.account.status == "deleted":
            raise XrpcError(400, "RepoNotFound", f"Could not find repo for DID: {did}")
        return author

    def _available(self, parameters: Parameters) -> Author:
        author = self._known(parameters)
        if not author.account.active:
            status = str(author.account.status)
            raise XrpcError(400, f"Repo{status.capitalize()}", f"Repo has been {status}: {author.did}")
        return author

    def _named(self, parameters: Parameters) -> Author:
        name = self._required(parameters, "repo")
        author = self.world.by_did.get(name) or self.world.by_handle.get(name.lower())
        if author is None or not author.account.active:
            raise XrpcError(400, "RepoNotFound", f"Could not find repo: {name}")
        return author

    # ---- com.atproto.sync

    def _get_repo(self, parameters: Parameters) -> Answer:
        return Answer(self._available(parameters).repository.export(), CAR)

    def _get_record_proof(self, parameters: Parameters) -> Answer:
        author = self._available(parameters)
        path = f"{self._required(parameters, 'collection')}/{self._required(parameters, 'rkey')}"
        # The real one proves absence too: same CAR without the record's block.
        return Answer(author.repository.proof(path), CAR)

    def _get_latest_commit(self, parameters: Parameters) -> Answer:
        repository = self._available(parameters).repository
        return json_answer({"cid": cid.to_text(repository.commit_cid), "rev": repository.rev})

    def _status(self, author: Author) -> dict[str, Any]:
        status: dict[str, Any] = {"did": author.did, "active": author.account.active}
        if author.account.status is not None:
            status["status"] = author.account.status
        if author.account.active:
            status["rev"] = author.repository.rev
        return status

    def _get_repo_status(self, parameters: Parameters) -> Answer:
        return json_answer(self._status(self._known(parameters)))

    def _list_repos(self, parameters: Parameters) -> Answer:
        """Paged by position; the cursor is the number of accounts seen."""
        limit = self._limit(parameters, 500, 1000)
        cursor = parameters.get("cursor", ["0"])[-1]
        if not cursor.isdecimal():
            raise XrpcError(400, "InvalidRequest", "Malformed cursor")
        start = int(cursor)
        page = self.world.authors[start : start + limit]
        repos = [
            self._status(author) | {"head": cid.to_text(author.repository.commit_cid), "rev": author.repository.rev}
            for author in page
            if author.account.status != "deleted"
        ]
        answer: dict[str, Any] = {"repos": repos}
        if start + limit < len(self.world.authors):
            answer["cursor"] = str(start + limit)
        return json_answer(answer)

    # ---- com.atproto.repo

    @staticmethod
    def _view(author: Author, path: str) -> bytes:
        found = author.repository.get(path)
        if found is None:
            raise XrpcError(400, "RecordNotFound", f"Could not locate record: at://{author.did}/{path}")
        uri, record_cid = json.dumps(f"at://{author.did}/{path}"), json.dumps(cid.to_text(found[0]))
        value = decode_record_json(found[1])[1]
        return f'{{"uri":{uri},"cid":{record_cid},"value":{value}}}'.encode()

    def _get_record(self, parameters: Parameters) -> Answer:
        author = self._named(parameters)
        path = f"{self._required(parameters, 'collection')}/{self._required(parameters, 'rkey')}"
        found = author.repository.get(path)
        if (wanted := parameters.get("cid")) and found and wanted[-1] != cid.to_text(found[0]):
            raise XrpcError(400, "RecordNotFound", f"Could not locate record: at://{author.did}/{path}")
        return Answer(self._view(author, path))

    def _list_records(self, parameters: Parameters) -> Answer:
        author, collection = self._named(parameters), self._required(parameters, "collection")
        limit = self._limit(parameters, 50, 100)
        reverse = parameters.get("reverse", ["false"])[-1] == "true"
        paths = sorted(
            (path for path in author.repository.paths() if path.startswith(collection + "/")), reverse=not reverse
        )
        if cursor := parameters.get("cursor"):
            edge = f"{collection}/{cursor[-1]}"
            paths = [path for path in paths if (path > edge if reverse else path < edge)]
        views = b",".join(self._view(author, path) for path in paths[:limit])
        more = f',"cursor":{json.dumps(paths[limit - 1].rsplit("/", 1)[1])}' if len(paths) > limit else ""
        return Answer(b'{"records":[' + views + b"]" + more.encode() + b"}")

    def _describe_repo(self, parameters: Parameters) -> Answer:
        author = self._named(parameters)
        author.account.settle_at(self.url)
        return json_answer(
            {
                "handle": author.account.handle,
                "did": author.did,
                "didDoc": author.account.document(),
                "collections": sorted({path.split("/")[0] for path in author.repository.paths()}),
                "handleIsCorrect": True,
            }
        )

    # ---- the rest

    def _resolve_handle(self, parameters: Parameters) -> Answer:
        owner = self.world.by_handle.get(self._required(parameters, "handle").lower())
        if owner is None:
            raise XrpcError(400, "InvalidRequest", "Unable to resolve handle")
        return json_answer({"did": owner.did})

    def _describe_server(self, parameters: Parameters) -> Answer:
        return json_answer(
            {
                "did": f"did:web:pds.{HANDLE_DOMAIN}",
                "availableUserDomains": [f".{HANDLE_DOMAIN}"],
                "inviteCodeRequired": True,
            }
        )
