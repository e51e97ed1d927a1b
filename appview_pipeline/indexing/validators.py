"""The validators of the indexed collections' records, compiled once a process."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from appview_pipeline.errors import OperatorError
from appview_pipeline.indexing.lexicons import load_documents
from appview_pipeline.indexing.registry import COLLECTIONS
from appview_pipeline.protocol.lexicon import LexiconError, Lexicons, RecordValidator, compile_lexicons


class Validators:
    """The validators of records by collection, each compiled when it is first asked for."""

    def __init__(self, lexicons: Lexicons) -> None:
        self._lexicons = lexicons
        self._known: dict[str, RecordValidator | None] = dict.fromkeys(
            nsid for nsid, collection in COLLECTIONS.items() if not collection.is_validated
        )
        for nsid in COLLECTIONS:
            self.get(nsid)

    def get(self, nsid: str) -> RecordValidator | None:
        """The validator of a collection's records; None where no Lexicon document says what they are."""
        if nsid not in self._known:
            known = nsid in self._lexicons.record_types
            self._known[nsid] = self._lexicons.record_validator(nsid) if known else None
        return self._known[nsid]


@cache
def record_validators(extra_dir: Path | None = None) -> Validators:
    """The validators. `extra_dir`: a folder of the operator's own Lexicon documents.

    Raises `OperatorError` when documents are missing or malformed.
    """
    try:
        return Validators(compile_lexicons(load_documents(extra_dir)))
    except LexiconError as error:
        raise OperatorError(
            f"The Lexicon documents don't fit together ({error}): reinstall lexrpc, or correct APPVIEW_LEXICON_DIR."
        ) from None
