"""Indexes the AT Protocol network into the PostgreSQL database that an AppView serves from.

docs/architecture.md lists the packages inside, and which of them may import which.
"""

__version__ = "0.1.0"
