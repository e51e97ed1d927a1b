"""Taking the content of excluded accounts out of changes."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import replace

from appview_pipeline.indexing.changes import Change


def content_of(change: Change) -> set[str]:
    """The accounts that a change has content of.

    Content is what says what an account wrote: records, dead letters, gaps that name them, the counts of collections
    that are not indexed; and its identity, which is looked up, also to check a commit's signature. The state of a
    repository, the account's hosting status and deletions are none.
    """
    named = {write.did for write in change.writes}
    named.update(letter.did for letter in change.dead_letters if letter.did is not None)
    named.update(gap.did for gap in change.gaps if gap.did is not None)
    if change.ignored and change.repo is not None:
        named.add(change.repo.did)
    if change.identity is not None:
        named.add(change.identity.did)
    if change.unchecked is not None:
        named.add(change.unchecked.did)
    return named


def withhold(changes: Sequence[Change], excluded: Set[str]) -> Sequence[Change]:
    """`changes` without the content of `excluded` accounts; of each change `withheld` says whose was taken out.

    Deletions stay, because they remove data. The states of repositories and accounts and the position of the stream
    stay, because they hold no content, and because the stream must go on.
    """
    return [_without(change, excluded) for change in changes] if excluded else changes


def _without(change: Change, excluded: Set[str]) -> Change:
    # Most changes are of one account that is not excluded: this is all that they cost.
    repo = change.repo
    if repo is not None and repo.did not in excluded and not (change.dead_letters or change.gaps):
        return change
    withheld = content_of(change) & excluded
    if not withheld:
        return change
    own = repo.did if repo is not None else change.export.did if change.export is not None else None
    is_own = own in withheld
    return replace(
        change,
        writes=[write for write in change.writes if write.did not in withheld],
        ops=[op for op in change.ops if not is_own or op[1] == "delete"],
        ignored=[] if is_own else change.ignored,
        dead_letters=[letter for letter in change.dead_letters if letter.did not in withheld],
        identity=None if change.identity is not None and change.identity.did in withheld else change.identity,
        gaps=[gap for gap in change.gaps if gap.did not in withheld],
        unchecked=None if change.unchecked is not None and change.unchecked.did in withheld else change.unchecked,
        withheld=(*change.withheld, *sorted(withheld)),
    )
