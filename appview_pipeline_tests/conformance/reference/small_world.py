"""A small stream in which every collection has records between three accounts, so that every read has an answer."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from random import Random

from appview_pipeline_tests.conformance.reference.inputs import Identities
from appview_pipeline_tests.simulated_network.content import blob, iso
from appview_pipeline_tests.simulated_network.repository import Write
from appview_pipeline_tests.support.frames import START, Person, Stream, create, post
from appview_pipeline_tests.support.records import ref


def small_world() -> tuple[list[bytes], Identities]:
    """Its frames, in order, and the identities of its accounts."""
    stream = Stream()
    # No two records have one time: the reference leaves the order of such records to chance.
    when = (iso(START - (1_000 - number) * 1_000_000) for number in count())
    people = [Person(stream, name) for name in ("ann", "bob", "cal")]
    ann, bob, cal = people
    frames = [person.commit(*_own(person, people[number - 1], when)) for number, person in enumerate(people)]
    frames += [
        frame
        for person, other, third in ((ann, bob, cal), (bob, cal, ann), (cal, ann, bob))
        for frame in (
            person.commit(*_towards(person, other, when)),
            person.commit(*_beside(person, other, third, when)),
        )
    ]
    return frames, Identities(
        documents={person.did: document(person, name) for person, name in zip(people, _NAMES, strict=True)},
        handles={f"{name}.example.com": person.did for person, name in zip(people, _NAMES, strict=True)},
    )


_NAMES = ("ann", "bob", "cal")


def _own(it: Person, other: Person, when: Iterator[str]) -> list[Write]:
    members = it.uri("app.bsky.graph.list/members")
    return [
        create(
            "app.bsky.actor.profile/self",
            {
                "displayName": f"Somebody {it.did[-3:]}",
                "avatar": blob(Random(1), "image/png"),
                "joinedViaStarterPack": ref(other.uri("app.bsky.graph.starterpack/pack")),
                "createdAt": next(when),
            },
        ),
        create("app.bsky.actor.status/self", {"status": "app.bsky.actor.status#live", "createdAt": next(when)}),
        create("app.bsky.labeler.service/self", {"policies": {"labelValues": []}, "createdAt": next(when)}),
        create("chat.bsky.actor.declaration/self", {"allowIncoming": "all"}),
        create("app.bsky.notification.declaration/self", {"allowSubscriptions": "none"}),
        create("com.germnetwork.declaration/self", {"version": "1.0.0", "currentKey": b"key"}),
        create(
            "app.bsky.graph.list/members",
            {"name": "m", "purpose": "app.bsky.graph.defs#curatelist", "createdAt": next(when)},
        ),
        create(
            "app.bsky.graph.list/pack",
            {"name": "p", "purpose": "app.bsky.graph.defs#referencelist", "createdAt": next(when)},
        ),
        create("app.bsky.feed.generator/feed", {"did": it.did, "displayName": "good posts", "createdAt": next(when)}),
        create("app.bsky.graph.starterpack/pack", {"name": "begin here", "list": members, "createdAt": next(when)}),
        post("root", "a first post", createdAt=next(when)),
        post("gated", "a closed post", createdAt=next(when)),
        create(
            "app.bsky.feed.threadgate/gated",
            {"post": it.uri("app.bsky.feed.post/gated"), "allow": [], "createdAt": next(when)},
        ),
        create("app.bsky.feed.postgate/gated", {"post": it.uri("app.bsky.feed.post/gated"), "createdAt": next(when)}),
    ]


def _towards(it: Person, other: Person, when: Iterator[str]) -> list[Write]:
    root = other.uri("app.bsky.feed.post/root")
    return [
        create("app.bsky.feed.like/root", {"subject": ref(root), "createdAt": next(when)}),
        create(
            "app.bsky.feed.like/feed",
            {"subject": ref(other.uri("app.bsky.feed.generator/feed")), "createdAt": next(when)},
        ),
        create("app.bsky.feed.repost/root", {"subject": ref(root), "createdAt": next(when)}),
        create("app.bsky.graph.follow/other", {"subject": other.did, "createdAt": next(when)}),
        create(
            "app.bsky.graph.verification/other",
            {"subject": other.did, "handle": "a.b", "displayName": "x", "createdAt": next(when)},
        ),
        create(
            "app.bsky.graph.listitem/other",
            {"list": it.uri("app.bsky.graph.list/members"), "subject": other.did, "createdAt": next(when)},
        ),
        create(
            "app.bsky.graph.listitem/pack",
            {"list": it.uri("app.bsky.graph.list/pack"), "subject": other.did, "createdAt": next(when)},
        ),
        create(
            "app.bsky.graph.listblock/other",
            {"subject": other.uri("app.bsky.graph.list/members"), "createdAt": next(when)},
        ),
        create(
            "app.bsky.graph.referencelistoptout/other",
            {"subject": other.uri("app.bsky.graph.list/pack"), "createdAt": next(when)},
        ),
        post("reply", "an answer", createdAt=next(when), reply={"root": ref(root), "parent": ref(root)}),
        post("quote", "look", createdAt=next(when), embed={"$type": "app.bsky.embed.record", "record": ref(root)}),
    ]


def _beside(it: Person, other: Person, third: Person, when: Iterator[str]) -> list[Write]:
    root, reply = it.uri("app.bsky.feed.post/root"), it.uri("app.bsky.feed.post/reply")
    gated = third.uri("app.bsky.feed.post/gated")
    return [
        create("app.bsky.graph.block/third", {"subject": third.did, "createdAt": next(when)}),
        create(
            "app.bsky.feed.like/third", {"subject": ref(third.uri("app.bsky.feed.post/root")), "createdAt": next(when)}
        ),
        post("own", "more of it", createdAt=next(when), reply={"root": ref(root), "parent": ref(root)}),
        post("closed", "not allowed", createdAt=next(when), reply={"root": ref(gated), "parent": ref(gated)}),
        post(
            "deeper", "an answer to it", reply={"root": ref(other.uri("app.bsky.feed.post/root")), "parent": ref(reply)}
        ),
    ]


def document(person: Person, name: str) -> dict[str, object]:
    """A DID document with the handle `name`.example.com, a key and a PDS."""
    key = "zQ3shsKnRN2TnXJnAuxRfxZVvFtxnkZzb5bHNx7EJaoGtiqQv"
    method = {"id": f"{person.did}#atproto", "type": "Multikey", "controller": person.did, "publicKeyMultibase": key}
    pds = {"id": "#atproto_pds", "type": "AtprotoPersonalDataServer", "serviceEndpoint": "https://pds.example"}
    return {
        "id": person.did,
        "alsoKnownAs": [f"at://{name}.example.com"],
        "verificationMethod": [method],
        "service": [pds],
    }
