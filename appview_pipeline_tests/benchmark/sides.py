"""The revisions that are compared, each with its own code, its own consumer process and its own PostgreSQL server."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import click

from appview_pipeline_tests.benchmark import processes
from appview_pipeline_tests.support.checkout import CHECKOUT

RENEW_SECONDS = 1.0
_HOLD_SERVER = """
import sys
from pathlib import Path
from appview_pipeline.settings import Settings
try:
    from appview_pipeline.store.embedded.attach import attach
except ImportError:  # a revision before store/embedded/
    from appview_pipeline.store.embedded import attach
server = attach(Settings(state_dir=Path(sys.argv[1])), idle_seconds=1)
print(server.socket_dir, flush=True)
sys.stdin.read()
"""


def _consumer_module(checkout: Path) -> str:
    """The module that is the consumer process in `checkout`: revisions before `ingest/live/` have it one folder up."""
    is_live = (checkout / "appview_pipeline/ingest/live/consumer.py").exists()
    return "appview_pipeline.ingest.live.consumer" if is_live else "appview_pipeline.ingest.consumer"


@dataclass(frozen=True)
class Side:
    """A revision of the pipeline: what to call it, and the folder that holds its code."""

    name: str
    checkout: Path

    def environment(self, **variables: str) -> dict[str, str]:
        """Ours without any setting of the pipeline's, with this side's code and `variables`."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("APPVIEW_", "DATABASE_URL", "RELAY_URL", "LOG_", "DB_POOL", "PG", "DAGSTER_"))
        }
        return {**kept, "PYTHONPATH": str(self.checkout), "LOG_LEVEL": "WARNING", **variables}


def revision(checkout: Path = CHECKOUT) -> str:
    """The commit that is checked out, with a `+` when files differ from it."""
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty=+", "--exclude=*"],
        cwd=checkout, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return described.stdout.strip() or "unknown"


def ours(folder: Path) -> Side:
    """The side of what is checked out, copied to `folder`: edits of the checkout change nothing of a run."""
    name = revision()
    for part in ("appview_pipeline", "sql"):
        shutil.copytree(CHECKOUT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    for part in ("dagster.yaml", "workspace.yaml"):
        shutil.copy(CHECKOUT / part, folder)
    return Side(name, folder)


def other(name: str, folder: Path) -> Side:
    """The side of a git revision, unpacked to `folder`."""
    found = subprocess.run(
        ["git", "rev-parse", "--short", f"{name}^{{commit}}"],
        cwd=CHECKOUT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if found.returncode:
        raise click.ClickException(f"{name} is no revision of {CHECKOUT}: name a commit, branch or tag.")
    folder.mkdir(parents=True)
    # Not a worktree: that would be registered in the repository, and stay so when this process is killed.
    archive = subprocess.Popen(["git", "archive", name], cwd=CHECKOUT, stdout=subprocess.PIPE)
    subprocess.run(["tar", "-x", "-C", folder], stdin=archive.stdout, check=True)
    assert archive.wait() == 0
    return Side(found.stdout.strip(), folder)


class Server:
    """A side's embedded PostgreSQL, started and configured by its own code, in `folder`; as shipped."""

    def __init__(self, side: Side, folder: Path) -> None:
        self.side = side
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o755)  # under root the server runs as another user, who must get there
        self._holder = subprocess.Popen(
            [sys.executable, "-c", _HOLD_SERVER, folder],
            cwd=side.checkout, env=side.environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._holder.stdout is not None
        self.socket_dir = self._holder.stdout.readline().strip()
        if not self.socket_dir:
            raise click.ClickException(f"The embedded PostgreSQL of {side.name} does not start; its error is above.")

    @property
    def postmaster(self) -> int:
        return int((self.folder / "pgdata" / "postmaster.pid").read_text().splitlines()[0])

    def cpu_seconds(self, without: tuple[int, ...] = ()) -> float:
        """CPU seconds that all processes of the server have used, but those of the backends `without`."""
        return processes.cpu_seconds(self.postmaster, without)

    def libpq(self, database: str) -> str:
        """Connection string for psycopg2."""
        return f"host={self.socket_dir} port=5432 user=postgres dbname={database}"

    def url(self, database: str) -> str:
        """The same as a URL, for the pipeline."""
        return f"postgresql://postgres@/{database}?host={self.socket_dir}&port=5432"

    def close(self) -> None:
        """Stops the server; its folder stays."""
        self._holder.communicate()
        deadline = time.monotonic() + 60
        while (self.folder / "pgdata" / "postmaster.pid").exists() and time.monotonic() < deadline:
            time.sleep(0.1)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Consumer:
    """A side's consumer process on a lease of ours, which is what the sensor does. Its log goes to `log`."""

    def __init__(self, side: Side, log: Path, **variables: str) -> None:
        self._log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", self.module(side)],
                cwd=side.checkout,
                env=side.environment(**variables),
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self._ended = threading.Event()
        threading.Thread(target=self._renew, daemon=True).start()

    def module(self, side: Side) -> str:
        """What runs."""
        return _consumer_module(side.checkout)

    @property
    def pid(self) -> int:
        return self._process.pid

    def _renew(self) -> None:
        assert self._process.stdin is not None
        while not self._ended.wait(RENEW_SECONDS):
            with contextlib.suppress(OSError, ValueError):
                os.write(self._process.stdin.fileno(), b".")

    def check(self) -> None:
        """Raises when the process has ended, which it never does by itself."""
        if self._process.poll() is not None:
            last = self._log.read_text().strip().splitlines()[-3:]
            raise click.ClickException(f"A process ended with code {self._process.returncode}: {' / '.join(last)}")

    def cpu_seconds(self) -> float:
        return processes.cpu_seconds(self._process.pid)

    def peak_megabytes(self) -> float:
        return processes.peak_megabytes(self._process.pid)

    def __enter__(self) -> Consumer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._ended.set()
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class IdentityProcess(Consumer):
    """A side's identity process, in the same way."""

    def module(self, side: Side) -> str:
        """What runs."""
        return "appview_pipeline.identity.resolve_live"


@dataclass(frozen=True)
class Consumers:
    """Several that share the work, taken together."""

    members: list[Consumer]

    def check(self) -> None:
        for consumer in self.members:
            consumer.check()

    def cpu_seconds(self) -> float:
        return sum(consumer.cpu_seconds() for consumer in self.members)

    def peak_megabytes(self) -> float:
        """The sum of their peaks."""
        return sum(consumer.peak_megabytes() for consumer in self.members)


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder for servers; on a disk, and with a path short enough for their sockets. Deleted afterwards, and with it
    what killed benchmarks left behind."""
    for left in Path("/var/tmp").glob("appview-benchmark-*"):
        if not Path(f"/proc/{left.name.rpartition('-')[2]}").exists():
            shutil.rmtree(left, ignore_errors=True)
    folder = Path("/var/tmp") / f"appview-benchmark-{os.getpid()}"
    folder.mkdir()
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
