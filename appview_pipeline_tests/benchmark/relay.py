"""The simulated relay as a process of its own, so that what it costs is not taken for the consumer's.

`python -m appview_pipeline_tests.benchmark.relay FRAMES PAST SKIP COUNT alone|directory` reads the frames into memory
and answers commands, JSON lines on stdin and stdout: nothing is there for a client until it is published.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any

from appview_pipeline_tests.benchmark.corpus import Corpus
from appview_pipeline_tests.simulated_network.corpus import read_corpus
from appview_pipeline_tests.simulated_network.directory import Pds, PlcDirectory
from appview_pipeline_tests.simulated_network.relay import Relay, frame_seq
from appview_pipeline_tests.simulated_network.world import World
from appview_pipeline_tests.support.checkout import CHECKOUT


class RelayProcess:
    """The relay's process, seen from the benchmark. It offers frames `skip` to `skip + count` of the corpus.

    With `directory` there is a PLC directory too, which knows the accounts; making them takes 8 s.
    """

    def __init__(self, corpus: Corpus, skip: int, count: int, *, directory: bool = False) -> None:
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", __name__, corpus.path, corpus.past_path, str(skip), str(count)),
                "directory" if directory else "alone",
            ],
            cwd=CHECKOUT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        ready = self._answer()
        self.url: str = ready["url"]
        self.plc_url: str = ready["plc_url"]
        self.start_cursor: int = ready["start_cursor"]
        self.last_seq: int = ready["last_seq"]

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the relay's process ended with code {self._process.wait()}")
        return json.loads(line)

    def _ask(self, **command: Any) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def connections(self) -> int:
        """How many clients have connected so far."""
        return int(self._ask(do="connections"))

    def publish(self, count: int) -> tuple[float, int]:
        """Offers the next `count` frames all at once. When (monotonic clock), and the last one's seq."""
        at, seq = self._ask(do="publish", count=count)
        return at, seq

    def pace(self, count: int, rate: float) -> list[tuple[int, float]]:
        """Offers the next `count` frames, `rate` a second; returns at the end, with when (monotonic) each seq came."""
        return [(seq, at) for seq, at in self._ask(do="pace", count=count, rate=rate)]

    def begin_pace(self, count: int, rate: float) -> None:
        """The same without waiting for the end; nothing more can be asked then."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": "pace", "count": count, "rate": rate}) + "\n")
        self._process.stdin.flush()

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()

    def __enter__(self) -> RelayProcess:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()


def _publish(relay: Relay, frames: list[tuple[int, bytes]]) -> None:
    # Through the window for all but the last: `publish` would decode every frame once more to learn its seq.
    with relay.lock:
        for seq, frame in frames[:-1]:
            relay.window.append(seq, frame)
    relay.publish([frame for _, frame in frames[-1:]])


def _pace(relay: Relay, frames: list[tuple[int, bytes]], rate: float) -> list[tuple[int, float]]:
    marks: list[tuple[int, float]] = []
    started = time.monotonic()
    while len(marks) < len(frames):
        now = time.monotonic()
        due = frames[len(marks) : int((now - started) * rate)]
        marks += [(seq, now) for seq, _ in due]
        _publish(relay, due)
        time.sleep(max(0.0, started + (len(marks) + 1) / rate - time.monotonic()))
    return marks


def serve(frames_path: Path, past_path: Path, skip: int, count: int, *, directory: bool) -> None:
    """Serves until stdin ends."""
    past = json.loads(past_path.read_text()) if directory else {"seed": 0, "authors_at_end": 0, "start": 0}
    # The accounts suffice for the directory: their pasts, which take long to write, are asked for by nobody here.
    world = World(past["seed"], past["authors_at_end"], start=past["start"], pasts=())
    pds = Pds(world)
    plc = PlcDirectory(world)
    pds.start()
    plc.start()
    held: list[tuple[int, bytes]] = []
    before = 0
    for number, frame in enumerate(islice(read_corpus(frames_path), skip + count)):
        if number >= skip:
            held.append((frame_seq(frame) or 0, frame))
        elif number == skip - 1:
            before = frame_seq(frame) or 0
    last = held[-1][0]
    held.reverse()
    with Relay(window_bytes=1 << 40) as relay:
        relay.window.newest_seq = before  # a cursor there is one of the past, not of the future
        _say({"url": relay.url, "plc_url": plc.url, "start_cursor": before, "last_seq": last})
        for line in sys.stdin:
            command = json.loads(line)
            if command["do"] == "connections":
                _say(relay.connections)
                continue
            # Taken off the list as they go: the window keeps its own copy.
            frames = [held.pop() for _ in range(min(command["count"], len(held)))]
            if command["do"] == "publish":
                at = time.monotonic()
                _publish(relay, frames)
                _say([at, frames[-1][0]])
            else:
                _say(_pace(relay, frames, command["rate"]))


def _say(value: Any) -> None:
    print(json.dumps(value), flush=True)


if __name__ == "__main__":
    serve(
        Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), directory=sys.argv[5] == "directory"
    )
