"""Texts that break careless code: control characters, escapes, quotes, markers of COPY, odd Unicode."""

from __future__ import annotations

from hypothesis import strategies as st

HOSTILE = [
    *("\t", "\n", "\r", "\r\n", "\\", "\\\\", "\\N", "\\.", "\n\\.\n", "\\t", "\\x01", "\0", "\x01", "\x02", "\x1b[2J"),
    *("'", '"', "''", "$$", ";--", "{", "}", "{}", '"}', "%s", "%", "\\u0000", "\\\\u0000", "\\ud800", "&#0;", "NULL"),
    *(
        "\u202e",
        "\u2066",
        "\u200b",
        "\ufeff",
        "\ufffe",
        "\uffff",
        "\u2028",
        "\x85",
        "\x7f",
        "😀",
        "\U0010ffff",
        "e\u0301",
    ),
    *("e\u0301", "👨‍👩‍👧‍👦", "نص", "日本", "\U000e0001", " ", "", "a"),
]
hostile = st.lists(
    st.one_of(st.sampled_from(HOSTILE), st.text(st.characters(exclude_categories=["Cs"]), max_size=4)), max_size=8
).map("".join)
