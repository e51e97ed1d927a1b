"""Extended grapheme clusters, which people see as one character (Unicode Standard Annex 29, tables 1b and 1c).

The pattern is ours although `regex` has `\\X`: that joins consonants of Indic scripts that have nothing to join them,
so that it counts fewer clusters than the reference's ICU, and takes quadratic time for a run of flags.
"""

from __future__ import annotations

from itertools import islice

import regex

_CLUSTER = regex.compile(
    r"""(?V1x)
    \r\n
    | [\p{GCB=Control}\r\n]
    | (?:
        # By far the commonest, hence first: characters that join nothing before them.
        [\p{GCB=Other}--\p{ExtPict}--\p{InCB=Consonant}]
        | \p{GCB=Prepend}*
          (?:
            # Flags.
            \p{GCB=RI}{2}
            # Hangul syllables.
            | \p{GCB=L}*+ (?: [\p{GCB=V}\p{GCB=LV}] \p{GCB=V}*+ | \p{GCB=LVT} ) \p{GCB=T}*+
            | \p{GCB=L}++
            | \p{GCB=T}++
            # Emoji joined by zero-width joiners.
            | \p{ExtPict} (?: \p{GCB=Extend}*+ \p{GCB=ZWJ} \p{ExtPict} )*+
            # Indic conjuncts.
            | \p{InCB=Consonant}
              (?: \p{InCB=Extend}*+ \p{InCB=Linker} [\p{InCB=Extend}\p{InCB=Linker}]*+ \p{InCB=Consonant} )*+
            | [^\p{GCB=Control}\r\n]
          )
      )
      [\p{GCB=Extend}\p{GCB=ZWJ}\p{GCB=SpacingMark}]*+
    """
)


def count(text: str, enough: int) -> int:
    """The number of extended grapheme clusters in a text, counted no further than `enough`."""
    if text.isascii():
        # The only cluster within ASCII.
        return min(len(text) - text.count("\r\n"), enough)
    return sum(1 for _ in islice(_CLUSTER.finditer(text), enough))
