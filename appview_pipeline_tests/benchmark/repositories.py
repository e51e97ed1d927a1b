"""The repositories that a backfill is measured with, and the PDSes that serve them, as a process of its own.

Exports are made once, from a fixed seed, and kept in the temp folder like the frames. Serving one is a copy of bytes,
so the PDSes cost little of what is measured. `python -m appview_pipeline_tests.benchmark.repositories FOLDER HOSTS`
serves them until its input ends.
"""

from __future__ import annotations

import json
import mmap
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

from appview_pipeline_tests.benchmark import processes
from appview_pipeline_tests.benchmark.buckets import bucket_of
from appview_pipeline_tests.benchmark.corpus import START, cache_folder, sources
from appview_pipeline_tests.simulated_network.directory import CAR
from appview_pipeline_tests.simulated_network.http_service import Answer, HttpService, Parameters, XrpcError
from appview_pipeline_tests.simulated_network.world import World
from appview_pipeline_tests.support.checkout import CHECKOUT

SEED = 11
PASTS = (*[(30, 6.0)] * 8, *[(120, 5.0)] * 6, *[(500, 6.0)] * 4, *[(2_000, 3.0)] * 2, (8_000, 1.2))
"""Records of the histories that the repositories begin with, and their shares: about 350 records in the mean, as in
the network. Repositories with the same history hold the same records."""

PARTITIONS = 4
"""The first so many of the queue's 64 partitions have all the repositories."""


@dataclass(frozen=True)
class Repositories:
    """The exports of `count` repositories in `folder`."""

    folder: Path
    count: int

    @cached_property
    def index(self) -> list[dict[str, Any]]:
        """`did`, `handle`, `key` (did:key), `rev`, `records`, and where in the file its export is: `at`, `size`."""
        index: list[dict[str, Any]] = json.loads((self.folder / "index.json").read_text())
        return index

    @property
    def records(self) -> int:
        return sum(int(entry["records"]) for entry in self.index)

    @property
    def bytes(self) -> int:
        return sum(int(entry["size"]) for entry in self.index)


def repositories(count: int) -> Repositories:
    """The exports of so many repositories, from the cache or made now (about 30,000 records a second)."""
    folder = cache_folder() / f"repositories-{count}-{sources(Path(__file__))}"
    made = Repositories(folder, count)
    if not folder.exists():
        partial = Path(tempfile.mkdtemp(prefix=folder.name + ".", dir=folder.parent))
        try:
            _make(partial, count)
            partial.rename(folder)
        except OSError:
            if not folder.exists():  # otherwise somebody else was faster
                raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return made


def _make(folder: Path, count: int) -> None:
    # Of 64 partitions a few are used, so that each is of a size for which its beginning and end do not count.
    world = World(SEED, count * 64 // PARTITIONS * 11 // 10 + 500, start=START, pasts=PASTS)
    index: list[dict[str, Any]] = []
    with (folder / "exports.bin").open("wb") as out:
        for author in world.authors:
            if bucket_of(author.did) >= PARTITIONS or len(index) == count:
                continue
            export = author.repository.export()
            index.append(
                {
                    "did": author.did,
                    "handle": author.account.handle,
                    "key": f"did:key:{author.account.public_key}",
                    "rev": author.repository.rev,
                    "records": len(author.repository.paths()),
                    "at": out.tell(),
                    "size": len(export),
                }
            )
            out.write(export)
    (folder / "index.json").write_text(json.dumps(index))


class Pds(HttpService):
    """Answers com.atproto.sync.getRepo with bytes of the file."""

    name = "exports"

    def __init__(self, exports: dict[str, bytes]) -> None:
        super().__init__()
        self._exports = exports

    def get(self, path: str, parameters: Parameters, host: str) -> Answer:
        if path != "/xrpc/com.atproto.sync.getRepo":
            raise XrpcError(501, "MethodNotImplemented", "Method Not Implemented")
        export = self._exports.get(parameters["did"][-1])
        if export is None:
            raise XrpcError(400, "RepoNotFound", "Could not find repo")
        return Answer(export, CAR)


class PdsProcess:
    """The PDSes, seen from the benchmark; a context manager. `urls`: their origins."""

    def __init__(self, made: Repositories, hosts: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(made.folder), str(hosts)],
            cwd=CHECKOUT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        self.urls: list[str] = json.loads(self._process.stdout.readline())

    def cpu_seconds(self) -> float:
        return processes.cpu_seconds(self._process.pid)

    def __enter__(self) -> PdsProcess:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._process.kill()
        self._process.communicate()


def serve(folder: Path, hosts: int) -> None:
    """Serves until stdin ends. On a network it would be other machines, so it takes what the others leave."""
    os.nice(10)
    made = Repositories(folder, 0)
    with (folder / "exports.bin").open("rb") as source:
        held = mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ)
        exports = {entry["did"]: held[entry["at"] : entry["at"] + entry["size"]] for entry in made.index}
    servers = [Pds(exports) for _ in range(hosts)]
    for server in servers:
        server.start()
    print(json.dumps([server.url for server in servers]), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    serve(Path(sys.argv[1]), int(sys.argv[2]))
