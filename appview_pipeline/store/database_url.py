"""A database's URL, for the programs that read it differently, and the database's name in sentences."""

from __future__ import annotations

from sqlalchemy.engine import URL

from appview_pipeline.addresses import AddressError, DatabaseAddress, database_address
from appview_pipeline.errors import OperatorError


def address(url: str) -> DatabaseAddress:
    """The database at `url` (any form that libpq reads). Raises `OperatorError`, which shows no part of it."""
    try:
        return database_address(url)
    except AddressError as error:
        sentence = OperatorError(f"the database URL {error}.")
    raise sentence


def parse_url(url: str) -> URL:
    """The URL of a database on one host or socket for SQLAlchemy. Raises `OperatorError` as `address`."""
    given = dict(address(url).parameters)
    host = given.get("host", "")
    in_query = host.startswith(("/", "@")) or "," in host
    return URL.create(
        "postgresql+psycopg2",
        username=given.pop("user", None),
        password=given.pop("password", None),
        host=None if in_query else given.pop("host", None),
        port=None if in_query or not given.get("port", "").isdecimal() else int(given.pop("port")),
        database=given.pop("dbname", None),
        query=given,
    )


def sqlalchemy_url(url: str) -> str:
    """The URL with SQLAlchemy's name for the driver, `postgresql+psycopg2://...`, password included."""
    return address(url).url("postgresql+psycopg2")


def libpq_url(url: str) -> str:
    """The URL as psql, pg_dump and `psycopg2.connect` want it: `postgresql://...`, password included."""
    return address(url).url()


def describe(url: str) -> str:
    """The database in words, without secrets: `database appview on db.example.com:5432`."""
    return address(url).describe()
