"""What an operator reads when something cannot work."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from appview_pipeline.errors import OperatorError


def sentence_of(action: Callable[[], object]) -> str:
    """The sentence of the OperatorError that an action raises: one line, not long, without a password."""
    with pytest.raises(OperatorError) as error:
        action()
    sentence = str(error.value)
    assert "\n" not in sentence and "secret" not in sentence and len(sentence) < 500, sentence
    return sentence
