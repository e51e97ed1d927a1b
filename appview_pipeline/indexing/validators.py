"""The validators of the indexed collections' records, compiled once a process."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from appview_pipeline.errors import OperatorError
from appview_pipeline.indexing.lexicons import load_documents
from appview_pipeline.indexing.registry import COLLECTIONS
from appview_pipeline.protocol.lexicon import LexiconError, RecordValidator, compile_lexicons

# The reference stores these as they come.
NOT_VALIDATED = frozenset(("chat.bsky.actor.declaration",))


@cache
def record_validators(extra_dir: Path | None = None) -> dict[str, RecordValidator]:
    """Validators by collection. `extra_dir`: a folder of the operator's own Lexicon documents.

    Raises `OperatorError` when documents are missing or malformed.
    """
    try:
        lexicons = compile_lexicons(load_documents(extra_dir))
        return {nsid: lexicons.record_validator(nsid) for nsid in COLLECTIONS if nsid not in NOT_VALIDATED}
    except (LexiconError, KeyError) as error:
        raise OperatorError(
            f"The Lexicon documents don't fit together ({error}): reinstall lexrpc, or correct APPVIEW_LEXICON_DIR."
        ) from None
