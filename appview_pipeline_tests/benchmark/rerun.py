"""A rerun of everything beside the live stream, in a process of its own, as a run of Dagster would do it."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from dataclasses import dataclass

import click

from appview_pipeline_tests.benchmark.sides import Side

_RERUN = """
import json, sys, time
from appview_pipeline.ingest.rerun import DERIVED_COLLECTIONS, rerun_collections
from appview_pipeline.settings import load
from appview_pipeline.store.database import open_database

began = time.monotonic()
said = 0.0
listed = None
def progress(done, total, changed):
    global said, listed
    listed = listed or time.monotonic() - began
    if time.monotonic() - said > 0.5 or done == total:
        said = time.monotonic()
        print(json.dumps({"records": done, "of": total, "seconds": said - began - listed}), flush=True)

found = rerun_collections(open_database(load()), DERIVED_COLLECTIONS, progress=progress)
print(json.dumps({"records": found.records, "of": found.records, "seconds": found.seconds, "changed": found.changed,
                  "locked_seconds": getattr(found, "locked_seconds", None)}), flush=True)
"""


@dataclass(frozen=True)
class Rerun:
    """How far a rerun came: records compared, of how many, in how many seconds (without making its list). `changed`:
    rows; `locked_seconds`: the longest that one of its transactions held its locks. None: it had not ended."""

    records: int
    of: int
    seconds: float
    changed: int | None = None
    locked_seconds: float | None = None

    @property
    def per_second(self) -> float:
        return self.records / self.seconds if self.seconds else 0.0

    def __str__(self) -> str:
        words = f"{self.records:,} of {self.of:,} records compared at {self.per_second:,.0f}/s"
        if self.changed is not None:
            words += f", {self.changed:,} rows changed"
        if self.locked_seconds is not None:
            words += f", at most {self.locked_seconds * 1000:,.0f} ms under locks"
        return words


class RerunProcess:
    """The rerun under way; `begun` once its list is made and it compares the first records."""

    def __init__(self, side: Side, database_url: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _RERUN],
            cwd=side.checkout, env=side.environment(APPVIEW_DATABASE_URL=database_url),
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.begun = threading.Event()
        self._so_far = Rerun(0, 0, 0.0)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            said = json.loads(line)
            if "changed" in said:
                said["changed"] = sum(said["changed"].values())
                said["seconds"] = self._so_far.seconds
            self._so_far = Rerun(**said)
            self.begun.set()

    def wait_for_its_beginning(self, patience: float) -> None:
        """Returns when it compares records."""
        deadline = time.monotonic() + patience
        while not self.begun.wait(0.1):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise click.ClickException("The rerun does not begin; its error is above.")

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def finish(self) -> Rerun:
        """Waits for its end."""
        if self._process.wait():
            raise click.ClickException("The rerun failed; its error is above.")
        self._reader.join(5)
        return self._so_far

    def end(self) -> Rerun:
        """Ends it, wherever it is."""
        self._process.kill()
        self._process.wait()
        self._reader.join(5)
        return self._so_far
