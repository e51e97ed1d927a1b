"""Records that say something of what belongs to others are refused, whatever their lexicon allows."""

from __future__ import annotations

from typing import Any

import pytest

from appview_pipeline_tests.support.batches import changes_of
from appview_pipeline_tests.support.changes import COLLECTIONS
from appview_pipeline_tests.support.frames import WHEN, Person, Stream, create, did_of

OWN, OTHER = did_of("ann"), did_of("ben")
GATES = ("app.bsky.feed.threadgate", "app.bsky.feed.postgate")


def refusal(path: str, **fields: Any) -> tuple[str, str] | None:
    """Kind and reason of the dead letter of a record of ann's; None where it may be indexed."""
    assert path.partition("/")[0] in COLLECTIONS
    (change,) = changes_of(Person(Stream(), "ann").commit(create(path, {**fields, "createdAt": WHEN})))
    letters = [(letter.kind, letter.reason) for letter in change.dead_letters]
    assert len(letters) + len(change.writes) == 1
    return letters[0] if letters else None


@pytest.mark.parametrize("gate", GATES)
def test_a_gate_is_of_its_own_accounts_post_and_under_its_key(gate: str) -> None:
    assert refusal(f"{gate}/a", post=f"at://{OWN}/app.bsky.feed.post/a") is None
    for post in (f"at://{OTHER}/app.bsky.feed.post/a", f"at://{OWN}/app.bsky.feed.post/b"):
        found = refusal(f"{gate}/a", post=post)
        assert found is not None and found[0] == "collection-rule" and post in found[1]


def test_only_the_owner_of_a_list_puts_accounts_on_it() -> None:
    assert refusal("app.bsky.graph.listitem/a", list=f"at://{OWN}/app.bsky.graph.list/a", subject=OTHER) is None
    found = refusal("app.bsky.graph.listitem/a", list=f"at://{OTHER}/app.bsky.graph.list/a", subject=OWN)
    assert found is not None and found[0] == "collection-rule" and "does not own the list" in found[1]
