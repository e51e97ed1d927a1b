"""The frames to measure with: made once by the simulated network, kept in the temp folder, the same every time."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from appview_pipeline.protocol import cid
from appview_pipeline_tests import simulated_network
from appview_pipeline_tests.simulated_network.corpus import write_corpus
from appview_pipeline_tests.simulated_network.world import PASTS, World

SEED = 7
ACCOUNTS = 66_000
"""Of 150 consecutive frames 148 are of different accounts; of 150 real ones 149 were."""
START = 1_780_000_000.0
"""Simulated time of the first frame, seconds since 1970: all revisions are given the same bytes."""


def cache_folder() -> Path:
    """Where the benchmark keeps what takes long to make; deleting it costs nothing but time."""
    folder = Path(tempfile.gettempdir()) / "appview-benchmark"
    folder.mkdir(exist_ok=True)
    return folder


@dataclass(frozen=True)
class Corpus:
    """`path` holds `frames` frames; `past` describes the world before the first one (see `_past`)."""

    path: Path
    past_path: Path
    frames: int

    @property
    def mean_bytes(self) -> float:
        """Of a frame."""
        return self.path.stat().st_size / self.frames - 4

    @cached_property
    def past(self) -> dict[str, Any]:
        past: dict[str, Any] = json.loads(self.past_path.read_text())
        return past


def corpus(frames: int, *, small: bool = False) -> Corpus:
    """The first `frames` frames of the simulated network, from the cache or made now (about 3,000 a second, and a
    quarter of a minute for the accounts).

    `small`: of a few accounts with empty repositories, whose frames are small and quickly made; for tests.
    """
    folder = cache_folder() / f"frames-{frames}{'-small' * small}-{sources()}"
    made = Corpus(folder / "frames.bin", folder / "past.json", frames)
    if not folder.exists():
        partial = Path(tempfile.mkdtemp(prefix=folder.name + ".", dir=folder.parent))
        try:
            world = World(SEED, 40 if small else ACCOUNTS, start=START, pasts=() if small else PASTS)
            past = _past(world)
            write_corpus(partial / "frames.bin", world.frames(frames))
            past["authors_at_end"] = len(world.authors)
            (partial / "past.json").write_text(json.dumps(past))
            partial.rename(folder)
        except OSError:
            if not folder.exists():  # otherwise somebody else was faster
                raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return made


def sources(module: Path = Path(__file__)) -> str:
    """Hash of what makes the bytes: the simulated network, and the module that uses it."""
    digest = hashlib.sha256()
    for source in [module, *sorted(Path(simulated_network.__file__).parent.glob("*.py"))]:
        if not source.name.startswith(("test_", "__main__")):
            digest.update(source.read_bytes())
    return digest.hexdigest()[:12]


def _past(world: World) -> dict[str, Any]:
    """What a database that was there before the first frame knows of the world: the accounts, where their repositories
    stand, their keys, and the posts that the frames refer to."""
    seen: set[str] = set()
    posts = []
    for post in [*world.popular.members, *world.recent.members]:
        if post.ref.uri not in seen:
            seen.add(post.ref.uri)
            root = post.root or post.ref
            posts.append((post.ref.uri, post.ref.cid, post.creator, root.uri, root.cid))
    accounts = [
        (
            author.did,
            author.account.handle,
            author.repository.rev,
            cid.to_text(author.repository.commit_cid),
            cid.to_text(author.repository.tree.cid),
        )
        for author in world.authors
    ]
    keys = [f"did:key:{author.account.public_key}" for author in world.authors]
    return {"seed": world.seed, "start": START, "accounts": accounts, "keys": keys, "posts": posts}
