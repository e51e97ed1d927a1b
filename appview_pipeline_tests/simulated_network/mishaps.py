"""What goes wrong with commits between a PDS and the relay's clients: some get lost, some are tampered with.

The repositories themselves stay right, and so do their exports; only the stream does not say what happened.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random

import libipld

from appview_pipeline.protocol import cid
from appview_pipeline.protocol.car import read_car, write_car
from appview_pipeline_tests.simulated_network.accounts import make_key, sign
from appview_pipeline_tests.simulated_network.repository import Commit, encode_commit

LOST = "lost"
UNNUMBERED = "unnumbered"


@dataclass
class Mishaps:
    """Shares of all commits, 0 to 1, drawn from a generator of their own (`seed`); all may be changed at any time.

    - `lost`: no frame is made, the sequence number is used up: clients see a jump.
    - `unnumbered`: no frame is made, and the next one takes the number: only the account's chain shows it.
    - `tampered`: the frame is replaced by one that proves nothing, in one of the ways of `TAMPERED`.

    `by_kind` counts what happened, `dids` has the accounts that it happened to.
    """

    lost: float = 0.0
    unnumbered: float = 0.0
    tampered: float = 0.0
    seed: int = 0
    by_kind: Counter[str] = field(default_factory=Counter)
    dids: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._rng = Random(f"simnet mishaps {self.seed}")

    def draw(self, did: str) -> str | None:
        """What happens to an account's next commit: `lost`, `unnumbered`, a key of `TAMPERED`; None: nothing."""
        if not (self.lost or self.unnumbered or self.tampered):
            return None
        fate = self._rng.random()
        for kind, share in ((LOST, self.lost), (UNNUMBERED, self.unnumbered), (None, self.tampered)):
            if fate < share:
                found = kind or self._rng.choice(tuple(TAMPERED))
                self.by_kind[found] += 1
                self.dids.add(did)
                return found
            fate -= share
        return None

    def stop(self) -> None:
        """From now on nothing goes wrong."""
        self.lost = self.unnumbered = self.tampered = 0.0


def _with_signature(commit: Commit) -> Commit:
    """The commit, signed by somebody else."""
    blocks = dict(read_car(commit.blocks)[1])
    data = libipld.decode_dag_cbor(blocks.pop(commit.commit))["data"]
    forged = sign(make_key(f"forger {commit.did}"), encode_commit(commit.did, commit.rev, data, None))
    block = encode_commit(commit.did, commit.rev, data, forged)
    root = cid.cid_for_cbor(block)
    return replace(commit, commit=root, blocks=write_car(root, blocks | {root: block}))


def _with_record(commit: Commit) -> Commit:
    """The commit with another record in place of the first one that it wrote; the tree holds the CID of the right one.

    Of a commit that wrote none an operation is left out.
    """
    at = next((number for number, op in enumerate(commit.ops) if op["cid"] is not None), None)
    if at is None:
        return _with_omission(commit)
    blocks = dict(read_car(commit.blocks)[1])
    record = libipld.decode_dag_cbor(blocks.pop(commit.ops[at]["cid"])) | {"tampered": True}
    block = libipld.encode_dag_cbor(record)
    ops = [*commit.ops]
    ops[at] = ops[at] | {"cid": cid.cid_for_cbor(block)}
    return replace(commit, ops=ops, blocks=write_car(commit.commit, blocks | {ops[at]["cid"]: block}))


def _with_omission(commit: Commit) -> Commit:
    """The commit without its last operation."""
    return replace(commit, ops=commit.ops[:-1])


def _with_path(commit: Commit) -> Commit:
    """The commit, whose first operation claims another record key."""
    ops = [*commit.ops]
    collection, _, rkey = ops[0]["path"].partition("/")
    ops[0] = ops[0] | {"path": f"{collection}/{rkey[:-1]}{'2' if rkey[-1] != '2' else '3'}"}
    return replace(commit, ops=ops)


TAMPERED: dict[str, Callable[[Commit], Commit]] = {
    "signature": _with_signature,
    "record": _with_record,
    "omission": _with_omission,
    "path": _with_path,
}
"""Ways to tamper with a commit. Each is well-formed, and only its proof (or its signature) shows it."""


def tampered(commit: Commit, kind: str) -> Commit:
    """What a relay that lies sends in place of `commit`. One without operations can be forged only."""
    return TAMPERED[kind if commit.ops else "signature"](commit)
