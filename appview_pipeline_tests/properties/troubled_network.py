"""A simulated network in which everything goes wrong, and comes to rest: lost and tampered commits, rewritten
repositories, accounts that move, leave and return, hosts that fail, an outage of a week."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from appview_pipeline.protocol.frames import Commit, Sync, decode_frame
from appview_pipeline_tests.simulated_network import SimulatedNetwork, World
from appview_pipeline_tests.simulated_network.outages import Outages
from appview_pipeline_tests.simulated_network.world import Author

WEEK = 7 * 86_400
PASTS = ((0, 20), (15, 40), (60, 30), (200, 10))


@dataclass(frozen=True)
class Troubles:
    """Shares of all commits that are `lost`, with their number or without, and `tampered` with; of all accounts whose
    repository is `rewritten`, that are `deleted`, `deactivated` (they return at the end) and that `migrate`. Hosts work
    `calm` seconds in the mean, and fail `length`."""

    lost: float = 0.025
    unnumbered: float = 0.025
    tampered: float = 0.005
    rewritten: float = 0.02
    deleted: float = 0.01
    deactivated: float = 0.01
    migrate: float = 0.01
    calm: float = 10.0
    length: float = 3.0


@dataclass
class TroubledNetwork:
    """A network of `accounts` at `hosts` PDSes. `happened` counts what was done to accounts.

    Its time is ours, a week ago until `a_week_passes` where `has_week`.
    """

    accounts: int
    seed: int
    hosts: int = 5
    troubles: Troubles = field(default_factory=Troubles)
    has_week: bool = True
    happened: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._rng = Random(f"troubled network {self.seed}")
        self._behind = WEEK if self.has_week else 0
        self.world = World(
            self.seed,
            self.accounts,
            start=time.time() - self._behind - 60,
            rate=2_000,  # slower than our time, so that `_follow` keeps the two together
            pasts=PASTS,
            homes=self.hosts,
            p256_share=0.1,
        )
        mishaps = self.world.mishaps
        mishaps.lost, mishaps.unnumbered = self.troubles.lost, self.troubles.unnumbered
        mishaps.tampered = self.troubles.tampered
        self.network = SimulatedNetwork(self.world)
        self.outages = Outages(self.network.pdses, seed=self.seed, calm=self.troubles.calm, length=self.troubles.length)
        self._planned = self._plan()
        self._frames: list[bytes] = []

    def _plan(self) -> list[tuple[float, str, str]]:
        """(share of the time, what happens, DID), in the order of time."""
        dids = [author.did for author in self.world.authors]
        return sorted(
            (self._rng.random(), kind, did)
            for kind in ("rewritten", "deleted", "deactivated", "migrate")
            for did in self._rng.sample(dids, max(1, round(getattr(self.troubles, kind) * len(dids))))
        )

    def advance(self, frames: int, progress: float) -> None:
        """The next frames, and what was planned until `progress` (0 to 1)."""
        self._follow()
        self._publish(self.network.happen, self._steps, frames)
        while self._planned and self._planned[0][0] <= progress:
            _, kind, did = self._planned.pop(0)
            self._happen(kind, did)

    def _steps(self, frames: int) -> list[bytes]:
        """So many frames or a few more: nothing of what happens to an account is cut off, for that would be one more
        commit that is lost, and that no later one may show."""
        made: list[bytes] = []
        while len(made) < frames:
            made += self.world.step()
        return made

    def _publish(self, publish: Callable[..., list[bytes]], *arguments: object) -> None:
        self._frames += publish(*arguments)

    def history(self, did: str) -> list[str]:
        """The frames of an account that were published, a line each; lost ones are not among them."""
        lines = []
        for event in map(decode_frame, self._frames):
            if getattr(event, "repo", getattr(event, "did", None)) != did:
                continue
            said = f"{event.seq} {type(event).__name__}" if hasattr(event, "seq") else type(event).__name__
            if isinstance(event, Commit):
                ops = [f"{op['action']} {op['path']}" for op in event.ops if isinstance(op, dict)]
                said += f" {event.rev} after {event.since}: {', '.join(ops)}"
            elif isinstance(event, Sync):
                said += f" {event.rev}"
            lines.append(said)
        return lines

    def _follow(self) -> None:
        self.world.follow(int((time.time() - self._behind) * 1_000_000))

    def _happen(self, kind: str, did: str) -> None:
        account = self.world.by_did[did].account
        if account.status == "deleted":
            return
        self.happened[kind] += 1
        if kind == "rewritten":
            self._publish(self.network.happen, self.world.rewrite, did)
        elif kind == "deleted":
            self._publish(self.network.happen, self.world.delete, did)
        elif kind == "deactivated":
            self._publish(self.network.happen, self.world.deactivate, did)
        else:
            self._publish(self.network.happen, self.world.migrate, did, (account.home + 1) % self.hosts)

    def a_week_passes(self, frames: int) -> None:
        """So many frames that no client of the relay is sent: its window has moved on when somebody comes again."""
        self._publish(self.network.happen, self._steps, frames // 2)
        self._behind = 0
        self._follow()
        self._publish(self.network.happen, self._steps, frames - frames // 2)
        newest = self.network.relay.window.newest_seq
        self.network.relay.forget_before(newest - frames // 10)

    def come_to_rest(self) -> int:
        """Nothing goes wrong any more: hosts work, accounts that were away return, and those whose commits were lost or
        tampered with commit once more, which is what shows it. Then nothing changes. The newest sequence number."""
        self.outages.stop()
        self.world.mishaps.stop()
        self._follow()
        while self._planned:
            self.advance(0, 1.0)
        for author in [*self.world.authors]:
            if author.account.status == "deleted":
                continue
            if not author.account.active:
                self._publish(self.network.happen, self.world.reactivate, author.did)
            if author.did in self.world.mishaps.dids:
                self._publish(self.network.happen, self.world.write, author.did)
        return self.network.relay.window.newest_seq

    @property
    def living(self) -> list[Author]:
        """The accounts that are not deleted."""
        return [author for author in self.world.authors if author.account.status != "deleted"]

    @property
    def deleted(self) -> list[Author]:
        """The accounts that are."""
        return [author for author in self.world.authors if author.account.status == "deleted"]

    def report(self) -> str:
        """What went wrong, in words."""
        mishaps = dict(sorted(self.world.mishaps.by_kind.items()))
        return (
            f"{self.network.published:,} frames of {len(self.world.authors):,} accounts at {self.hosts} hosts; "
            f"commits: {mishaps}; accounts: {dict(self.happened)}; outages of hosts: {dict(self.outages.by_kind)}"
        )
