"""The reference's data plane as a process that calls its reads on several databases (reads.mjs)."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote

from appview_pipeline_tests.benchmark.reads_calls import Call
from appview_pipeline_tests.benchmark.reads_plans import SETTINGS
from appview_pipeline_tests.conformance.reference.check import node_url
from appview_pipeline_tests.conformance.reference.packages import NODE

SCRIPT = Path(__file__).with_name("reads.mjs")


@dataclass(frozen=True)
class Answered:
    """How a call went: milliseconds, the number of things in its answer, or its error; with `statements`, what it sent
    and a digest of the whole answer."""

    ms: float
    items: int
    error: str | None
    statements: list[tuple[str, list[Any]]]
    digest: str | None


class DataPlane:
    """Calls reads on the databases `urls` (by name), one at a time. A context manager."""

    def __init__(self, packages: Path, urls: Mapping[str, str], log: Path) -> None:
        options = quote(" ".join(f"-c {name}={value}" for name, value in SETTINGS.items()))
        given = {name: node_url(url) for name, url in urls.items()}
        named = json.dumps({name: f"{url}{'&' if '?' in url else '?'}options={options}" for name, url in given.items()})
        self._log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [NODE, SCRIPT, packages, named],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=output, text=True,
            )  # fmt: skip
        self.methods: list[str] = self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the reference ended: {self._log.read_text()[-2_000:]}"
        return json.loads(line)

    def call(self, database: str, call: Call, *, statements: bool = False) -> Answered:
        """Calls a read on one of the databases, and waits for the answer."""
        assert self._process.stdin is not None
        asked = {"database": database, "method": call.method, "request": call.request, "statements": statements}
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        said = self._answer()
        sent = [(each["text"], each["values"]) for each in said.get("statements", ())]
        return Answered(said.get("ms", 0.0), said.get("items", 0), said.get("error"), sent, said.get("digest"))

    def __enter__(self) -> DataPlane:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._process.kill()
        self._process.communicate()
