"""Where this checkout is, and the folder beside it with data that others made, which a clone may lack."""

from __future__ import annotations

from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
SHARED = CHECKOUT.parent / "shared"
