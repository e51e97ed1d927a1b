"""The string formats of Lexicon, read as the reference AppView's validation reads them.

`FORMATS` maps the name of each format to its check. Most are those of `protocol.syntax`, which follows the
specifications. The three defined here deviate because the reference does, and whether a record is indexed must not
depend on which of the two indexes it:

- `uri` has a scheme of word characters (`1:2` is one, `content-type:x` is none), and no third slash after `://`;
- `cid` is Base58 of version 0 or Base32 of version 1, of any codec and hash, nothing else;
- `at-uri` may end in a fragment that is a JSON pointer, and its DID is one that the readers can parse.
"""

from __future__ import annotations

import re
from base64 import b32decode, b32encode
from collections.abc import Callable
from urllib.parse import unquote_to_bytes

from libipld import decode_cid

from appview_pipeline.protocol import syntax

# JavaScript's white space, which is not quite Python's.
_SPACE = r"\t-\r \u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ufeff"
_match_uri = re.compile(rf"[A-Za-z0-9_]+:(?://)?[^/{_SPACE}][^{_SPACE}]*").fullmatch

_match_record_cid = re.compile(r"baf[yk]rei[a-h][a-z2-7]{50}[aeimquy4]").fullmatch
_match_any_cid = re.compile(r"b[a-z2-7]{4,256}|Qm[1-9A-HJ-NP-Za-km-z]{44}").fullmatch

_match_json_pointer = re.compile(r"/(?:[a-zA-Z0-9._~:@!$&')(*+,;=\[\]/-]|%[0-9a-fA-F]{2})*").fullmatch


def is_uri(text: str) -> bool:
    """A scheme, a colon and something without white space. Its length is for the field's `maxLength` to limit."""
    return _match_uri(text) is not None


def is_cid(text: str) -> bool:
    """A CID of version 0 or 1 in its canonical text."""
    if _match_record_cid(text) is not None:
        return True
    if _match_any_cid(text) is None:
        return False
    try:
        decode_cid(text)
        # That is all for version 0; in Base32 it overlooks digits too many and a wrong length of the hash.
        return text[0] == "Q" or _is_exact_cid(text[1:])
    except ValueError:
        return False


def _is_exact_cid(digits: str) -> bool:
    """Whether Base32 text holds a version, a codec, a hash function and a hash of its stated length, and no more."""
    data = b32decode(digits.upper() + "=" * (-len(digits) % 8))
    position = 0
    length = 0
    for _ in ("version", "codec", "hash function", "length"):
        length = shift = 0
        while True:
            if position == len(data):
                return False
            byte = data[position]
            position += 1
            length |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
    return position + length == len(data) and b32encode(data).rstrip(b"=").decode().lower() == digits


def is_at_uri(text: str) -> bool:
    """An AT URI without query or trailing slash, its record key valid and its DID readable."""
    if "#" not in text:
        uri = syntax.parse_at_uri(text)
        return uri is not None and syntax.is_readable_did(uri.authority)
    without, _, fragment = text.partition("#")
    if len(text) > syntax.MAX_AT_URI or _match_json_pointer(fragment) is None:
        return False
    try:
        unquote_to_bytes(fragment).decode()
    except UnicodeDecodeError:
        return False
    return is_at_uri(without)


FORMATS: dict[str, Callable[[str], bool]] = {
    "at-identifier": syntax.is_at_identifier,
    "at-uri": is_at_uri,
    "cid": is_cid,
    "datetime": syntax.is_datetime,
    "did": syntax.is_did,
    "handle": syntax.is_handle,
    "language": syntax.is_language,
    "nsid": syntax.is_nsid,
    "record-key": syntax.is_record_key,
    "tid": syntax.is_tid,
    "uri": is_uri,
}

# What nearly all values of the commonest formats look like, each narrower than its format: one call into `re` decides
# them, and only the rest goes through the checks above.
USUAL: dict[str, Callable[[str], object]] = {
    "at-uri": re.compile(
        r"at://did:plc:[a-z2-7]{24}/[a-z]{1,20}(?:\.[a-z]{1,20}){1,3}\.[a-zA-Z]{1,40}/[a-z0-9]{13}"
    ).fullmatch,
    "cid": _match_record_cid,
    "datetime": re.compile(
        r"[0-9]{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|1[0-9]|2[0-8])T(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,9})?Z"
    ).fullmatch,
    "did": re.compile(r"did:plc:[a-z2-7]{24}").fullmatch,
}
