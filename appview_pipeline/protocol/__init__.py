"""The AT Protocol as pure functions on bytes and values: no I/O, nothing of ours imported.

`frames` (bytes to events), `commit` (what an event holds), `car`, `cbor` and `cid` (blocks, records, links), `mst`
(trees and proofs), `signing` (keys and signatures), `syntax` (string formats), `lexicon` (validation of records).
"""
