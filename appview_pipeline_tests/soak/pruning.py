"""Days of Dagster's history in minutes: what the job `prune_history` does, done often, so that a soak of half an hour
shows that the event log stays as long as it is."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from datetime import datetime, timedelta, timezone

import dagster as dg

from appview_pipeline.defs.sweeps.history import FREQUENT_JOBS, prune_events, prune_runs
from appview_pipeline_tests.support.deployment import Deployment

EVERY_SECONDS = 60.0
KEPT = timedelta(minutes=5)


class Pruner:
    """Prunes in a thread of its own, from `start` to `stop`. `deleted` counts."""

    def __init__(self, deployment: Deployment, say: Callable[[str], None]) -> None:
        self._deployment, self._say = deployment, say
        self.deleted = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pruner", daemon=True)

    def start(self) -> None:
        os.environ["DAGSTER_PG_URL"] = self._deployment.dagster_url
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join(120)

    def _run(self) -> None:
        while not self._over.wait(EVERY_SECONDS):
            try:
                with dg.DagsterInstance.from_config(str(self._deployment.home)) as instance:
                    before = datetime.now(timezone.utc) - KEPT
                    self.deleted += prune_events(instance, before) + prune_runs(instance, before, FREQUENT_JOBS)
            except Exception as error:  # the database is away; the next time it may be back
                self._say(f"nothing was pruned: {str(error).partition(chr(10))[0][:120]}")
