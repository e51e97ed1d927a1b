"""The string formats of the AT Protocol: identifiers, keys, datetimes.

Follows https://atproto.com/specs (did, handle, nsid, tid, record-key, at-uri-scheme, lexicon string formats) and, where
the specification leaves room, what the reference AppView does when it runs on Node.js. Every `is_*` takes any text and
answers with a bool; nothing here raises on bad input except the two TID conversions, whose callers check first.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

MAX_DID = 2048
MAX_HANDLE = 253
MAX_NSID = 317
MAX_AT_URI = 8192
MAX_URI = 8192
MAX_DATETIME = 64

EPOCH = "1970-01-01T00:00:00.000Z"

_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
_DID = r"did:[a-z]+:[a-zA-Z0-9._:%-]*[a-zA-Z0-9._-]"
_HANDLE = rf"(?:{_LABEL}\.)+[a-zA-Z](?:[a-zA-Z0-9-]{{0,61}}[a-zA-Z0-9])?"
_NSID = rf"[a-zA-Z](?:[a-zA-Z0-9-]{{0,61}}[a-zA-Z0-9])?(?:\.{_LABEL})+\.[a-zA-Z][a-zA-Z0-9]{{0,62}}"
_RECORD_KEY = r"(?!\.\.?(?:/|\Z))[a-zA-Z0-9._~:-]{1,512}"

# fullmatch everywhere: `$` would let a trailing newline through.
_match_did = re.compile(_DID).fullmatch
_match_did_plc = re.compile(r"did:plc:[a-z2-7]{24}").fullmatch
_match_handle = re.compile(_HANDLE).fullmatch
_match_nsid = re.compile(_NSID).fullmatch
_match_record_key = re.compile(_RECORD_KEY).fullmatch
_match_tid = re.compile(r"[2-7a-j][2-7a-z]{12}").fullmatch
_match_at_uri = re.compile(rf"at://({_DID}|{_HANDLE})(?:/({_NSID})(?:/({_RECORD_KEY}))?)?").fullmatch
_match_cid = re.compile(r"[a-zA-Z0-9+]{8,256}").fullmatch
_match_uri = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]{0,80}:[^\s]+").fullmatch


def is_did(text: str) -> bool:
    """A DID in the generic syntax (any method), at most 2,048 characters."""
    return _match_did_plc(text) is not None or (len(text) <= MAX_DID and _match_did(text) is not None)


def is_did_plc(text: str) -> bool:
    """A DID of the PLC directory: `did:plc:` and 24 characters of base32."""
    return _match_did_plc(text) is not None


def is_readable_did(did: str) -> bool:
    """Whether the AT URI parser of the reference AppView accepts this DID as the authority of an AT URI.

    It refuses one with an underscore, and one with both a dot and a percent sign: where it meets one the page fails, or
    the whole process.
    """
    return "_" not in did and not ("%" in did and "." in did)


def is_handle(text: str) -> bool:
    """A handle (a DNS name with at least two labels), in any case, at most 253 characters."""
    return len(text) <= MAX_HANDLE and _match_handle(text) is not None


def without_decoration(text: str) -> str:
    """A DID or handle that a person gave, without what people copy along with it: space, `at://`, `@`, a slash."""
    return text.strip().removeprefix("at://").removeprefix("@").rstrip("/")


def normalize_handle(text: str) -> str:
    """The form in which handles are stored and compared: lower case."""
    return text.lower()


def is_nsid(text: str) -> bool:
    """A namespaced identifier, the name of a collection, at most 317 characters."""
    return len(text) <= MAX_NSID and _match_nsid(text) is not None


def is_tid(text: str) -> bool:
    """A timestamp identifier: 13 characters of sortable base32 with the highest bit clear."""
    return _match_tid(text) is not None


def is_record_key(text: str) -> bool:
    """A record key: 1 to 512 characters of `A-Za-z0-9._~:-`, not `.` or `..`."""
    return _match_record_key(text) is not None


class AtUri(NamedTuple):
    """The parts of an AT URI; `collection` and `rkey` are None where the URI ends before them."""

    authority: str
    collection: str | None
    rkey: str | None


def parse_at_uri(text: str) -> AtUri | None:
    """Splits an AT URI (no query, no fragment, no trailing slash); None when it is not one."""
    found = _match_at_uri(text) if len(text) <= MAX_AT_URI else None
    if found is None:
        return None
    authority, collection, rkey = found.groups()
    if len(authority) > (MAX_DID if authority.startswith("did:") else MAX_HANDLE):
        return None
    if collection is not None and len(collection) > MAX_NSID:
        return None
    return AtUri(authority, collection, rkey)


def is_at_uri(text: str) -> bool:
    """An AT URI in the syntax that Lexicon's `at-uri` format asks for."""
    return parse_at_uri(text) is not None


def is_at_identifier(text: str) -> bool:
    """A DID or a handle."""
    return is_did(text) if text.startswith("did:") else is_handle(text)


def is_cid(text: str) -> bool:
    """Superficially a CID of version 1 in text form; `cid.is_parsable` looks inside."""
    return _match_cid(text) is not None and not text.startswith("Qmb")


def is_uri(text: str) -> bool:
    """A URI: a scheme, a colon and something without white space, at most 8,192 characters."""
    return len(text) <= MAX_URI and _match_uri(text) is not None


# --- languages (BCP 47, RFC 5646) ------------------------------------------------------------------------------------

# Registered before the rules were made ("grandfathered").
_match_old_language = re.compile(
    r"en-GB-oed|i-(?:ami|bnn|default|enochian|hak|klingon|lux|mingo|navajo|pwn|tao|tay|tsu)|sgn-(?:BE-FR|BE-NL|CH-DE)"
    r"|art-lojban|cel-gaulish|no-(?:bok|nyn)|zh-(?:guoyu|hakka|min|min-nan|xiang)"
).fullmatch
_match_language = re.compile(
    r"[a-z]{2,3}(?:-[A-Za-z]{3}){0,3}"
    r"(?:-[A-Za-z]{4})?"
    r"(?:-(?:[A-Za-z]{2}|[0-9]{3}))?"
    r"(?P<variants>(?:-(?:[A-Za-z0-9]{5,8}|[0-9][A-Za-z0-9]{3}))*)"
    r"(?P<extensions>(?:-[0-9A-WY-Za-wy-z](?:-[A-Za-z0-9]{2,8})+)*)"
    r"(?:-[xX](?:-[A-Za-z0-9]{1,8})+)?"
).fullmatch
_match_private_language = re.compile(r"[xX](?:-[A-Za-z0-9]{1,8})+").fullmatch


def is_language(text: str) -> bool:
    """A valid BCP 47 language tag: well-formed, and no variant or extension singleton given twice (RFC 5646 2.2.9)."""
    if len(text) == 2 and text.isascii() and text.isalpha() and text.islower():
        return True
    found = _match_language(text)
    if found is None:
        return _match_old_language(text) is not None or _match_private_language(text) is not None
    variants = found["variants"].lower().split("-")[1:]
    singletons = [part for part in found["extensions"].lower().split("-") if len(part) == 1]
    return len(variants) == len(set(variants)) and len(singletons) == len(set(singletons))


# --- datetimes -------------------------------------------------------------------------------------------------------

_DATE = r"([0-9]{4})-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])"
_match_canonical = re.compile(rf"{_DATE}T(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]\.[0-9]{{3}}Z").fullmatch
_match_strict = re.compile(
    rf"{_DATE}T([01][0-9]|2[0-3]):([0-5][0-9]):([0-5][0-9])(?:\.([0-9]+))?"
    r"(?:Z|([+-])([01][0-9]|2[0-3]):([0-5][0-9]))"
).fullmatch
_match_lenient = re.compile(
    rf"{_DATE}(?:[Tt ]([01][0-9]|2[0-4]):([0-5][0-9])(?::([0-5][0-9])(?:\.([0-9]+))?)?)?"
    r"(?:[Zz]|([+-])([01][0-9]|2[0-3]):?([0-5][0-9]))?"
).fullmatch


def _days(year: int, month: int, day: int) -> int:
    """Days from 1970-01-01 in the proleptic Gregorian calendar; a day past the month's end runs on into the next."""
    year -= month <= 2
    era, of_era = divmod(year, 400)
    of_year = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    return era * 146097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719468


def _civil(days: int) -> tuple[int, int, int]:
    """Year, month and day of a number of days from 1970-01-01."""
    era, of_era = divmod(days + 719468, 146097)
    year = (of_era - of_era // 1460 + of_era // 36524 - of_era // 146096) // 365
    of_year = of_era - (365 * year + year // 4 - year // 100)
    shifted = (5 * of_year + 2) // 153
    month = shifted + (3 if shifted < 10 else -9)
    return era * 400 + year + (month <= 2), month, of_year - (153 * shifted + 2) // 5 + 1


def _milliseconds(found: re.Match[str]) -> int | None:
    """Milliseconds from 1970-01-01 of a match of _match_strict or _match_lenient; None outside the years 0 to 9999."""
    year, month, day, hour, minute, second, fraction, sign, ahead, ahead_minutes = found.groups()
    seconds = _days(int(year), int(month), int(day)) * 86400
    if hour:
        seconds += int(hour) * 3600 + int(minute) * 60 + int(second or 0)
        if hour == "24" and (int(minute) or int(second or 0) or int((fraction or "0")[:3])):
            return None
    if sign:
        offset = int(ahead) * 3600 + int(ahead_minutes) * 60
        seconds += -offset if sign == "+" else offset
    if not -62167219200 <= seconds < 253402300800:
        return None
    # Digits past the third are cut, not rounded, as ECMAScript engines do.
    return seconds * 1000 + (int(fraction[:3].ljust(3, "0")) if fraction else 0)


def is_datetime(text: str) -> bool:
    """A datetime in the strict syntax of Lexicon's `datetime` format, of a moment within the years 0 to 9999 (UTC).

    A day that its month does not have (February 30th) counts as valid: the reference's JavaScript engine takes it for
    one of the next month's first days, so records with it are in the network's index.
    """
    if _match_canonical(text) is not None:
        return True
    if len(text) > MAX_DATETIME or text.endswith("-00:00"):
        return False
    found = _match_strict(text)
    return found is not None and _milliseconds(found) is not None


def normalize_datetime(text: str) -> str:
    """The moment as `YYYY-MM-DDTHH:MM:SS.mmmZ`, in UTC, whatever precision and offset it came with.

    Without an offset it is taken as UTC, a lone date as its midnight; text that is no datetime, or falls outside the
    years 0 to 9999, becomes the Unix epoch. This is the reference's `normalizeDatetimeAlways` for every ISO-like text;
    free-form dates ("Mar 17 2026"), which that leaves to the JavaScript engine, become the epoch here.
    """
    found = _match_canonical(text)
    if found is not None and found[3] <= "28":
        return text
    found = _match_lenient(text) if len(text) <= 128 else None
    milliseconds = None if found is None else _milliseconds(found)
    return EPOCH if milliseconds is None else format_milliseconds(milliseconds)


def format_milliseconds(milliseconds: int) -> str:
    """Milliseconds from 1970-01-01 (UTC) as `YYYY-MM-DDTHH:MM:SS.mmmZ`."""
    days, rest = divmod(milliseconds, 86_400_000)
    year, month, day = _civil(days)
    seconds, millis = divmod(rest, 1000)
    minutes, second = divmod(seconds, 60)
    hour, minute = divmod(minutes, 60)
    return f"{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z"


def datetime_to_micros(text: str) -> int | None:
    """Microseconds from 1970-01-01 of a datetime that `is_datetime`; None for anything else."""
    if _match_canonical(text) is not None:
        seconds = _day_of(text[:10]) * 86_400 + int(text[11:13]) * 3_600 + int(text[14:16]) * 60 + int(text[17:19])
        return seconds * 1_000_000 + int(text[20:23]) * 1_000
    found = _match_strict(text) if len(text) <= MAX_DATETIME else None
    milliseconds = None if found is None else _milliseconds(found)
    if found is None or milliseconds is None:
        return None
    return milliseconds * 1000 + int((found[7] or "").ljust(6, "0")[3:6])


@lru_cache(maxsize=2_000)
def _day_of(date: str) -> int:
    """Days from 1970-01-01 to a date `YYYY-MM-DD`."""
    return _days(int(date[:4]), int(date[5:7]), int(date[8:10]))


# --- TIDs ------------------------------------------------------------------------------------------------------------

_TID_ALPHABET = "234567abcdefghijklmnopqrstuvwxyz"
# int() understands base 32 with the digits 0-9a-v, so a TID is translated digit for digit and read in C.
_TO_DIGITS = str.maketrans(_TID_ALPHABET, "0123456789abcdefghijklmnopqrstuv")


def tid_to_micros(tid: str) -> int:
    """The microseconds since the Unix epoch in a TID (its clock id is dropped). ValueError if it is not one."""
    if _match_tid(tid) is None:
        raise ValueError(f"not a TID: {tid!r}")
    return int(tid.translate(_TO_DIGITS), 32) >> 10


def tid_before(tid: str, steps: int) -> str:
    """The TID `steps` places before another, at least the first of all. ValueError if it is not one."""
    if _match_tid(tid) is None:
        raise ValueError(f"not a TID: {tid!r}")
    return _tid(max(0, int(tid.translate(_TO_DIGITS), 32) - steps))


def tid_after(tid: str) -> str:
    """The TID that follows another. ValueError if it is not one."""
    if _match_tid(tid) is None:
        raise ValueError(f"not a TID: {tid!r}")
    return _tid(int(tid.translate(_TO_DIGITS), 32) + 1)


def tid_from_micros(micros: int, clock_id: int = 0) -> str:
    """The TID of a moment, given in microseconds since the Unix epoch (0 to 2^53-1), and a clock id (0 to 1023)."""
    if not (0 <= micros < 1 << 53 and 0 <= clock_id < 1024):
        raise ValueError("a TID holds 53 bits of microseconds and 10 bits of clock id")
    return _tid(micros << 10 | clock_id)


def _tid(value: int) -> str:
    return "".join([_TID_ALPHABET[value >> shift & 31] for shift in range(60, -1, -5)])
