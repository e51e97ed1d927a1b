"""Networks of a few accounts: commits in order, and how a failure shows them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from appview_pipeline_tests.properties.model import Subscription
from appview_pipeline_tests.support.commits import (
    BLOCK,
    FOLLOW,
    LIKE,
    LIST,
    LISTBLOCK,
    LISTITEM,
    OPTOUT,
    POST,
    POSTGATE,
    REPOST,
    STARTERPACK,
    THREADGATE,
    VERIFICATION,
    Commit,
)

NAMES = ("alice", "bob", "carol", "dan", "eve")
START = 1_750_000_000_000_000
SHORT = {
    POST: "post",
    LIKE: "like",
    REPOST: "repost",
    THREADGATE: "threadgate",
    POSTGATE: "postgate",
    FOLLOW: "follow",
    BLOCK: "block",
    LIST: "list",
    LISTITEM: "listitem",
    LISTBLOCK: "listblock",
    OPTOUT: "optout",
    STARTERPACK: "pack",
    VERIFICATION: "verify",
}


class Move(NamedTuple):
    """`kind`: one of KINDS. `who`: the account. `pick`, `other`: which records or accounts it is about.

    `twist`: which variant. `joins`: in the last commit, not in a new one.
    """

    kind: str
    who: int
    pick: int
    other: int
    twist: int
    joins: bool


@dataclass(frozen=True)
class Network:
    """Commits in the order of their revs, and mutes and subscriptions that exist from the start."""

    commits: tuple[Commit, ...]
    thread_mutes: frozenset[tuple[str, str]] = frozenset()
    subscriptions: tuple[Subscription, ...] = ()

    def __repr__(self) -> str:
        lines = [f"{short(who)} mutes {short(root)}" for root, who in sorted(self.thread_mutes)]
        lines += [
            f"{short(it.creator)} subscribes to {short(it.subject)}: post {it.post}, reply {it.reply}"
            for it in self.subscriptions
        ]
        for number, commit in enumerate(self.commits):
            for op in commit.ops:
                uri = short(f"at://{commit.did}/{op.collection}/{op.rkey}")
                lines.append(f"{number:3} {short(commit.did)}: {op.action} {uri} {_said_by(op.record)}")
        return "\n" + "\n".join(lines)


def did_of(number: int) -> str:
    return f"did:plc:{NAMES[number % len(NAMES)]}"


def short(text: str) -> str:
    """An identifier as a person would say it: `alice`, `alice/post1`."""
    text = text.removeprefix("at://").removeprefix("did:plc:")
    for collection, name in SHORT.items():
        text = text.replace(
            f"/{collection}/", "/" if collection != THREADGATE and not name.endswith("gate") else f"/{name}:"
        )
    return text


def _said_by(record: dict[str, Any] | None) -> str:
    if record is None:
        return ""
    said = {name: value for name, value in record.items() if name not in ("$type", "createdAt", "text", "handle")}
    return short(str(_without_cids(said)).replace("at://", "").replace("did:plc:", "").replace("'", ""))


def _without_cids(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_cids(item) for item in value]
    if isinstance(value, dict):
        if value.keys() == {"uri", "cid"}:
            return value["uri"]
        return {name: _without_cids(item) for name, item in value.items()}
    return value
