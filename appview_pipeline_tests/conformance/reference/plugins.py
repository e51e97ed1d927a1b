"""The record types that the published reference indexes: kept here, and read from the package again (README.md).

Usage: python -m appview_pipeline_tests.conformance.reference.plugins PACKAGES
`PACKAGES` is a node_modules folder with @atproto/bsky.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from appview_pipeline_tests.conformance.reference.packages import NODE

PLUGINS = frozenset(
    (
        "app.bsky.actor.profile",
        "app.bsky.actor.status",
        "app.bsky.feed.generator",
        "app.bsky.feed.like",
        "app.bsky.feed.post",
        "app.bsky.feed.postgate",
        "app.bsky.feed.repost",
        "app.bsky.feed.threadgate",
        "app.bsky.graph.block",
        "app.bsky.graph.follow",
        "app.bsky.graph.list",
        "app.bsky.graph.listblock",
        "app.bsky.graph.listitem",
        "app.bsky.graph.referencelistoptout",
        "app.bsky.graph.starterpack",
        "app.bsky.graph.verification",
        "app.bsky.labeler.service",
        "app.bsky.notification.declaration",
        "chat.bsky.actor.declaration",
        "com.germnetwork.declaration",
    )
)
"""Of @atproto/bsky 0.0.280."""


def plugins_of(packages: Path) -> frozenset[str]:
    """The record types that an installed @atproto/bsky has a plugin for."""
    result = subprocess.run(
        [NODE, Path(__file__).with_name("plugins.mjs"), packages],
        check=True, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    return frozenset(json.loads(result.stdout))


if __name__ == "__main__":
    found = plugins_of(Path(sys.argv[1]))
    for nsid in sorted(found - PLUGINS):
        print(f"new: {nsid}")
    for nsid in sorted(PLUGINS - found):
        print(f"gone: {nsid}")
    sys.exit(found != PLUGINS)
