"""The AT Protocol as pure functions on bytes and values: no I/O, nothing of ours imported.

`event_stream` (frames of any stream), `frames` (frames to events), `peek` (what can be read of a frame without decoding
it), `commit` (what an event holds), `car`, `cbor` and `cid` (blocks, records, links), `mst`, `mst_node` and `mst_proof`
(trees and proofs), `signing` (keys and signatures), `syntax` (string formats), `lexicon` (validation of records).
"""
