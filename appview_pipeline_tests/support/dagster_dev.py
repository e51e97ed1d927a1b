"""`dagster dev` for real, in a folder of its own: started, asked by GraphQL, interrupted, looked at through /proc."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from appview_pipeline_tests.support.checkout import CHECKOUT
from appview_pipeline_tests.support.ports import free_port
from appview_pipeline_tests.support.waiting import pause

MATERIALIZATIONS = """
query ($key: AssetKeyInput!) {
  assetOrError(assetKey: $key) {
    ... on Asset {
      assetMaterializations(limit: 100) {
        partition
        metadataEntries {
          label
          ... on IntMetadataEntry { intRepr }
          ... on FloatMetadataEntry { floatValue }
          ... on JsonMetadataEntry { jsonString }
        }
      }
    }
  }
}"""


class Dev:
    """One `dagster dev` in `folder`, started as a terminal would."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        self.mark = f"APPVIEW_LIVE_TEST={uuid.uuid4()}"
        name, _, value = self.mark.partition("=")
        self.port = free_port()
        inherited = {key: text for key, text in os.environ.items() if key not in ("DAGSTER_HOME", "DATABASE_URL")}
        self.log = (folder / "dev.log").open("ab")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "dagster", "dev", "-p", str(self.port)],
            cwd=folder,
            env={**inherited, **environment, name: value, "PYTHONPATH": str(CHECKOUT)},
            stdout=self.log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def ask(self, query: str, **variables: Any) -> Any:
        """The data of a GraphQL query to the webserver."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/graphql",
            json.dumps({"query": query, "variables": variables}).encode(),
            {"content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            body = json.load(answer)
        assert "errors" not in body, body["errors"]
        return body["data"]

    def is_up(self) -> bool:
        assert self.process.poll() is None, (self.folder / "dev.log").read_text()
        try:
            return bool(self.ask("{ version }"))
        except OSError:
            return False

    def materializations(self, *path: str) -> list[dict[str, Any]]:
        """The numbers of an asset's materializations, details among them, oldest first, with their partition."""
        asset = self.ask(MATERIALIZATIONS, key={"path": list(path)})["assetOrError"]
        found = []
        for event in reversed(asset.get("assetMaterializations", [])):
            numbers: dict[str, Any] = {"partition": event["partition"]}
            for entry in event["metadataEntries"]:
                if entry.get("jsonString"):
                    numbers |= json.loads(entry["jsonString"])
                else:
                    value = entry.get("intRepr")
                    numbers[entry["label"]] = entry.get("floatValue") if value is None else int(value)
            found.append(numbers)
        return found

    def processes(self) -> dict[int, str]:
        """Every process that descends from this `dagster dev`, whoever its parent is now, with its command."""
        found = {}
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and self.mark.encode() in (entry / "environ").read_bytes():
                    command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                    if command:  # a zombie has none
                        found[int(entry.name)] = command
            except OSError:
                continue
        return found

    def consumers(self) -> list[int]:
        return [pid for pid, command in self.processes().items() if "appview_pipeline.ingest.live.consumer" in command]

    def resolvers(self) -> list[int]:
        return [pid for pid, command in self.processes().items() if "identity.resolve_live" in command]

    def interrupt(self) -> float:
        """Interrupts `dagster dev` alone (as systemd and Docker do); returns the seconds until it ended."""
        started = time.monotonic()
        self.process.send_signal(signal.SIGINT)
        self.process.wait(300)
        return time.monotonic() - started

    def interrupt_all(self) -> float:
        """Interrupts the whole group, as Ctrl-C in a terminal does; returns the seconds until `dagster dev` ended."""
        started = time.monotonic()
        os.killpg(self.process.pid, signal.SIGINT)
        self.process.wait(300)
        return time.monotonic() - started

    def survivors(self) -> list[str]:
        """What still runs, apart from the database's supervisor, which waits for another user for 20 s."""
        return [
            command
            for command in self.processes().values()
            if "embedded.supervisor" not in command and "postgres" not in command
        ]

    def kill(self) -> None:
        for pid in self.processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait()
        self.log.close()
        print(Path(self.log.name).read_text(errors="replace")[-20_000:])  # pytest shows it where the test failed


def until(condition: Callable[[], Any], what: str, seconds: float = 300.0) -> Any:
    began = time.monotonic()
    while not (found := condition()):
        waited = time.monotonic() - began
        assert waited < seconds, f"not within {seconds:.0f} s: {what}"
        pause(waited, 0.2, 1.0)  # it mostly asks the webserver for a hundred materializations
    return found


@contextmanager
def checkout_folder() -> Iterator[Path]:
    """A folder as a fresh checkout is to `dagster dev`; with a short path, for the database's socket."""
    path = Path(tempfile.mkdtemp(prefix="appview-live-"))
    path.chmod(0o755)  # the database's own user must get to its files
    for name in ("dagster.yaml", "workspace.yaml"):
        shutil.copy(CHECKOUT / name, path)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
