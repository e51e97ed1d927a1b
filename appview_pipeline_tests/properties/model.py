"""The model: the rules of the index once more, as plain Python, a commit at a time, in the stream's order.

It says what the tables must hold for a stream that arrives in order. It knows no SQL, no batches and no late arrivals,
and of the product it uses only `normalize_datetime`. Where the model and the SQL disagree, one of them is wrong. The
rules are those of the reference AppView, except where docs/differences.md says otherwise.

The record types are in support/commits.py, what a record says by itself is in record_rules.py, and the tables that
follow from the model are in model_tables.py.

A commit is one step, whatever the order of its operations: its deletions, then its writes; then its posts are
evaluated, and notify. A deleted record leaves its rev behind, so that events delivered again change nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from appview_pipeline_tests.properties.record_rules import (
    Key,
    gate_of,
    is_refused,
    mentioned,
    natural_key,
    parent_of,
    quoted,
    thread_gate_of,
)
from appview_pipeline_tests.support.commits import (
    DECLARATION,
    FOLLOW,
    LIKE,
    LISTITEM,
    POST,
    POSTGATE,
    PROFILE,
    REPOST,
    THREADGATE,
    VERIFICATION,
    Commit,
    Record,
    collection_of,
    host_of,
)

STICKY = frozenset(("verified", "unverified", "starterpack-joined"))
"""Reasons of notifications that outlive their record."""
NOTIFIED_LEVELS = 4
"""How many posts above a reply notify their authors."""

Row = dict[str, Any]


class Subscription(NamedTuple):
    """`creator` wants to be notified of posts (and replies) of `subject`."""

    creator: str
    subject: str
    post: bool = True
    reply: bool = False


@dataclass
class Evaluation:
    """How a post was evaluated when it came. None: nothing is wrong with it."""

    invalid_root: bool | None = None
    violates_gate: bool | None = None
    violates_embedding: bool | None = None


@dataclass
class Opening:
    """The notifications of the like, repost or follow that began a run; `deleted`: the rev of its deletion.

    A run: the time in which one record or another of an account has a natural key, without interruption. The
    notifications name the first record while it exists, then the record that counts, until the run ends.
    """

    key: Key
    uri: str
    rows: list[Row]
    deleted: str | None = None


@dataclass
class Model:
    """The index. `thread_mutes`: (root URI, DID of the account that muted the thread)."""

    thread_mutes: frozenset[tuple[str, str]] = frozenset()
    subscriptions: tuple[Subscription, ...] = ()
    records: dict[str, Record] = field(default_factory=dict)
    revs: dict[str, str] = field(default_factory=dict)
    evaluations: dict[str, Evaluation] = field(default_factory=dict)
    notifications: dict[tuple[str, str, str], Row] = field(default_factory=dict)
    claims: dict[Key, set[str]] = field(default_factory=dict)
    """URIs of records by natural key."""
    removed_quotes: set[str] = field(default_factory=set)
    """Quotes without a row of `quote`, because the quoted post was deleted."""
    removed_reposts: set[str] = field(default_factory=set)
    """Reposts without a row of `feed_item`, because the post was deleted."""
    once_gated: set[tuple[str, str]] = field(default_factory=set)
    """Collections of gates that have existed, and the posts that they named."""
    op_thread: dict[tuple[str, str], Row] = field(default_factory=dict)
    openings: list[Opening] = field(default_factory=list)
    run_since: dict[Key, str] = field(default_factory=dict)
    """By natural key the rev at which its newest run began or ended."""

    def apply(self, commit: Commit) -> None:
        """Applies a commit. Operations that are not newer than the known rev of their record are skipped."""
        ops = []
        for op in commit.ops:
            uri = f"at://{commit.did}/{op.collection}/{op.rkey}"
            if is_refused(uri, op.record):
                continue
            if self.revs.get(uri, "") < commit.rev:
                ops.append((uri, op))
                self.revs[uri] = commit.rev
        before = {uri: self.records.get(uri) for uri, _ in ops}
        after = {
            uri: Record(uri, commit.did, op.collection, op.rkey, commit.rev, op.cid or "", op.record, commit.time)
            for uri, op in ops
            if op.record is not None
        }
        keys = {natural_key(record) for record in (*before.values(), *after.values()) if record is not None}
        counted = {key: self.live(key) for key in keys if key is not None}
        claimants = {key: set(self.claims.get(key, ())) for key in counted}
        for uri in before.keys() - after.keys():
            self._delete(uri)
        for record in after.values():
            self._write(record)
        self._settle_verifications(counted, before, commit.time)
        self._settle_pairs(claimants, before, commit.rev)
        for uri in before.keys() - self.records.keys():
            self._withdraw(uri)
        posts = [uri for uri, op in ops if op.collection == POST and op.action != "delete"]
        self._evaluate(posts)
        for uri in posts:
            self._notify_of_post(self.records[uri], is_new=before[uri] is None)
        for uri, op in ops:
            if op.collection == PROFILE and op.action != "delete" and before[uri] is None:
                self._notify_of_joining(self.records[uri])

    # --- records ------------------------------------------------------------------------------------------------------

    def _delete(self, uri: str) -> None:
        record = self.records.pop(uri, None)
        if record is not None and (key := natural_key(record)):
            self.claims[key].discard(uri)
        if collection_of(uri) == POST:
            self.evaluations.pop(uri, None)
            self.removed_quotes.update(post.uri for post in self._of(POST) if quoted(post) == uri)
            self.removed_reposts.update(
                repost.uri for repost in self._of(REPOST) if repost.value["subject"]["uri"] == uri
            )
            self._leave_op_threads(uri)

    def _write(self, record: Record) -> None:
        old = self.records.get(record.uri)
        if old is not None and (key := natural_key(old)):
            self.claims[key].discard(record.uri)
        self.records[record.uri] = record
        if key := natural_key(record):
            self.claims.setdefault(key, set()).add(record.uri)
        if record.collection in (THREADGATE, POSTGATE):
            self.once_gated.add((record.collection, record.value["post"]))
        elif record.collection == REPOST:
            self.removed_reposts.discard(record.uri)
        elif record.collection == POST:
            self.removed_quotes.discard(record.uri)
            self._leave_op_threads(record.uri)
            if (reply := record.value.get("reply")) and host_of(reply["root"]["uri"]) == record.did:
                root, parent = reply["root"]["uri"], reply["parent"]["uri"]
                self.op_thread[root, record.uri] = {
                    "rootUri": root,
                    "parentUri": parent,
                    "uri": record.uri,
                    "deletedAt": None,
                }

    def _leave_op_threads(self, uri: str) -> None:
        for (_, reply), row in self.op_thread.items():
            if reply == uri and row["deletedAt"] is None:
                row["deletedAt"] = "<now>"

    def _of(self, collection: str) -> Iterator[Record]:
        return (record for record in self.records.values() if record.collection == collection)

    def live(self, key: Key) -> str | None:
        """Of the records with a natural key the one that counts: the first by rev, then record key."""
        claims = self.claims.get(key)
        return min(claims, key=lambda uri: (self.records[uri].rev, uri)) if claims else None

    def _exists(self, *key: str) -> bool:
        return self.live((key[0], key[1], key[2])) is not None

    # --- duplicates ---------------------------------------------------------------------------------------------------

    def _settle_verifications(
        self, counted: dict[Key, str | None], before: dict[str, Record | None], time: str
    ) -> None:
        """Notifies of verifications that count from now on, and of those that counted and were deleted.

        `counted`: by natural key the record that counted. `before`: the records that the commit touched, as they were.
        """
        for key, old in sorted(counted.items()):
            if key[0] != VERIFICATION:
                continue
            new = self.live(key)
            if old is not None and old not in self.records:
                verification = before[old]
                assert verification is not None
                self._notify(verification.value["subject"], verification, "unverified", None, time)
            if new is not None and new != old and before.get(new, self.records[new]) is None:
                self._notify(self.records[new].value["subject"], self.records[new], "verified", None)

    def _settle_pairs(self, claimants: dict[Key, set[str]], before: dict[str, Record | None], rev: str) -> None:
        """Notifies of likes, reposts and follows that begin a run.

        `claimants`: by natural key the records that had it before the commit, whose rev is `rev`.
        """
        for opening in self.openings:
            if opening.deleted is None and opening.uri in before and opening.uri not in self.records:
                opening.deleted = rev
        for key, old in claimants.items():
            new = self.claims.get(key, set())
            if new & old or key[0] not in (LIKE, REPOST, FOLLOW):
                continue
            self.run_since[key] = rev
            if new and before[first := min(new)] is None:
                self.openings.append(Opening(key, first, self._notifications_of(self.records[first])))

    def _held(self) -> list[Row]:
        """The notifications of likes, reposts and follows, each with the record that it names now."""
        held: dict[tuple[str, str, str], Row] = {}
        own_first = sorted(self.openings, key=lambda it: it.deleted is not None)
        for opening in own_first:
            holder: str | None = opening.uri
            if opening.deleted is not None:
                lasts = self.run_since[opening.key] <= opening.deleted
                holder = self.live(opening.key) if lasts else None
            if holder is not None:
                for row in opening.rows:
                    passed = {**row, "recordUri": holder, "recordCid": self.records[holder].cid}
                    held.setdefault((row["recipient"], holder, row["reason"]), passed)
        return list(held.values())

    # --- evaluation ---------------------------------------------------------------------------------------------------

    def _evaluate(self, uris: Iterable[str]) -> None:
        """Evaluates posts by the present records, parents first.

        Posts of one commit that answer each other are invalid.
        """
        waiting = dict.fromkeys(uris)
        for uri in waiting:
            self.evaluations.pop(uri, None)
        while waiting:
            ready = [uri for uri in waiting if parent_of(self.records[uri]) not in waiting]
            for uri in ready or list(waiting):
                self.evaluations[uri] = self._verdict(self.records[uri], in_circle=not ready)
                del waiting[uri]

    def _verdict(self, post: Record, in_circle: bool) -> Evaluation:
        evaluation = Evaluation()
        if "reply" in post.value:
            invalid = in_circle or self._is_invalid(post.value["reply"])
            violates = self._violates_gate(post.did, post.value["reply"]["root"]["uri"])
            if invalid or violates:
                evaluation.invalid_root, evaluation.violates_gate = invalid, violates
        if (subject := quoted(post)) and self._forbids_quotes(subject) and host_of(subject) != post.did:
            evaluation.violates_embedding = True
        return evaluation

    def _is_invalid(self, reply: dict[str, Any]) -> bool:
        root, parent = reply["root"]["uri"], self.records.get(reply["parent"]["uri"])
        if parent is None or (parent.collection == POST and self.evaluations[parent.uri].invalid_root):
            return True
        if parent.uri == root:
            return "reply" in parent.value
        return "reply" not in parent.value or parent.value["reply"]["root"]["uri"] != root

    def _violates_gate(self, replier: str, root_uri: str) -> bool:
        owner = host_of(root_uri)
        gate = self.records.get(thread_gate_of(root_uri))
        if replier == owner or gate is None or "allow" not in gate.value:
            return False
        root = self.records.get(root_uri) if collection_of(root_uri) == POST else None
        for rule in gate.value["allow"]:
            kind = rule["$type"].partition("#")[2]
            if kind == "mentionRule" and root is not None and replier in mentioned(root):
                return False
            if kind == "followerRule" and self._exists(FOLLOW, replier, owner):
                return False
            if kind == "followingRule" and self._exists(FOLLOW, owner, replier):
                return False
            if kind == "listRule" and self._exists(LISTITEM, rule["list"], replier):
                return False
        return True

    def _forbids_quotes(self, post_uri: str) -> bool:
        gate = self.records.get(gate_of(post_uri, POSTGATE))
        rules = gate.value.get("embeddingRules", ()) if gate is not None else ()
        return any(rule["$type"] == "app.bsky.feed.postgate#disableRule" for rule in rules)

    # --- notifications ------------------------------------------------------------------------------------------------

    def _notify(
        self, recipient: str, record: Record, reason: str, subject: str | None, sort_at: str | None = None
    ) -> None:
        for row in self._notification_rows(recipient, record, reason, subject, sort_at):
            self.notifications.setdefault((recipient, record.uri, reason), row)

    def _notification_rows(
        self, recipient: str, record: Record, reason: str, subject: str | None, sort_at: str | None = None
    ) -> list[Row]:
        """The notification, unless its recipient has muted the thread."""
        if subject is not None:
            post = self.records.get(subject)
            is_reply = post is not None and post.collection == POST and "reply" in post.value
            root = post.value["reply"]["root"]["uri"] if post is not None and is_reply else subject
            if (root, recipient) in self.thread_mutes:
                return []
        row = {
            "recipient": recipient,
            "author": record.did,
            "reason": reason,
            "recordUri": record.uri,
            "recordCid": record.cid,
            "reasonSubject": subject,
            "sortAt": sort_at or record.sort_at,
        }
        return [row]

    def _withdraw(self, uri: str, reasons: frozenset[str] | None = None) -> None:
        for key in list(self.notifications):
            if key[1] == uri and key[2] not in STICKY and (reasons is None or key[2] in reasons):
                del self.notifications[key]

    def _notifications_of(self, record: Record) -> list[Row]:
        """The notifications of a like, repost or follow."""
        value = record.value
        if record.collection == FOLLOW:
            return self._notification_rows(value["subject"], record, "follow", None)
        reason = "like" if record.collection == LIKE else "repost"
        subject, via = value["subject"]["uri"], value.get("via", {}).get("uri")
        if host_of(subject) == record.did:
            return []
        rows = self._notification_rows(host_of(subject), record, reason, subject)
        if via is not None and host_of(via) != record.did:
            rows += self._notification_rows(host_of(via), record, f"{reason}-via-repost", via)
        return rows

    def _notify_of_joining(self, profile: Record) -> None:
        pack = profile.value.get("joinedViaStarterPack", {}).get("uri")
        if profile.rkey == "self" and pack is not None:
            self._notify(host_of(pack), profile, "starterpack-joined", pack, profile.indexed_at)

    def _notify_of_post(self, post: Record, is_new: bool) -> None:
        """Notifies each account once, and never the author: the mentioned, the quoted, the authors of the posts that it
        answers (nearest first), the subscribers. An edited post notifies again, but not the subscribers."""
        self._withdraw(post.uri, frozenset(("mention", "quote", "reply")))
        evaluation = self.evaluations[post.uri]
        recipients: dict[str, tuple[str, str | None]] = {}
        for did in mentioned(post):
            recipients.setdefault(did, ("mention", None))
        if (subject := quoted(post)) and not evaluation.violates_embedding:
            recipients.setdefault(host_of(subject), ("quote", subject))
        if not evaluation.violates_gate:
            for ancestor in self._notified_ancestors(post):
                recipients.setdefault(host_of(ancestor), ("reply", ancestor))
        if is_new:
            for subscription in self.subscriptions:
                if self._is_subscribed(subscription, post):
                    recipients.setdefault(subscription.creator, ("subscribed-post", None))
        for did, (reason, subject) in recipients.items():
            if did != post.did:
                self._notify(did, post, reason, subject)

    def _notified_ancestors(self, post: Record) -> Iterator[str]:
        if "reply" not in post.value:
            return
        gate = self.records.get(thread_gate_of(post.value["reply"]["root"]["uri"]))
        hidden = gate.value.get("hiddenReplies", ()) if gate is not None else ()
        uri = parent_of(post)
        for _ in range(NOTIFIED_LEVELS):
            ancestor = self.records.get(uri or "")
            if ancestor is None or ancestor.collection != POST:
                return
            yield ancestor.uri
            if ancestor.uri in hidden:
                return
            uri = parent_of(ancestor)

    def _is_subscribed(self, subscription: Subscription, post: Record) -> bool:
        wanted = subscription.reply if "reply" in post.value else subscription.post
        if not wanted or subscription.subject != post.did:
            return False
        declaration = self.records.get(f"at://{post.did}/{DECLARATION}/self")
        allowed = declaration.value["allowSubscriptions"] if declaration is not None else "followers"
        follows = self._exists(FOLLOW, subscription.creator, post.did)
        followed = self._exists(FOLLOW, post.did, subscription.creator)
        return {"followers": follows, "mutuals": follows and followed}.get(allowed, False)

    def all_notifications(self) -> list[Row]:
        """All notifications."""
        return [*(dict(row) for row in self.notifications.values()), *self._held()]

    def has_gate(self, post_uri: str, collection: str) -> bool | None:
        """True: there is a gate. False: there was one. None: there never was."""
        gate = self.records.get(gate_of(post_uri, collection))
        if gate is not None and gate.value["post"] == post_uri:
            return True
        return False if (collection, post_uri) in self.once_gated else None
