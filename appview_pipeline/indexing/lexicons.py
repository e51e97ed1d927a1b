"""Loads Lexicon documents from disk: the published ones, and those of a folder that an operator adds.

The published documents are data files of the `lexrpc` distribution; its code, with all that it imports, is never
loaded. What it does not have yet is in `lexicon_documents/`, a file for each NSID, and yields to it once it has.
"""

from __future__ import annotations

import logging
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import orjson

from appview_pipeline.errors import OperatorError
from appview_pipeline.protocol.lexicon_documents import problem

_log = logging.getLogger(__name__)

_DISTRIBUTION = "lexrpc"
_OWN = Path(__file__).with_name("lexicon_documents")


def load_documents(extra_dir: Path | None = None) -> list[dict[str, Any]]:
    """All Lexicon documents, one for each NSID, in the order of their NSIDs; ready for `compile_lexicons`.

    `extra_dir` is searched for `*.json`, subfolders included; a document in there replaces the published one of the
    same NSID. A published document in a newer dialect than ours is left out with a warning: at worst a record type
    that we don't index refers to it.

    Raises `OperatorError` when the published documents are not installed, and for a folder or file of the operator
    that can't be read or is no Lexicon document.
    """
    documents: dict[str, dict[str, Any]] = {}
    for path in (*sorted(_OWN.glob("*.json")), *_published()):
        document = orjson.loads(path.read_bytes())
        if found := problem(document):
            _log.warning("Lexicon document %s of %s left out: %s", path.name, _DISTRIBUTION, found)
        else:
            documents[document["id"]] = document
    if extra_dir is not None:
        documents |= _extra(extra_dir)
    return [documents[nsid] for nsid in sorted(documents)]


def _published() -> list[Path]:
    # Finding a top-level package does not run it.
    spec = find_spec(_DISTRIBUTION)
    folders = (spec.submodule_search_locations or []) if spec else []
    paths = sorted(path for folder in folders for path in (Path(folder) / "lexicons").rglob("*.json"))
    if not paths:
        raise OperatorError(f"The Lexicon documents are missing: install the Python package {_DISTRIBUTION}.")
    return paths


def _extra(folder: Path) -> dict[str, dict[str, Any]]:
    if not folder.is_dir():
        raise OperatorError(f"APPVIEW_LEXICON_DIR={folder} is not a folder: correct it or unset it.")
    documents: dict[str, dict[str, Any]] = {}
    paths: dict[str, Path] = {}
    for path in sorted(folder.rglob("*.json")):
        try:
            document = orjson.loads(path.read_bytes())
        except (OSError, ValueError) as error:
            raise OperatorError(
                f"{path} can't be read as a Lexicon document ({error}): correct or remove it."
            ) from None
        if found := problem(document):
            raise OperatorError(f"{path} is not a Lexicon document ({found}): correct or remove it.")
        nsid = document["id"]
        if nsid in paths:
            raise OperatorError(f"{path} and {paths[nsid]} both define {nsid}: remove one of them.")
        documents[nsid], paths[nsid] = document, path
    return documents
