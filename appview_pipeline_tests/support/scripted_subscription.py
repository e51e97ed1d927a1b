"""A subscription that has received what a test says."""

from __future__ import annotations

from dataclasses import dataclass, field

from appview_pipeline.network.notices import Notice
from appview_pipeline.network.subscription import SubscriptionStatus


@dataclass
class Scripted:
    """A subscription that has received what the test says."""

    frames: list[bytes] = field(default_factory=list)
    noticed: list[Notice] = field(default_factory=list)
    status: SubscriptionStatus = field(default_factory=lambda: SubscriptionStatus(state="connected", connected=True))
    stopped: bool = False

    def start(self) -> None: ...

    def stop(self) -> None:
        self.stopped = True

    def take(self, limit: int, timeout: float) -> list[bytes]:
        taken, self.frames = self.frames[:limit], self.frames[limit:]
        return taken

    def notices(self) -> list[Notice]:
        taken, self.noticed = self.noticed, []
        return taken
