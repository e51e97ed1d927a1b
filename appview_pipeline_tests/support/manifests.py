"""Manifests of Kubernetes, held against its schemas."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml


def assert_fits_kubernetes(path: Path) -> None:
    """Each document of the file fits the schemas of two releases; one with a wrong word would not."""
    validator = pytest.importorskip("kubernetes_validate")
    documents = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    for document in documents:
        for version in ("1.30", "1.33"):
            validator.validate(document, version, strict=True)
    documents[0]["metadata"]["lables"] = {}
    with pytest.raises(validator.ValidationError):
        validator.validate(documents[0], "1.33", strict=True)
