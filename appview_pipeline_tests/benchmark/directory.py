"""The servers that resolution asks (PLC directory, name server, PDSes) as a process of its own.

`python -m appview_pipeline_tests.benchmark.directory SEED ACCOUNTS START` says how to use them and which accounts it
has, then changes its faults at commands; JSON lines on stdin and stdout.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from types import TracebackType
from typing import Any

from appview_pipeline_tests.benchmark.corpus import Corpus
from appview_pipeline_tests.simulated_network.faults import AccountFaults
from appview_pipeline_tests.simulated_network.network import SimulatedNetwork
from appview_pipeline_tests.simulated_network.world import World
from appview_pipeline_tests.support.checkout import CHECKOUT


class DirectoryProcess:
    """The process, seen from the benchmark: the accounts of the corpus, and more up to `accounts`."""

    def __init__(self, corpus: Corpus, accounts: int) -> None:
        past = corpus.past
        count = max(accounts, past["authors_at_end"])
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(past["seed"]), str(count), str(past["start"])],
            cwd=CHECKOUT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        ready = self._answer()
        self.environment: dict[str, str] = ready["environment"]
        self.plc: str = self.environment["APPVIEW_PLC_URL"].partition("//")[2]
        """The PLC directory, as `pipeline.upstream` calls it."""
        self.dids: list[str] = ready["dids"]
        """Every account, the most popular ones first."""

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the directory's process ended with code {self._process.wait()}")
        return json.loads(line)

    def misbehave(self, faults: AccountFaults) -> None:
        """Sets the shares of accounts whose DID meets each fault at the PLC directory."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(vars(faults)) + "\n")
        self._process.stdin.flush()
        self._answer()

    def __enter__(self) -> DirectoryProcess:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._process.kill()
        self._process.communicate()


def serve(seed: int, accounts: int, start: float) -> None:
    """Serves until stdin ends. On a network it would be another machine, so it takes what the others leave."""
    os.nice(15)
    with SimulatedNetwork(World(seed, accounts, start=start, pasts=())) as network:
        dids = [author.did for author in network.world.authors]
        print(json.dumps({"environment": network.environment(), "dids": dids}), flush=True)
        for line in sys.stdin:
            network.plc.faults.accounts = AccountFaults(**json.loads(line))
            print("{}", flush=True)


if __name__ == "__main__":
    serve(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
