"""The PLC directory and the PDSes over plain HTTP: read-only endpoints, with the errors of the real ones."""

from __future__ import annotations

import json
import re
from collections import Counter, OrderedDict
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

from appview_pipeline.protocol import cid
from appview_pipeline.protocol.cbor import decode_record_json
from appview_pipeline_tests.simulated_network.accounts import HANDLE_DOMAIN
from appview_pipeline_tests.simulated_network.faults import Faults
from appview_pipeline_tests.simulated_network.http_service import (
    Answer,
    HttpService,
    Parameters,
    XrpcError,
    json_answer,
)
from appview_pipeline_tests.simulated_network.world import Author, World

CAR = "application/vnd.ipld.car"
WELL_KNOWN = "/.well-known/atproto-did"
SLOW_METHODS = (
    "/xrpc/com.atproto.sync.getRepo",
    "/xrpc/com.atproto.sync.listRepos",
    "/xrpc/com.atproto.repo.listRecords",
)


class PlcDirectory(HttpService):
    """`GET /{did}`, `/{did}/log/audit`, `/{did}/log/last`, `/{did}/data`, `/_health`; 404 unknown, 410 tombstoned."""

    name = "plc"

    def __init__(self, world: World, port: int = 0) -> None:
        super().__init__(port)
        self.world = world

    def subject(self, path: str, parameters: Parameters, host: str) -> tuple[str, str | None, Faults]:
        did = unquote(path[1:]).partition("/")[0]
        return did, did if did.startswith("did:") else None, self.faults

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
            account.settle_at(self.world.pds_urls[account.home])
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

    def export(self) -> Iterator[str]:
        """The operations of all accounts in the order of their times, one JSON text each: the lines of a PLC export."""
        with self.world.lock:
            entries = []
            for author in self.world.authors:
                author.account.settle_at(self.world.pds_urls[author.account.home])
                entries += author.account.audit_log()
        return map(json.dumps, sorted(entries, key=lambda entry: str(entry["createdAt"])))


class Pds(HttpService):
    """The PDS of the accounts whose `home` it is, by number, and the web server of all handles by the Host header.

    `well_known_faults` are those of `/.well-known/atproto-did`; `faults` those of the rest. What is in `answers` is by
    DID, and for handles by handle.
    """

    name = "pds"

    def __init__(self, world: World, port: int = 0, home: int = 0) -> None:
        super().__init__(port)
        self.world = world
        self.well_known_faults = Faults()
        self.repositories = Repositories(world, home)
        world.pds_urls[home] = self.url

    def subject(self, path: str, parameters: Parameters, host: str) -> tuple[str, str | None, Faults]:
        if path == WELL_KNOWN:
            owner = self.world.by_handle.get(host)
            return host, owner.did if owner else None, self.well_known_faults
        did = parameters.get("did", parameters.get("repo", [""]))[-1]
        return did or path, did if did.startswith("did:") else None, self.faults

    def is_slow(self, path: str) -> bool:
        return path in SLOW_METHODS

    def get(self, path: str, parameters: Parameters, host: str) -> Answer:
        if path == "/xrpc/_health":
            return json_answer({"version": "simulated"})
        if path == WELL_KNOWN:
            owner = self.world.by_handle.get(host)
            if owner is None:
                raise XrpcError(404, "NotFound", "User not found")
            return Answer(owner.did.encode(), "text/plain")
        return self.repositories.get(path, parameters)


class Exports:
    """The newest exports that were asked for, each made once a commit; of `max_bytes` together."""

    def __init__(self, max_bytes: int = 256_000_000) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0
        self._made: OrderedDict[str, tuple[bytes, bytes]] = OrderedDict()  # DID -> CID of the commit, CAR

    def of(self, author: Author) -> bytes:
        """The CAR of an account's repository."""
        head = author.repository.commit_cid
        found = self._made.pop(author.did, (b"", b""))
        self.bytes -= len(found[1])
        car = found[1] if found[0] == head else author.repository.export()
        self._made[author.did] = head, car
        self.bytes += len(car)
        while self.bytes > self.max_bytes:
            self.bytes -= len(self._made.popitem(last=False)[1][1])
        return car


class Repositories:
    """XRPC queries about the repositories of one PDS; `home` None: of all of them, as a relay answers."""

    def __init__(self, world: World, home: int | None = None) -> None:
        self.world, self.home = world, home
        self.exports = Exports()

    def get(self, path: str, parameters: Parameters) -> Answer:
        method = {
            "com.atproto.sync.getRepo": self._get_repo,
            "com.atproto.sync.getRecord": self._get_record_proof,
            "com.atproto.sync.getLatestCommit": self._get_latest_commit,
            "com.atproto.sync.getRepoStatus": self._get_repo_status,
            "com.atproto.sync.listHosts": self._list_hosts,
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
            "com.atproto.sync.listHosts",
            "com.atproto.sync.listRepos",
            "com.atproto.sync.getRepoStatus",
            "com.atproto.sync.getLatestCommit",
        ):
            return None
        try:
            answer = self.get(f"/xrpc/{nsid}", {name: [value] for name, value in parameters.items()})
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

    def _hosting(self, author: Author) -> tuple[bool, str | None]:
        """Whether an account is active here, and its status if not; "deleted" too where it never was."""
        account = author.account
        if self.home is None or account.home == self.home:
            return account.active, account.status
        return False, account.left.get(self.home, "deleted")

    def _known(self, parameters: Parameters) -> Author:
        did = self._required(parameters, "did")
        author = self.world.by_did.get(did)
        if author is None or self._hosting(author)[1] == "deleted":
            raise XrpcError(400, "RepoNotFound", f"Could not find repo for DID: {did}")
        return author

    def _available(self, parameters: Parameters) -> Author:
        author = self._known(parameters)
        active, status = self._hosting(author)
        if not active:
            raise XrpcError(400, f"Repo{str(status).capitalize()}", f"Repo has been {status}: {author.did}")
        return author

    def _named(self, parameters: Parameters) -> Author:
        name = self._required(parameters, "repo")
        author = self.world.by_did.get(name) or self.world.by_handle.get(name.lower())
        if author is None or not self._hosting(author)[0]:
            raise XrpcError(400, "RepoNotFound", f"Could not find repo: {name}")
        return author

    # ---- com.atproto.sync

    def _get_repo(self, parameters: Parameters) -> Answer:
        return Answer(self.exports.of(self._available(parameters)), CAR)

    def _get_record_proof(self, parameters: Parameters) -> Answer:
        author = self._available(parameters)
        path = f"{self._required(parameters, 'collection')}/{self._required(parameters, 'rkey')}"
        # The real one proves absence too: same CAR without the record's block.
        return Answer(author.repository.proof(path), CAR)

    def _get_latest_commit(self, parameters: Parameters) -> Answer:
        repository = self._available(parameters).repository
        return json_answer({"cid": cid.to_text(repository.commit_cid), "rev": repository.rev})

    def _status(self, author: Author) -> dict[str, Any]:
        active, why = self._hosting(author)
        status: dict[str, Any] = {"did": author.did, "active": active}
        if why is not None:
            status["status"] = why
        if active:
            status["rev"] = author.repository.rev
        return status

    def _get_repo_status(self, parameters: Parameters) -> Answer:
        return json_answer(self._status(self._known(parameters)))

    def _list_repos(self, parameters: Parameters) -> Answer:
        """Paged by position; the cursor is the number of accounts seen."""
        limit, start = self._limit(parameters, 500, 1000), self._position(parameters)
        page = self.world.authors[start : start + limit]
        repos = [
            self._status(author) | {"head": cid.to_text(author.repository.commit_cid), "rev": author.repository.rev}
            for author in page
            if self._hosting(author)[1] != "deleted"
        ]
        return json_answer({"repos": repos} | self._more(start + limit, len(self.world.authors)))

    @staticmethod
    def _position(parameters: Parameters) -> int:
        cursor = parameters.get("cursor", ["0"])[-1]
        if not cursor.isdecimal():
            raise XrpcError(400, "InvalidRequest", "Malformed cursor")
        return int(cursor)

    @staticmethod
    def _more(position: int, total: int) -> dict[str, str]:
        """The cursor of the next page, if there is one."""
        return {"cursor": str(position)} if position < total else {}

    def _list_hosts(self, parameters: Parameters) -> Answer:
        """The PDSes, which only a relay lists; paged by position. A hostname is an address with a port here."""
        if self.home is not None:
            raise XrpcError(501, "MethodNotImplemented", "Method Not Implemented")
        limit, start = self._limit(parameters, 200, 1000), self._position(parameters)
        counts = Counter(author.account.home for author in self.world.authors)
        homes = sorted(self.world.pds_urls)
        hosts = [
            {
                "hostname": self.world.pds_urls[home].partition("://")[2],
                "seq": self.world.seq,
                "accountCount": counts[home],
                "status": "active",
            }
            for home in homes[start : start + limit]
        ]
        return json_answer({"hosts": hosts} | self._more(start + limit, len(homes)))

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
        author.account.settle_at(self.world.pds_urls[author.account.home])
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
