"""What a code server of Dagster's knows of its runs and its end, without the server."""

from __future__ import annotations

import threading
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from typing import Any


class Servicer:
    """Those parts of Dagster's `DagsterApiServer` that `defs/leases/code_server.py` uses."""

    def __init__(self) -> None:
        self._shutdown_once_executions_finish_event = threading.Event()
        self._executions: dict[str, tuple[BaseProcess, Any]] = {}
        self._termination_events: dict[str, Event] = {}
