"""Indexes the AT Protocol network into the PostgreSQL database that an AppView serves from.

The rooms of this package and which of them may import which are told in docs/architecture.md.
"""

__version__ = "0.1.0"
