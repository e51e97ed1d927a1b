"""What the supervisor says it is doing: the file `embedded.json` of the state folder."""

from __future__ import annotations

import json
import os
import uuid
from dataclasses import asdict, dataclass, replace
from typing import Literal

from appview_pipeline.store.embedded.state_folder import StateFolder

Phase = Literal["starting", "ready", "stopped", "failed"]


@dataclass(frozen=True)
class SupervisorStatus:
    """What the supervisor last said. Believed only while a process holds `owner.lock`.

    `run` differs for every supervisor; `reason` is the sentence for the operator when `phase` is `failed`.
    """

    phase: Phase
    run: str
    socket_dir: str = ""
    version: str = ""
    reason: str = ""

    def now(self, phase: Phase, socket_dir: str = "", version: str = "") -> SupervisorStatus:
        """The same supervisor's status in another phase."""
        return replace(self, phase=phase, socket_dir=socket_dir, version=version)

    def failed(self, reason: str) -> SupervisorStatus:
        """The same supervisor's status after it failed."""
        return replace(self, phase="failed", reason=reason)


def new_status() -> SupervisorStatus:
    """The first status of a new supervisor."""
    return SupervisorStatus("starting", uuid.uuid4().hex)


def read_status(state: StateFolder) -> SupervisorStatus | None:
    """The last status written whole, or None."""
    try:
        return SupervisorStatus(**json.loads((state.path / "embedded.json").read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def write_status(state: StateFolder, status: SupervisorStatus) -> None:
    """Replaces the status; readers see the old one or the new one."""
    name = f"embedded.json.{os.getpid()}"
    descriptor = state.open(name, os.O_WRONLY | os.O_TRUNC)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(asdict(status), file)
    (state.path / name).replace(state.path / "embedded.json")
