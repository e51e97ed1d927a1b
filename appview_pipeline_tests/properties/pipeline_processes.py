"""The pipeline as processes that may be killed at any instruction: consumer, identity process, fetch process, and what
Dagster's schedules do (`schedule_process.py`)."""

from __future__ import annotations

import signal
import sys
from collections import Counter
from random import Random
from types import TracebackType

from appview_pipeline.backfill.fetch_process import COMMAND as FETCH
from appview_pipeline.identity.identity_process import COMMAND as IDENTITY
from appview_pipeline.ingest.live.consumer_process import COMMAND as CONSUMER
from appview_pipeline_tests.support.consumers import Consumer

SCHEDULES = (sys.executable, "-m", "appview_pipeline_tests.properties.schedule_process")


def _process(command: tuple[str, ...]) -> type[Consumer]:
    return type("Process", (Consumer,), {"command": command})


KINDS: dict[str, type[Consumer]] = {
    "consumer": Consumer,
    "identity": _process(IDENTITY),
    "fetch": _process(FETCH),
    "schedules": _process(SCHEDULES),
}
assert Consumer.command == CONSUMER


class Processes:
    """One of each kind; a process that ends is started again, as a sensor or a schedule does. A context manager.

    `killed` counts by kind; `ended` are the codes of those that ended by themselves.
    """

    def __init__(self, database_url: str, relay_url: str, environment: dict[str, str]) -> None:
        self._arguments = (database_url, relay_url)
        self._environment = environment
        self._running: dict[str, Consumer] = {}
        self._paused: set[str] = set()
        self.killed: Counter[str] = Counter()
        self.ended: Counter[tuple[str, int]] = Counter()
        self.said: dict[str, list[str]] = {kind: [] for kind in KINDS}

    def keep_running(self) -> None:
        """Starts what does not run."""
        for kind in KINDS:
            process = self._running.get(kind)
            if process is not None and (code := process.process.poll()) is not None:
                self.ended[kind, code] += 1
                self._take_down(kind)
                process = None
            if process is None and kind not in self._paused:
                self._running[kind] = KINDS[kind](*self._arguments, **self._environment)

    def kill(self, kind: str) -> None:
        """Kills a process at whatever instruction it is; `keep_running` starts another."""
        if kind in self._running:
            self._running[kind].process.send_signal(signal.SIGKILL)
            self._running[kind].process.wait()
            self._take_down(kind)
            self.killed[kind] += 1

    def kill_one(self, rng: Random) -> str:
        """Kills one of them, most often those that write."""
        kind = rng.choices(tuple(KINDS), (4, 1, 2, 4))[0]
        self.kill(kind)
        return kind

    def pause(self, kind: str) -> None:
        """Kills a process and starts none until `resume`."""
        self._paused.add(kind)
        self.kill(kind)

    def resume(self, kind: str) -> None:
        self._paused.discard(kind)
        self.keep_running()

    def _take_down(self, kind: str) -> None:
        process = self._running.pop(kind)
        process.clean_up()
        self.said[kind] += process.lines

    def last_words(self, lines: int = 15) -> str:
        """What each said last, for a failure."""
        words = {
            kind: [*self.said[kind], *(self._running[kind].lines if kind in self._running else [])] for kind in KINDS
        }
        return "\n".join(f"--- {kind}\n" + "".join(said[-lines:]) for kind, said in words.items())

    def __enter__(self) -> Processes:
        self.keep_running()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for name in list(self._running):
            self._take_down(name)
