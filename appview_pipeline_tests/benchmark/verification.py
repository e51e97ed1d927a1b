"""What each level of `APPVIEW_VERIFY` costs the client: CPU a commit, without network and PostgreSQL.

`python -m appview_pipeline_tests.benchmark.verification [--conformance FOLDER] [--frames N] [--rounds N]` measures
frames of the simulated network and, where the folder is given, the real ones of the conformance corpus. Levels take
turns, round by round, so that a busy machine does to all of them what it does to one; the best of the rounds counts.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from statistics import median

import zstandard

from appview_pipeline.indexing.registry import IndexedCollections
from appview_pipeline.indexing.validators import record_validators
from appview_pipeline.ingest.decoding import read_changes
from appview_pipeline.ingest.verification import Verifier
from appview_pipeline.protocol.commit import prove, read_commit
from appview_pipeline.protocol.frames import Commit, decode_frame
from appview_pipeline.protocol.signing import VerifyingKey, parse_did_key, parse_verification_method, verify_commit
from appview_pipeline_tests.benchmark.corpus import corpus
from appview_pipeline_tests.simulated_network.accounts import make_key, multikey, sign
from appview_pipeline_tests.simulated_network.corpus import read_corpus

BATCH = 2_000


def simulated(frames: int) -> tuple[list[bytes], dict[str, str]]:
    """Frames of commits of the simulated network, and the keys of their accounts."""
    made = corpus(frames)
    keys = {account[0]: key for account, key in zip(made.past["accounts"], made.past["keys"], strict=True)}
    return list(islice(read_corpus(made.path), frames)), keys


def real(conformance: Path) -> tuple[list[bytes], dict[str, str]]:
    """The frames of the conformance corpus, and the keys of their accounts."""
    folder = conformance / "frames" / "jetstream-corpus"
    with (folder / "did_docs.json.zst").open("rb") as file:
        documents = json.loads(zstandard.ZstdDecompressor().stream_reader(file).read())
    keys = {}
    for did, document in documents.items():
        for method in document["verificationMethod"]:
            if method["id"].endswith("#atproto"):
                keys[did] = parse_verification_method(method["type"], method["publicKeyMultibase"]).did_key()
    return list(read_corpus(folder / "frames.bin.zst")), keys


def seconds(action: Callable[[], object]) -> float:
    began = time.process_time()
    action()
    return time.process_time() - began


def levels(frames: Sequence[bytes], keys: Mapping[str, str], rounds: int) -> dict[str, float]:
    """Microseconds a frame of decoding at each level, keys in memory."""
    validators, collections = record_validators(), IndexedCollections()
    verifiers = {
        level: Verifier(level, lambda dids: {did: keys[did] for did in dids if did in keys})
        for level in ("structure", "proof", "full")
    }

    def decode(level: str) -> None:
        for start in range(0, len(frames), BATCH):
            changes = read_changes(frames[start : start + BATCH], validators, collections, None, verifiers[level])
            refused = [it.kind for change in changes for it in change.dead_letters if it.kind.startswith("commit-")]
            assert not refused, refused[:3]

    decode("full")  # reads the keys
    timings: dict[str, list[float]] = {level: [] for level in verifiers}
    for _ in range(rounds):
        for level in verifiers:
            timings[level].append(seconds(lambda level=level: decode(level)))  # type: ignore[misc]
    return {level: min(found) / len(frames) * 1e6 for level, found in timings.items()}


def proofs(frames: Sequence[bytes], rounds: int) -> tuple[float, float]:
    """Microseconds of a proof: the median commit (each the best of the rounds), and the mean."""
    now = time.time_ns() // 1_000
    events = [event for event in map(decode_frame, frames) if isinstance(event, Commit)]
    found = []
    for event in events:
        content = read_commit(event, now, ())
        best = float("inf")
        for _ in range(rounds):
            began = time.perf_counter()
            prove(event, content)
            best = min(best, time.perf_counter() - began)
        found.append(best * 1e6)
    return median(found), sum(found) / len(found)


def signatures(rounds: int) -> dict[str, float]:
    """Microseconds of one signature by curve, with a key that is ready."""
    found = {}
    block = bytes(230)
    for curve in ("k256", "p256"):
        key = make_key("benchmark", p256=curve == "p256")
        signed = sign(key, bytes((0xA5,)) + block)
        entry = b"\x63sig\x58\x40" + signed
        commit = bytes((0xA6,)) + block + entry
        ready = VerifyingKey(parse_did_key(f"did:key:{multikey(key)}"))
        assert verify_commit(ready, commit, signed)

        def many(ready: VerifyingKey = ready, commit: bytes = commit, signed: bytes = signed) -> None:
            for _ in range(500):
                verify_commit(ready, commit, signed)

        found[curve] = min(seconds(many) for _ in range(rounds)) / 500 * 1e6
    return found


def show(name: str, frames: Sequence[bytes], keys: Mapping[str, str], rounds: int) -> None:
    """Measures and prints one set of frames."""
    by_level = levels(frames, keys, rounds)
    middle, mean = proofs(frames[:2_000], rounds)
    print(f"{name}: {len(frames):,} frames, {sum(map(len, frames)) // len(frames):,} bytes each")
    for level, cost in by_level.items():
        more = cost - by_level["structure"]
        share = more * 500 / 10_000
        print(f"  {level:9}  {cost:6.1f} us a frame, {more:+6.1f}; {share:.1f} % of a core at 500 a second")
    print(f"  proof      {middle:6.1f} us the median commit, {mean:.1f} us the mean")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--conformance", type=Path, help="folder of the conformance data")
    parser.add_argument("--frames", type=int, default=10_000, help="frames of the simulated network")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    show("simulated network", *simulated(arguments.frames), arguments.rounds)
    if arguments.conformance is not None:
        show("real frames", *real(arguments.conformance), arguments.rounds)
    for curve, cost in signatures(arguments.rounds).items():
        print(f"signature {curve}: {cost:.1f} us")


if __name__ == "__main__":
    main()
