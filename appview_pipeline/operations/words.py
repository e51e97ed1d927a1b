"""Numbers for people: times, sizes, shares. Text of strangers for people."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """Seconds for a person: "35 s", "12 min", "3.5 h", "2.1 days"."""
    for limit, unit, size in ((100.0, "s", 1.0), (6_000.0, "min", 60.0), (172_800.0, "h", 3_600.0)):
        if seconds < limit:
            return f"{seconds / size:,.1f} {unit}" if unit == "h" else f"{seconds / size:,.0f} {unit}"
    return f"{seconds / 86_400.0:,.1f} days"


def size(count: float) -> str:
    """Bytes for a person: "12.0 MB", "3.5 GB", "1.2 TB"."""
    for limit, unit, unit_bytes in ((1e9, "MB", 1e6), (1e12, "GB", 1e9)):
        if abs(count) < limit:
            return f"{count / unit_bytes:,.1f} {unit}"
    return f"{count / 1e12:,.1f} TB"


def share(part: float) -> str:
    """A part of a whole: "12.5 %", "0.1 %"."""
    return f"{part:.1%}".replace("%", " %")


def at_least(count: int, limit: int) -> str:
    """A count that ended at a limit: "10,000 or more"."""
    return f"{count:,} or more" if count >= limit else f"{count:,}"


def one_line(text: str) -> str:
    """Text without what would begin a line or control a terminal, each such character a space."""
    return "".join(c if c.isprintable() else " " for c in text)
