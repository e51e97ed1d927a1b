"""The rules of the index, as plainly as they can be said: dictionaries, a commit at a time, in the stream's order.

This is what the tables must hold for a stream that arrives in order. It knows no SQL, no batches and no late arrivals,
and imports nothing of the pipeline but the reading of a datetime; where it and the SQL disagree, one of them is wrong.
The rules are those of the reference AppView, except where docs/differences.md says otherwise.

A commit happens at once, whatever the order of its operations: its deletions, then its writes; then its posts are
judged and told of. What is deleted leaves its rev behind, so that what is delivered again changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson

from appview_pipeline.protocol.syntax import normalize_datetime

POST = "app.bsky.feed.post"
LIKE = "app.bsky.feed.like"
REPOST = "app.bsky.feed.repost"
THREADGATE = "app.bsky.feed.threadgate"
POSTGATE = "app.bsky.feed.postgate"
GENERATOR = "app.bsky.feed.generator"
FOLLOW = "app.bsky.graph.follow"
BLOCK = "app.bsky.graph.block"
LIST = "app.bsky.graph.list"
LISTITEM = "app.bsky.graph.listitem"
LISTBLOCK = "app.bsky.graph.listblock"
OPTOUT = "app.bsky.graph.referencelistoptout"
STARTERPACK = "app.bsky.graph.starterpack"
VERIFICATION = "app.bsky.graph.verification"
PROFILE = "app.bsky.actor.profile"
LABELER = "app.bsky.labeler.service"
DECLARATION = "app.bsky.notification.declaration"

STICKY = frozenset(("verified", "unverified", "starterpack-joined"))
"""Reasons of notifications that outlive their record."""
ANCESTORS_TOLD = 4

Row = dict[str, Any]
Key = tuple[str, str, str]


@dataclass(frozen=True)
class Op:
    """An operation of a commit. `action`: create, update, delete; `record` is atproto JSON."""

    action: str
    collection: str
    rkey: str
    cid: str | None = None
    record: dict[str, Any] | None = None


@dataclass(frozen=True)
class Commit:
    """A commit of the stream; `time` is the event's, and so the `indexedAt` of what it writes."""

    did: str
    rev: str
    time: str
    ops: tuple[Op, ...]


class Subscription(NamedTuple):
    """`creator` wants to be told of posts (and replies) of `subject`."""

    creator: str
    subject: str
    post: bool = True
    reply: bool = False


@dataclass(frozen=True)
class Record:
    uri: str
    did: str
    collection: str
    rkey: str
    rev: str
    cid: str
    value: dict[str, Any]
    indexed_at: str

    @property
    def created_at(self) -> str:
        return normalize_datetime(self.value.get("createdAt") or "")

    @property
    def sort_at(self) -> str:
        return min(self.created_at, self.indexed_at)


@dataclass
class Verdict:
    """How a post was judged when it came: None where nothing is wrong with it."""

    invalid_root: bool | None = None
    violates_gate: bool | None = None
    violates_embedding: bool | None = None


@dataclass
class Opening:
    """What the like, repost or follow that began a run notified; `deleted`: the rev at which it was.

    The notifications are its own while it exists; then they are those of the record that counts, if the run lasts.
    """

    key: Key
    uri: str
    rows: list[Row]
    deleted: str | None = None


@dataclass
class Model:
    """The index. `thread_mutes`: (root URI, DID of who muted it)."""

    thread_mutes: frozenset[tuple[str, str]] = frozenset()
    subscriptions: tuple[Subscription, ...] = ()
    records: dict[str, Record] = field(default_factory=dict)
    revs: dict[str, str] = field(default_factory=dict)
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    notifications: dict[tuple[str, str, str], Row] = field(default_factory=dict)
    claims: dict[Key, set[str]] = field(default_factory=dict)
    """Records by what they say: (collection, and the natural key)."""
    unquoted: set[str] = field(default_factory=set)
    """Quotes of posts that were deleted afterwards."""
    unfed: set[str] = field(default_factory=set)
    """Reposts of posts that were deleted afterwards."""
    once_gated: set[tuple[str, str]] = field(default_factory=set)
    """Collections of gates that have existed, and the posts that they named."""
    op_thread: dict[tuple[str, str], Row] = field(default_factory=dict)
    openings: list[Opening] = field(default_factory=list)
    run_since: dict[Key, str] = field(default_factory=dict)
    """By natural key the rev since which one record or another has said it without interruption."""

    def apply(self, commit: Commit) -> None:
        """Takes a commit in. What is not newer than what is known of its record is passed over."""
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
        sayers = {key: set(self.claims.get(key, ())) for key in counted}
        for uri in before.keys() - after.keys():
            self._delete(uri)
        for record in after.values():
            self._write(record)
        self._settle_verifications(counted, before, commit.time)
        self._settle_pairs(sayers, before, commit.rev)
        for uri in before.keys() - self.records.keys():
            self._withdraw(uri)
        posts = [uri for uri, op in ops if op.collection == POST and op.action != "delete"]
        self._judge(posts)
        for uri in posts:
            self._tell_of_post(self.records[uri], is_new=before[uri] is None)
        for uri, op in ops:
            if op.collection == PROFILE and op.action != "delete" and before[uri] is None:
                self._tell_of_joining(self.records[uri])

    # --- what is there -------------------------------------------------------------------------------------------

    def _delete(self, uri: str) -> None:
        record = self.records.pop(uri, None)
        if record is not None and (key := natural_key(record)):
            self.claims[key].discard(uri)
        if collection_of(uri) == POST:
            self.verdicts.pop(uri, None)
            self.unquoted.update(post.uri for post in self._of(POST) if quoted(post) == uri)
            self.unfed.update(repost.uri for repost in self._of(REPOST) if repost.value["subject"]["uri"] == uri)
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
            self.unfed.discard(record.uri)
        elif record.collection == POST:
            self.unquoted.discard(record.uri)
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
        """Of the records that say the same the one that counts: the first by rev, then record key."""
        claims = self.claims.get(key)
        return min(claims, key=lambda uri: (self.records[uri].rev, uri)) if claims else None

    def _says(self, *key: str) -> bool:
        return self.live((key[0], key[1], key[2])) is not None

    # --- records that say the same ---------------------------------------------------------------------------------

    def _settle_verifications(
        self, counted: dict[Key, str | None], before: dict[str, Record | None], time: str
    ) -> None:
        """Tells of verifications that have come to count, and of those that counted and are gone.

        `counted`: by natural key what counted. `before`: the records that the commit touched, as they were.
        """
        for key, old in sorted(counted.items()):
            if key[0] != VERIFICATION:
                continue
            new = self.live(key)
            if old is not None and old not in self.records:
                verification = before[old]
                assert verification is not None
                self._tell(verification.value["subject"], verification, "unverified", None, time)
            if new is not None and new != old and before.get(new, self.records[new]) is None:
                self._tell(self.records[new].value["subject"], self.records[new], "verified", None)

    def _settle_pairs(self, sayers: dict[Key, set[str]], before: dict[str, Record | None], rev: str) -> None:
        """Tells of likes, reposts and follows that begin a run: of an account's records that say the same.

        `sayers`: by natural key the records that said it before the commit, which had the rev `rev`.
        """
        for opening in self.openings:
            if opening.deleted is None and opening.uri in before and opening.uri not in self.records:
                opening.deleted = rev
        for key, old in sayers.items():
            new = self.claims.get(key, set())
            if new & old or key[0] not in (LIKE, REPOST, FOLLOW):
                continue
            self.run_since[key] = rev
            if new and before[first := min(new)] is None:
                self.openings.append(Opening(key, first, self._told_of(self.records[first])))

    def _held(self) -> list[Row]:
        """The notifications of likes, reposts and follows, each with the record that has it now."""
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

    # --- judging ---------------------------------------------------------------------------------------------------

    def _judge(self, uris: Iterable[str]) -> None:
        """Judges posts by what is there now, parents first; posts of one commit that answer each other are invalid."""
        waiting = dict.fromkeys(uris)
        for uri in waiting:
            self.verdicts.pop(uri, None)
        while waiting:
            ready = [uri for uri in waiting if parent_of(self.records[uri]) not in waiting]
            for uri in ready or list(waiting):
                self.verdicts[uri] = self._verdict(self.records[uri], in_circle=not ready)
                del waiting[uri]

    def _verdict(self, post: Record, in_circle: bool) -> Verdict:
        verdict = Verdict()
        if "reply" in post.value:
            invalid = in_circle or self._is_invalid(post.value["reply"])
            violates = self._violates_gate(post.did, post.value["reply"]["root"]["uri"])
            if invalid or violates:
                verdict.invalid_root, verdict.violates_gate = invalid, violates
        if (subject := quoted(post)) and self._forbids_quotes(subject) and host_of(subject) != post.did:
            verdict.violates_embedding = True
        return verdict

    def _is_invalid(self, reply: dict[str, Any]) -> bool:
        root, parent = reply["root"]["uri"], self.records.get(reply["parent"]["uri"])
        if parent is None or (parent.collection == POST and self.verdicts[parent.uri].invalid_root):
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
            if kind == "followerRule" and self._says(FOLLOW, replier, owner):
                return False
            if kind == "followingRule" and self._says(FOLLOW, owner, replier):
                return False
            if kind == "listRule" and self._says(LISTITEM, rule["list"], replier):
                return False
        return True

    def _forbids_quotes(self, post_uri: str) -> bool:
        gate = self.records.get(gate_of(post_uri, POSTGATE))
        rules = gate.value.get("embeddingRules", ()) if gate is not None else ()
        return any(rule["$type"] == "app.bsky.feed.postgate#disableRule" for rule in rules)

    # --- telling ---------------------------------------------------------------------------------------------------

    def _tell(
        self, recipient: str, record: Record, reason: str, subject: str | None, sort_at: str | None = None
    ) -> None:
        for row in self._rows_telling(recipient, record, reason, subject, sort_at):
            self.notifications.setdefault((recipient, record.uri, reason), row)

    def _rows_telling(
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

    def _told_of(self, record: Record) -> list[Row]:
        """Whom a like, repost or follow notifies."""
        value = record.value
        if record.collection == FOLLOW:
            return self._rows_telling(value["subject"], record, "follow", None)
        reason = "like" if record.collection == LIKE else "repost"
        subject, via = value["subject"]["uri"], value.get("via", {}).get("uri")
        if host_of(subject) == record.did:
            return []
        rows = self._rows_telling(host_of(subject), record, reason, subject)
        if via is not None and host_of(via) != record.did:
            rows += self._rows_telling(host_of(via), record, f"{reason}-via-repost", via)
        return rows

    def _tell_of_joining(self, profile: Record) -> None:
        pack = profile.value.get("joinedViaStarterPack", {}).get("uri")
        if profile.rkey == "self" and pack is not None:
            self._tell(host_of(pack), profile, "starterpack-joined", pack, profile.indexed_at)

    def _tell_of_post(self, post: Record, is_new: bool) -> None:
        """Everybody once, and never the author: who is mentioned, who is quoted, who wrote what it replies to (nearest
        first), who subscribed. A post that is edited tells anew, but no subscribers."""
        self._withdraw(post.uri, frozenset(("mention", "quote", "reply")))
        verdict = self.verdicts[post.uri]
        told: dict[str, tuple[str, str | None]] = {}
        for did in mentioned(post):
            told.setdefault(did, ("mention", None))
        if (subject := quoted(post)) and not verdict.violates_embedding:
            told.setdefault(host_of(subject), ("quote", subject))
        if not verdict.violates_gate:
            for ancestor in self._ancestors_told(post):
                told.setdefault(host_of(ancestor), ("reply", ancestor))
        if is_new:
            for subscription in self.subscriptions:
                if self._is_subscribed(subscription, post):
                    told.setdefault(subscription.creator, ("subscribed-post", None))
        for did, (reason, subject) in told.items():
            if did != post.did:
                self._tell(did, post, reason, subject)

    def _ancestors_told(self, post: Record) -> Iterator[str]:
        if "reply" not in post.value:
            return
        gate = self.records.get(thread_gate_of(post.value["reply"]["root"]["uri"]))
        hidden = gate.value.get("hiddenReplies", ()) if gate is not None else ()
        uri = parent_of(post)
        for _ in range(ANCESTORS_TOLD):
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
        follows = self._says(FOLLOW, subscription.creator, post.did)
        followed = self._says(FOLLOW, post.did, subscription.creator)
        return {"followers": follows, "mutuals": follows and followed}.get(allowed, False)

    # --- the tables ------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """The tables, in the shape of shared/conformance/golden/README.md; actors are not the model's business."""
        rows = self._rows()
        return {
            "notifications": [*(dict(row) for row in self.notifications.values()), *self._held()],
            "postAgg": self._post_agg(rows),
            "profileAgg": self._profile_agg(rows),
            "records": [
                {"uri": record.uri, "cid": record.cid, "indexedAt": record.indexed_at}
                for record in self.records.values()
            ],
            "duplicates": [
                {"uri": uri, "duplicateOf": self.live(key)}
                for key, uris in self.claims.items()
                for uri in uris
                if uri != self.live(key)
            ],
            "rows": {table: found for table, found in rows.items() if found},
        }

    def _rows(self) -> dict[str, list[Row]]:
        rows: dict[str, list[Row]] = {"op_thread_reply": [dict(row) for row in self.op_thread.values()]}
        for record in self.records.values():
            if (key := natural_key(record)) and self.live(key) != record.uri:
                continue
            for table, row in self._rows_of(record):
                rows.setdefault(table, []).append(row)
        return rows

    def _rows_of(self, record: Record) -> Iterator[tuple[str, Row]]:
        value = record.value
        common = {
            "uri": record.uri,
            "cid": record.cid,
            "creator": record.did,
            "createdAt": record.created_at,
            "indexedAt": record.indexed_at,
        }
        sorted_ = {**common, "sortAt": record.sort_at}
        match record.collection:
            case "app.bsky.feed.post":
                yield "post", {**sorted_, **self._post_columns(record)}
                yield "feed_item", self._feed_item(record, "post", record.uri)
                yield from _embeds(record)
                if (subject := quoted(record)) and record.uri not in self.unquoted:
                    row = {**sorted_, "subject": subject, "subjectCid": _quoted_ref(record)["cid"]}
                    del row["creator"]
                    yield "quote", row
            case "app.bsky.feed.like" | "app.bsky.feed.repost":
                subject, via = value["subject"], value.get("via", {})
                row = {**sorted_, "subject": subject["uri"], "subjectCid": subject["cid"]}
                row |= {"via": via.get("uri"), "viaCid": via.get("cid")}
                yield record.collection.rpartition(".")[2], row
                if record.collection == REPOST and record.uri not in self.unfed:
                    yield "feed_item", self._feed_item(record, "repost", subject["uri"])
            case "app.bsky.feed.threadgate":
                yield "thread_gate", {**common, "postUri": value["post"]}
            case "app.bsky.feed.postgate":
                yield "post_gate", {**common, "postUri": value["post"]}
            case "app.bsky.graph.follow":
                yield "follow", {**sorted_, "subjectDid": value["subject"]}
            case "app.bsky.graph.block":
                yield "actor_block", {**sorted_, "subjectDid": value["subject"]}
            case "app.bsky.graph.listblock":
                yield "list_block", {**sorted_, "subjectUri": value["subject"]}
            case "app.bsky.graph.referencelistoptout":
                if names_list(value["subject"]):
                    yield "reference_list_opt_out", {**sorted_, "subjectUri": value["subject"]}
            case "app.bsky.graph.listitem":
                yield "list_item", {**sorted_, "subjectDid": value["subject"], "listUri": value["list"]}
            case "app.bsky.graph.list":
                row = {**sorted_, "name": value["name"], "purpose": value["purpose"]}
                yield "list", {**row, **_described(value)}
            case "app.bsky.feed.generator":
                row = {**sorted_, "feedDid": value["did"], "displayName": value["displayName"]}
                yield "feed_generator", {**row, **_described(value)}
            case "app.bsky.graph.starterpack":
                yield "starter_pack", {**sorted_, "name": value["name"]}
            case "app.bsky.labeler.service":
                if record.rkey == "self":
                    yield "labeler", sorted_
            case "app.bsky.graph.verification":
                row = {**common, "sortedAt": record.sort_at, "rkey": record.rkey}
                row |= {column: value[column] for column in ("subject", "handle", "displayName")}
                yield "verification", row
            case "app.bsky.actor.profile":
                if record.rkey == "self":
                    yield (
                        "profile",
                        {
                            **common,
                            "createdAt": value.get("createdAt") or record.indexed_at,
                            "displayName": value.get("displayName"),
                            "description": value.get("description"),
                            "avatarCid": _blob(value.get("avatar")),
                            "bannerCid": _blob(value.get("banner")),
                            "joinedViaStarterPackUri": value.get("joinedViaStarterPack", {}).get("uri"),
                            "pinnedPost": None,
                            "pinnedPostCid": None,
                        },
                    )

    def _post_columns(self, post: Record) -> Row:
        value, verdict = post.value, self.verdicts[post.uri]
        reply = value.get("reply") or {"root": {}, "parent": {}}
        return {
            "text": value["text"],
            "replyRoot": reply["root"].get("uri"),
            "replyRootCid": reply["root"].get("cid"),
            "replyParent": reply["parent"].get("uri"),
            "replyParentCid": reply["parent"].get("cid"),
            "langs": value.get("langs") or None,
            "tags": value.get("tags") or None,
            "invalidReplyRoot": verdict.invalid_root,
            "violatesThreadGate": verdict.violates_gate,
            "violatesEmbeddingRules": verdict.violates_embedding,
            "hasThreadGate": self._has_gate(post.uri, THREADGATE),
            "hasPostGate": self._has_gate(post.uri, POSTGATE),
        }

    def _has_gate(self, post_uri: str, collection: str) -> bool | None:
        """True: there is a gate. False: there was one. None: there never was."""
        gate = self.records.get(gate_of(post_uri, collection))
        if gate is not None and gate.value["post"] == post_uri:
            return True
        return False if (collection, post_uri) in self.once_gated else None

    @staticmethod
    def _feed_item(record: Record, kind: str, post_uri: str) -> Row:
        return {
            "uri": record.uri,
            "cid": record.cid,
            "type": kind,
            "postUri": post_uri,
            "originatorDid": record.did,
            "sortAt": record.sort_at,
        }

    @staticmethod
    def _post_agg(rows: dict[str, list[Row]]) -> dict[str, dict[str, int]]:
        agg: dict[str, dict[str, int]] = {}

        def count(uri: str, what: str) -> None:
            zero = {"likeCount": 0, "repostCount": 0, "replyCount": 0, "quoteCount": 0}
            agg.setdefault(uri, zero)[what] += 1

        for row in rows.get("like", ()):
            count(row["subject"], "likeCount")
        for row in rows.get("repost", ()):
            count(row["subject"], "repostCount")
        for row in rows.get("quote", ()):
            count(row["subject"], "quoteCount")
        for row in rows.get("post", ()):
            if row["replyParent"] is not None and not row["violatesThreadGate"]:
                count(row["replyParent"], "replyCount")
        return agg

    @staticmethod
    def _profile_agg(rows: dict[str, list[Row]]) -> dict[str, dict[str, int]]:
        agg: dict[str, dict[str, int]] = {}

        def count(did: str, what: str) -> None:
            agg.setdefault(did, {"followersCount": 0, "followsCount": 0, "postsCount": 0})[what] += 1

        for row in rows.get("follow", ()):
            count(row["creator"], "followsCount")
            count(row["subjectDid"], "followersCount")
        for row in rows.get("post", ()):
            count(row["creator"], "postsCount")
        return agg


# --- what a record says --------------------------------------------------------------------------------------------


def natural_key(record: Record) -> Key | None:
    """What the record says, where of several records of an account that say the same only one counts."""
    value = record.value
    match record.collection:
        case "app.bsky.feed.like" | "app.bsky.feed.repost":
            return record.collection, record.did, value["subject"]["uri"]
        case "app.bsky.graph.follow" | "app.bsky.graph.block" | "app.bsky.graph.listblock":
            return record.collection, record.did, value["subject"]
        case "app.bsky.graph.referencelistoptout" if names_list(value["subject"]):
            return record.collection, record.did, value["subject"]
        case "app.bsky.graph.verification":
            return record.collection, record.did, value["subject"]
        case "app.bsky.graph.listitem":
            return record.collection, value["list"], value["subject"]
    return None


def is_refused(uri: str, value: dict[str, Any] | None) -> bool:
    """Gates are those of the account's own posts, under the post's record key; another one never comes to be."""
    if value is None or collection_of(uri) not in (THREADGATE, POSTGATE):
        return False
    return (host_of(value["post"]), value["post"].rpartition("/")[2]) != (host_of(uri), uri.rpartition("/")[2])


def host_of(uri: str) -> str:
    return uri.split("/")[2]


def collection_of(uri: str) -> str:
    return [*uri.split("/"), "", ""][3]


def names_list(uri: str) -> bool:
    return host_of(uri).startswith("did:") and uri.split("/")[3:4] == [LIST] and uri.count("/") == 4


def gate_of(post_uri: str, collection: str) -> str:
    """The gate of a post lies under the post's own record key."""
    return f"at://{host_of(post_uri)}/{collection}/{post_uri.rpartition('/')[2]}"


def thread_gate_of(root_uri: str) -> str:
    """Where a thread's gate is looked for: a root that is no post is taken for it."""
    return gate_of(root_uri, THREADGATE) if collection_of(root_uri) == POST else root_uri


def parent_of(post: Record) -> str | None:
    return post.value["reply"]["parent"]["uri"] if "reply" in post.value else None


def mentioned(post: Record) -> list[str]:
    """The DIDs that facets mention, in order."""
    return [
        feature["did"]
        for facet in post.value.get("facets", ())
        for feature in facet["features"]
        if feature["$type"] == "app.bsky.richtext.facet#mention"
    ]


def _embedded(post: Record) -> Iterator[dict[str, Any]]:
    """A post's embed; of a record with media both, the record first."""
    embed = post.value.get("embed")
    if embed is None:
        return
    if embed["$type"] == "app.bsky.embed.recordWithMedia":
        yield {"$type": "app.bsky.embed.record", **embed["record"]}
        yield embed["media"]
    else:
        yield embed


def _quoted_ref(post: Record) -> dict[str, str]:
    for embed in _embedded(post):
        if embed["$type"] == "app.bsky.embed.record" and collection_of(embed["record"]["uri"]) == POST:
            return {"uri": embed["record"]["uri"], "cid": embed["record"]["cid"]}
    return {}


def quoted(post: Record) -> str | None:
    """URI of the post that a post quotes."""
    return _quoted_ref(post).get("uri")


def _embeds(post: Record) -> Iterator[tuple[str, Row]]:
    for embed in _embedded(post):
        match embed["$type"]:
            case "app.bsky.embed.record":
                ref = embed["record"]
                yield "post_embed_record", {"postUri": post.uri, "embedUri": ref["uri"], "embedCid": ref["cid"]}
            case "app.bsky.embed.images":
                for position, image in enumerate(embed["images"]):
                    row = {"postUri": post.uri, "position": str(position), "imageCid": _blob(image["image"])}
                    yield "post_embed_image", {**row, "alt": image["alt"]}
            case "app.bsky.embed.gallery":
                for position, image in enumerate(embed["items"]):
                    if image["$type"] == "app.bsky.embed.gallery#image":
                        row = {"postUri": post.uri, "position": str(position), "imageCid": _blob(image["image"])}
                        yield "post_embed_gallery_image", {**row, "alt": image["alt"]}
            case "app.bsky.embed.external":
                external = embed["external"]
                row = {"postUri": post.uri, "thumbCid": _blob(external.get("thumb"))}
                row |= {column: external[column] for column in ("uri", "title", "description")}
                yield "post_embed_external", row
            case "app.bsky.embed.video":
                row = {"postUri": post.uri, "videoCid": _blob(embed["video"]), "alt": embed.get("alt")}
                yield "post_embed_video", row


def _described(value: dict[str, Any]) -> Row:
    facets = value.get("descriptionFacets")
    return {
        "description": value.get("description"),
        "descriptionFacets": orjson.dumps(facets).decode() if facets else None,
        "avatarCid": _blob(value.get("avatar")),
    }


def _blob(blob: dict[str, Any] | None) -> str | None:
    return blob["ref"]["$link"] if blob is not None else None
