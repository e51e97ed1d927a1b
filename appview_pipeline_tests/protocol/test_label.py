"""Labels: what is read, what is signed, and which signatures fit; real labels of the conformance data among them."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from appview_pipeline.protocol import signing
from appview_pipeline.protocol.label import canonical_bytes, read_label, verify_label

NOW = 1_800_000_000_000_000


def unpadded(text: str) -> bytes:
    return base64.b64decode(text + "==")


def test_real_labels_verify(conformance: Path) -> None:
    vectors = json.loads((conformance / "labels" / "signed_labels.json").read_text())["labels"]
    assert len(vectors) >= 6
    for vector in vectors:
        value: dict[str, Any] = {**vector["label"], "sig": unpadded(vector["label"]["sig"]["$bytes"])}
        label = read_label(value, NOW)
        if "signing_bytes_hex" in vector:
            assert canonical_bytes(label).hex() == vector["signing_bytes_hex"]
        key = signing.VerifyingKey(signing.parse_did_key(vector["key"]))
        verified = verify_label(key, label, value)
        assert (verified is not None) == vector["expect"].startswith("valid"), vector
        assert verified is None or verified.signed is None
