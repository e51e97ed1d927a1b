"""The pages of the HTTP API on the databases of the reads' benchmark: alone, and beside the pipeline's writing."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from appview_pipeline_tests.benchmark import reads_writing
from appview_pipeline_tests.benchmark.corpus import START
from appview_pipeline_tests.benchmark.reads_world import DAY, Subjects
from appview_pipeline_tests.benchmark.sides import Server
from appview_pipeline_tests.conformance.reference import packages
from appview_pipeline_tests.conformance.reference.reader import Reader, serving

WARM_UP = 3
WARM_UP_SECONDS = 60.0
"""About what the first requests take, of every page on both databases."""


@dataclass
class Pages:
    """Milliseconds of each page that was asked for; events a second that the database was written meanwhile."""

    ms: dict[str, list[float]] = field(default_factory=dict)
    events: float = 0.0

    @property
    def requests(self) -> int:
        """How many pages were asked for."""
        return sum(map(len, self.ms.values()))

    def of(self, page: str) -> list[float]:
        """The median of a page and its 95th percentile."""
        taken = sorted(self.ms[page])
        return [statistics.median(taken), taken[min(len(taken) - 1, int(len(taken) * 0.95))]]


def asked_for(s: Subjects) -> dict[str, tuple[str, str | None, dict[str, Any]]]:
    """The pages by name: method, viewer, parameters."""
    feed = "app.bsky.feed."
    # Before the first frame: items that writing adds nothing to.
    before = f"{int((START - DAY / 2) * 1000)}__z"
    return {
        "getTimeline of an ordinary account": (f"{feed}getTimeline", s.ordinary, {"limit": 50}),
        "getTimeline of one that follows thousands": (f"{feed}getTimeline", s.reader, {"limit": 50}),
        "getTimeline of one that follows thousands, what was there before": (
            f"{feed}getTimeline", s.reader, {"limit": 50, "cursor": before},
        ),
        "getAuthorFeed of a writer of 100,000": (f"{feed}getAuthorFeed", s.reader, {"actor": s.writer, "limit": 50}),
        "getAuthorFeed, author threads": (
            f"{feed}getAuthorFeed", s.reader, {"actor": s.writer, "limit": 50, "filter": "posts_and_author_threads"},
        ),
        "getPostThread, ordinary": (f"{feed}getPostThread", s.reader, {"uri": s.post}),
        "getPostThread, thousands of replies": (f"{feed}getPostThread", s.reader, {"uri": s.known}),
        "getPosts of 25": (f"{feed}getPosts", s.reader, {"uris": s.posts[:25]}),
        "getLikes of a post that tens of thousands liked": (f"{feed}getLikes", s.reader, {"uri": s.known, "limit": 50}),
        "getProfiles of 25": ("app.bsky.actor.getProfiles", s.reader, {"actors": s.accounts[6:31]}),
        "getFollowers of tens of thousands": ("app.bsky.graph.getFollowers", s.reader, {"actor": s.star, "limit": 50}),
        "listNotifications of an ordinary account": (
            "app.bsky.notification.listNotifications", s.ordinary, {"limit": 50},
        ),
        "listNotifications of the most followed": ("app.bsky.notification.listNotifications", s.star, {"limit": 50}),
        "searchActorsTypeahead": ("app.bsky.actor.searchActorsTypeahead", s.reader, {"q": "annawri", "limit": 10}),
    }  # fmt: skip


def ask(reader: Reader, s: Subjects, taken: Pages, name: str) -> None:
    """Asks for a page, and notes how long it took."""
    method, viewer, parameters = asked_for(s)[name]
    began = time.monotonic()
    answer = reader.get(method, viewer, **parameters)
    if answer.status != 200:
        raise click.ClickException(f"{name}: {answer.status} {str(answer.body)[:300]}")
    taken.ms.setdefault(name, []).append((time.monotonic() - began) * 1000)


def least_asked(names: Iterable[str], taken: Iterable[Pages]) -> str:
    """The page that has taken the least time so far: each has its share, the slow ones are asked for less often."""
    return min(names, key=lambda page: sum(sum(each.ms.get(page, ())) for each in taken))


def pages(urls: Mapping[str, str], folder: Path, s: Subjects, seconds: float, only: str = "") -> dict[str, Pages]:
    """Asks for the pages whose name contains `only`, one at a time, on the databases by turns (A B B A), for `seconds`
    each."""
    names = [page for page in asked_for(s) if only in page]
    found = {name: Pages() for name in urls}
    with ExitStack() as stack:
        readers = {
            name: stack.enter_context(serving(packages.install(), url, folder / f"{name}.log"))
            for name, url in urls.items()
        }
        for page in names:
            for reader in readers.values():
                for _ in range(WARM_UP):
                    ask(reader, s, Pages(), page)
        deadline = time.monotonic() + seconds * len(urls)
        while time.monotonic() < deadline or len(found[next(iter(urls))].ms) < len(names):
            page = least_asked(names, found.values())
            for name in (*readers, *reversed(readers)):
                ask(readers[name], s, found[name], page)
    return found


def beside_writing(
    server: Server,
    between: tuple[str, str],
    folder: Path,
    s: Subjects,
    seconds: float,
    rate: float,
    only: str = "",
    *,
    small: bool,
) -> dict[str, Pages]:
    """Asks for the pages, one at a time, by turns on two copies of our database, the second with the indexes of
    theirs, while the pipeline writes `rate` events a second to each. `between` names ours and theirs."""
    names = (reads_writing.OURS, reads_writing.THEIRS)
    with (
        reads_writing.copies(server, *between),
        reads_writing.writing(server, folder, seconds * len(names) + WARM_UP_SECONDS, rate, small=small) as at_work,
    ):
        time.sleep(3)  # the beginning is over
        found = pages({name: server.url(name) for name in names}, folder, s, seconds, only)
        at_work.check()
        if at_work.is_over:
            raise click.ClickException("The pipeline wrote all frames before the pages were asked for: lower --rate.")
        for name, events in at_work.events().items():
            found[name].events = events
    return found
