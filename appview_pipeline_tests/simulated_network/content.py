"""Record content: what the accounts write. Every record is valid under its lexicon.

Each function gets a random generator and what the record refers to. It returns the record's value as `libipld` encodes
it (a CID is its 36 bytes).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from random import Random
from typing import Any

Record = dict[str, Any]

LANGUAGES: tuple[tuple[str, float, str], ...] = (
    (
        "en",
        0.55,
        "the a to and of in it is that for you this with on was are but not have so just like what all they about out "
        "when one people time know think really good today new still day make never going back see can't someone "
        "first want need work love thing looks weird morning cat bread train garden weather rain book paper science "
        "protocol relay server coffee music night light quiet reading walking finally somehow probably, actually, "
        "yes! no. wait... honestly, maybe? tomorrow. anyway, 🎉 ❤️ 😂 🌧️ 🐈",
    ),
    (
        "ja",
        0.18,
        "今日は いい 天気 ですね おはよう ございます 猫が かわいい 仕事 終わった ご飯 美味しい 電車 遅れ "
        "写真 撮りました 新しい 本を 読んで います 雨 みんな ありがとう 眠い また 明日 🌸 🍙",
    ),
    (
        "pt",
        0.12,
        "o que de não um uma é muito bom hoje gente você sim está fazendo calor saudade vamos café manhã música jogo "
        "time ontem coração também já até então melhor céu azul amanhã? legal! 😭 🇧🇷",
    ),
    (
        "de",
        0.06,
        "und die der das nicht ist ich mal wieder heute Wetter schön über Straße Zug Verspätung natürlich Grüße morgen "
        "Bahnhof Kaffee Bücher größer wäre doch, also. warum? genau! 🥨",
    ),
    (
        "es",
        0.05,
        "el la que no es muy hoy mañana gracias años corazón música niño también así qué día ¿cómo? ¡vamos! 🌞",
    ),
    ("ko", 0.03, "오늘 날씨 좋다 고양이 커피 아침 사진 감사합니다 정말 내일 음악 책 비가 와요 ㅋㅋㅋ 🐱"),
    ("ar", 0.01, "صباح الخير اليوم شكرا جميل القهوة كتاب موسيقى غدا 🌙"),
)
_WORDS = {code: words.split() for code, _, words in LANGUAGES}
_LANGUAGE_CODES = [code for code, _, _ in LANGUAGES]
_LANGUAGE_WEIGHTS = [weight for _, weight, _ in LANGUAGES]
_SITES = ("news.example", "blog.example", "video.example", "science.example", "shop.example", "museum.example")
_TAGS = ("art", "photography", "caturday", "books", "gamedev", "TRPG", "今日の積み上げ", "música", "linux", "birds")


@dataclass(frozen=True, slots=True)
class StrongRef:
    """A record at one version: AT-URI and the CID as text."""

    uri: str
    cid: str

    def value(self) -> Record:
        return {"cid": self.cid, "uri": self.uri}


@dataclass(frozen=True, slots=True)
class Post:
    """A post that exists on the network, as others refer to it; `root` is None when it is no reply."""

    ref: StrongRef
    creator: str
    root: StrongRef | None

    def reply_refs(self) -> Record:
        """What a reply to this post carries: its parent is this post, its root the root of the whole thread."""
        return {"root": (self.root or self.ref).value(), "parent": self.ref.value()}


def iso(micros: int) -> str:
    """Microseconds since 1970 as the millisecond UTC datetime that clients write."""
    seconds, rest = divmod(micros, 1_000_000)
    return f"{datetime.fromtimestamp(seconds, timezone.utc):%Y-%m-%dT%H:%M:%S}.{rest // 1000:03d}Z"


def created_at(rng: Random, micros: int) -> str:
    """A client's time of writing: a little before `micros`, now and then in another valid form or long ago."""
    micros -= int(rng.expovariate(1 / 400_000))
    oddity = rng.random()
    if oddity > 0.01:
        return iso(micros)
    if oddity > 0.007:
        return iso(micros)[:-1] + "000Z"
    if oddity > 0.004:
        local = datetime.fromtimestamp(micros / 1e6, timezone(timedelta(hours=rng.choice((-3, 2, 9)))))
        return local.isoformat(timespec="seconds")
    return iso(micros - int(rng.random() * 10 * 365 * 86_400 * 1_000_000))


def language(rng: Random) -> str:
    return rng.choices(_LANGUAGE_CODES, _LANGUAGE_WEIGHTS)[0]


def sentence(rng: Random, code: str, longest: int, median_words: float = 11) -> str:
    """Words of one language, at most `longest` characters, log-normally distributed in number; may be empty."""
    count = min(60, int(rng.lognormvariate(0, 0.9) * median_words) + 1)
    text = ("" if code == "ja" else " ").join(rng.choices(_WORDS[code], k=count))
    return text if len(text) <= longest else text[:longest].rsplit(" ", 1)[0][:longest]


def cid_link(rng: Random) -> bytes:
    """The 36-byte CID of some blob (raw codec); the bytes behind it exist nowhere."""
    return b"\x01\x55\x12\x20" + rng.randbytes(32)


def blob(rng: Random, mime_type: str = "image/jpeg", largest: int = 950_000) -> Record:
    return {
        "$type": "blob",
        "ref": cid_link(rng),
        "mimeType": mime_type,
        "size": rng.randint(20_000, largest) if largest > 20_000 else rng.randint(100, largest),
    }


def aspect_ratio(rng: Random) -> Record:
    return {"width": rng.choice((1080, 1200, 2000, 768)), "height": rng.choice((1080, 1500, 720, 1333))}


# ---- interactions


def like(subject: StrongRef, when: str, via: StrongRef | None = None) -> Record:
    record: Record = {"$type": "app.bsky.feed.like", "subject": subject.value(), "createdAt": when}
    if via:
        record["via"] = via.value()
    return record


def repost(subject: StrongRef, when: str, via: StrongRef | None = None) -> Record:
    return like(subject, when, via) | {"$type": "app.bsky.feed.repost"}


def follow(did: str, when: str) -> Record:
    return {"$type": "app.bsky.graph.follow", "subject": did, "createdAt": when}


def block(did: str, when: str) -> Record:
    return {"$type": "app.bsky.graph.block", "subject": did, "createdAt": when}


# ---- posts


class RichText:
    """Text under construction with its facets; index positions are UTF-8 bytes, as the lexicon wants."""

    def __init__(self, text: str = "") -> None:
        self.text = text
        self.facets: list[Record] = []

    def append(self, shown: str, feature: Record) -> None:
        if self.text:
            self.text += " "
        start = len(self.text.encode())
        self.text += shown
        self.facets.append(
            {"index": {"byteStart": start, "byteEnd": start + len(shown.encode())}, "features": [feature]}
        )

    def mention(self, handle: str, did: str) -> None:
        self.append(f"@{handle}", {"$type": "app.bsky.richtext.facet#mention", "did": did})

    def link(self, url: str) -> None:
        shown = url.removeprefix("https://")
        self.append(
            shown if len(shown) < 28 else shown[:25] + "...", {"$type": "app.bsky.richtext.facet#link", "uri": url}
        )

    def tag(self, tag: str) -> None:
        self.append(f"#{tag}", {"$type": "app.bsky.richtext.facet#tag", "tag": tag})


def some_url(rng: Random) -> str:
    return f"https://{rng.choice(_SITES)}/{rng.randint(2019, 2026)}/{rng.getrandbits(40):010x}"


def images(rng: Random, code: str) -> Record:
    items = []
    for _ in range(rng.choices((1, 2, 3, 4), (70, 15, 7, 8))[0]):
        item: Record = {"alt": sentence(rng, code, 400) if rng.random() < 0.4 else "", "image": blob(rng)}
        if rng.random() < 0.9:
            item["aspectRatio"] = aspect_ratio(rng)
        items.append(item)
    return {"$type": "app.bsky.embed.images", "images": items}


def gallery(rng: Random, code: str) -> Record:
    return {
        "$type": "app.bsky.embed.gallery",
        "items": [
            {
                "$type": "app.bsky.embed.gallery#image",
                "alt": sentence(rng, code, 200),
                "image": blob(rng),
                "aspectRatio": aspect_ratio(rng),
            }
            for _ in range(rng.randint(5, 10))
        ],
    }


def video(rng: Random, code: str) -> Record:
    record: Record = {
        "$type": "app.bsky.embed.video",
        "video": blob(rng, "video/mp4", 60_000_000),
        "aspectRatio": aspect_ratio(rng),
    }
    if rng.random() < 0.3:
        record["alt"] = sentence(rng, code, 300)
    if rng.random() < 0.1:
        record["captions"] = [{"lang": code, "file": blob(rng, "text/vtt", 15_000)}]
    return record


def external(rng: Random, code: str) -> Record:
    card: Record = {
        "uri": some_url(rng),
        "title": sentence(rng, code, 120, 7),
        "description": sentence(rng, code, 300, 16) if rng.random() < 0.8 else "",
    }
    if rng.random() < 0.8:
        card["thumb"] = blob(rng)
    return {"$type": "app.bsky.embed.external", "external": card}


def quote(ref: StrongRef) -> Record:
    return {"$type": "app.bsky.embed.record", "record": ref.value()}


def embed(rng: Random, code: str, quotable: Callable[[], StrongRef | None]) -> Record | None:
    """One embed of a kind as frequent as on the network (about half of all posts have none)."""
    kind = rng.random()
    if kind < 0.50:
        return None
    if kind < 0.68:
        return images(rng, code)
    if kind < 0.84:
        return external(rng, code)
    if kind < 0.87:
        return video(rng, code)
    if kind < 0.875:
        return gallery(rng, code)
    quoted = quotable()
    if quoted is None:
        return None
    if kind < 0.97:
        return quote(quoted)
    media = images(rng, code) if kind < 0.99 else external(rng, code) if kind < 0.995 else video(rng, code)
    return {"$type": "app.bsky.embed.recordWithMedia", "record": quote(quoted), "media": media}


def post(
    rng: Random,
    when: str,
    *,
    parent: Post | None,
    mentionable: Callable[[], tuple[str, str]],
    quotable: Callable[[], StrongRef | None],
) -> Record:
    """A post or, with `parent`, a reply. `mentionable` gives (handle, DID), `quotable` a record to quote."""
    code = language(rng)
    rich = RichText(sentence(rng, code, 180))
    if rng.random() < (0.02 if parent is None else 0.06):
        rich.mention(*mentionable())
    if rng.random() < 0.05:
        rich.link(some_url(rng))
    if rng.random() < 0.08:
        rich.tag(rng.choice(_TAGS))
    record: Record = {"$type": "app.bsky.feed.post", "text": rich.text, "createdAt": when}
    if rng.random() < 0.92:
        record["langs"] = [code] if rng.random() < 0.97 else [code, "en-GB" if code == "en" else "en"]
    if rich.facets:
        record["facets"] = rich.facets
    if parent is not None:
        record["reply"] = parent.reply_refs()
    embedded = embed(rng, code, quotable)
    if embedded is not None:
        record["embed"] = embedded
    elif not rich.text:
        record["text"] = rng.choice(_WORDS[code])
    if rng.random() < 0.005:
        record["tags"] = rng.sample(_TAGS, 2)
    if rng.random() < 0.008:
        record["labels"] = self_labels(rng)
    return record


def self_labels(rng: Random) -> Record:
    value = rng.choice(("porn", "sexual", "graphic-media", "nudity", "!no-unauthenticated"))
    return {"$type": "com.atproto.label.defs#selfLabels", "values": [{"val": value}]}


def thread_gate(rng: Random, post_uri: str, when: str, lists: Sequence[str], hidden: Sequence[str] = ()) -> Record:
    rules = [{"$type": f"app.bsky.feed.threadgate#{rule}"} for rule in ("mentionRule", "followerRule", "followingRule")]
    allow: list[Record] = rng.sample(rules, rng.choice((0, 1, 1, 2)))
    if lists and rng.random() < 0.1:
        allow.append({"$type": "app.bsky.feed.threadgate#listRule", "list": rng.choice(lists)})
    record: Record = {"$type": "app.bsky.feed.threadgate", "post": post_uri, "createdAt": when, "allow": allow}
    if hidden:
        del record["allow"]
        record["hiddenReplies"] = list(hidden)
    return record


def post_gate(rng: Random, post_uri: str, when: str, detached: Sequence[str] = ()) -> Record:
    return {
        "$type": "app.bsky.feed.postgate",
        "post": post_uri,
        "createdAt": when,
        "embeddingRules": [{"$type": "app.bsky.feed.postgate#disableRule"}] if rng.random() < 0.9 else [],
        "detachedEmbeddingUris": list(detached),
    }


# ---- accounts and what they curate


def profile(rng: Random, when: str, *, joined_via: StrongRef | None = None, pinned: StrongRef | None = None) -> Record:
    code = language(rng)
    record: Record = {"$type": "app.bsky.actor.profile", "displayName": sentence(rng, code, 40, 2)}
    if rng.random() < 0.8:
        record["description"] = sentence(rng, code, 250, 14)
    if rng.random() < 0.85:
        record["avatar"] = blob(rng)
    if rng.random() < 0.5:
        record["banner"] = blob(rng)
    if rng.random() < 0.9:
        record["createdAt"] = when
    if rng.random() < 0.05:
        record["pronouns"] = "they/them"
    if rng.random() < 0.02:
        record["labels"] = self_labels(rng)
    if joined_via:
        record["joinedViaStarterPack"] = joined_via.value()
    if pinned:
        record["pinnedPost"] = pinned.value()
    return record


def list_(rng: Random, when: str, purpose: str) -> Record:
    code = language(rng)
    record: Record = {
        "$type": "app.bsky.graph.list",
        "name": sentence(rng, code, 15, 2),
        "purpose": f"app.bsky.graph.defs#{purpose}",
        "createdAt": when,
    }
    if rng.random() < 0.6:
        record["description"] = sentence(rng, code, 250)
    if rng.random() < 0.3:
        record["avatar"] = blob(rng)
    return record


def list_item(list_uri: str, did: str, when: str) -> Record:
    return {"$type": "app.bsky.graph.listitem", "list": list_uri, "subject": did, "createdAt": when}


def list_block(list_uri: str, when: str) -> Record:
    return {"$type": "app.bsky.graph.listblock", "subject": list_uri, "createdAt": when}


def starter_pack(rng: Random, list_uri: str, when: str, feeds: Sequence[str]) -> Record:
    return {
        "$type": "app.bsky.graph.starterpack",
        "name": sentence(rng, "en", 45, 3),
        "description": sentence(rng, "en", 250),
        "list": list_uri,
        "feeds": [{"uri": uri} for uri in feeds],
        "createdAt": when,
    }


def generator(rng: Random, when: str, service_did: str) -> Record:
    rich = RichText(sentence(rng, "en", 200))
    if rng.random() < 0.3:
        rich.link(some_url(rng))
    record: Record = {
        "$type": "app.bsky.feed.generator",
        "did": service_did,
        "displayName": sentence(rng, "en", 24, 2),
        "description": rich.text,
        "createdAt": when,
    }
    if rich.facets:
        record["descriptionFacets"] = rich.facets
    if rng.random() < 0.5:
        record["avatar"] = blob(rng)
    return record


def labeler(rng: Random, when: str) -> Record:
    return {
        "$type": "app.bsky.labeler.service",
        "policies": {
            "labelValues": ["spam", "rude", "spider"],
            "labelValueDefinitions": [
                {
                    "identifier": "spider",
                    "severity": "alert",
                    "blurs": "media",
                    "defaultSetting": "warn",
                    "locales": [{"lang": "en", "name": "Spider", "description": sentence(rng, "en", 100)}],
                }
            ],
        },
        "createdAt": when,
    }


def verification(did: str, handle: str, display_name: str, when: str) -> Record:
    return {
        "$type": "app.bsky.graph.verification",
        "subject": did,
        "handle": handle,
        "displayName": display_name,
        "createdAt": when,
    }


def status(rng: Random, when: str) -> Record:
    return {
        "$type": "app.bsky.actor.status",
        "status": "app.bsky.actor.status#live",
        "durationMinutes": rng.choice((30, 60, 240)),
        "embed": external(rng, "en"),
        "createdAt": when,
    }


def notification_declaration(rng: Random) -> Record:
    return {
        "$type": "app.bsky.notification.declaration",
        "allowSubscriptions": rng.choice(("followers", "mutuals", "none")),
    }


def chat_declaration(rng: Random) -> Record:
    return {"$type": "chat.bsky.actor.declaration", "allowIncoming": rng.choice(("all", "none", "following"))}


def foreign(rng: Random, when: str) -> Record:
    """A record of an application that is not Bluesky; `$type` is its collection. Shapes as those apps publish them."""
    kind = rng.randrange(5)
    if kind == 0:
        return {
            "$type": "fm.teal.alpha.feed.play",
            "trackName": sentence(rng, "en", 60, 3),
            "artists": [{"artistName": sentence(rng, "en", 40, 2)}],
            "duration": rng.randint(90, 500),
            "playedTime": when,
            "submissionClientAgent": "scrobbler/0.3",
            "musicServiceBaseDomain": "music.example",
        }
    if kind == 1:
        return {
            "$type": "sh.tangled.feed.star",
            "subject": f"at://did:web:git.example/sh.tangled.repo/{rng.getrandbits(40):x}",
            "createdAt": when,
        }
    if kind == 2:
        return {
            "$type": "com.whtwnd.blog.entry",
            "title": sentence(rng, "en", 80, 5),
            "content": "\n\n".join(sentence(rng, "en", 400, 40) for _ in range(rng.randint(3, 12))),
            "createdAt": when,
            "theme": "github-light",
            "visibility": "public",
        }
    if kind == 3:
        return {
            "$type": "site.standard.document",
            "site": f"https://{rng.choice(_SITES)}",
            "path": f"/{rng.getrandbits(40):x}",
            "title": sentence(rng, "en", 80, 5),
            "textContent": sentence(rng, "en", 400, 40),
            "publishedAt": when,
        }
    return {
        "$type": "social.psky.chat.message",
        "content": sentence(rng, "en", 200),
        "room": "at://did:web:chat.example/social.psky.chat.room/general",
        "createdAt": when,
    }


def digest_number(text: str) -> int:
    """A stable number from text; Python's own hash differs from process to process."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
