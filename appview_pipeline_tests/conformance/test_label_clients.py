"""Others consume the label service unchanged: the published packages of the reference, in Node.

Needs `just reference` (conformance/reference/README.md). The published Python client is asked in
labels/test_serving.py.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from appview_pipeline.protocol.signing import public_key_of
from appview_pipeline.store.database import Database
from appview_pipeline_tests.conformance.reference import check
from appview_pipeline_tests.conformance.reference.packages import NODE
from appview_pipeline_tests.support.database import run
from appview_pipeline_tests.support.label_rows import apply_rows
from appview_pipeline_tests.support.label_service import ANN, KEY, LabelService, label_service, signed_row

pytestmark = pytest.mark.slow

CLIENT = Path(check.__file__).with_name("label_client.mjs")


def read_by_node(packages: Path, service: LabelService, cursor: int, count: int) -> list[dict[str, Any]]:
    key = public_key_of(KEY).did_key()
    command = [NODE, CLIENT, packages, f"127.0.0.1:{service.port}", cursor, key, count]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_the_published_packages_read_labels_and_verify_them(database: Database, packages: Path) -> None:
    cid = "bafyreidfayvfuwqa7qlnopdjiqrxzs6blmoeu4rujcjtnci5beludirz2a"
    apply_rows(database, [signed_row(f"did:plc:x{number}") for number in range(60)])
    apply_rows(database, [signed_row("at://did:plc:x/a/1", cid=cid, exp="2099-01-01T00:00:00Z")])
    apply_rows(database, [signed_row("did:plc:x1", neg=True, cts="2025-06-16T00:00:00Z")])
    run(database.url, f"INSERT INTO pipeline.label_swept VALUES ('{ANN}', 2)")
    with label_service(database) as service:
        *messages, query = read_by_node(packages, service, 0, 62)
        info, *rest, _ = read_by_node(packages, service, 1, 61)
        (error,) = read_by_node(packages, service, 10**6, 1)
    labels = [label for message in messages for label in message["labels"]]
    assert [label["uri"] for label in labels] == [*(f"did:plc:x{number}" for number in range(60)), *LAST]
    assert all(label["verified"] for label in labels + query["labels"])
    assert messages[-1]["seq"] == 62
    assert len(query["labels"]) == 60 and query["labels"][-1]["cid"] == cid
    assert (info["name"], sum(len(message["labels"]) for message in rest)) == ("OutdatedCursor", 61)
    assert error["error"] == "FutureCursor"


LAST = ["at://did:plc:x/a/1", "did:plc:x1"]
