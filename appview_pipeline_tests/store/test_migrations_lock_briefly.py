"""The rule for new migrations (CONTRIBUTING.md): nothing in a migration's transaction takes long on a table that may be
large. test_migrating_filled_tables.py measures the same with rows; this test names the statement."""

from __future__ import annotations

import re

import pytest

from appview_pipeline.store import sql
from appview_pipeline_tests.support.checkout import CHECKOUT

SCHEMA = CHECKOUT / "sql" / "schema"
FILES = sorted(path.name for path in SCHEMA.glob("*.sql"))[2:]
ONLINE = sorted(path.name for path in (SCHEMA / "online").glob("*.sql"))

KNOWN = {
    "0003_history.sql": {"activity_subscription"},  # private settings of the AppView's accounts
    "0010_gaps.sql": {"gap"},
    "0013_upstream_status.sql": {"actor"},  # rows of inactive accounts
    "0018_privacy.sql": {"actor_setting", "identity"},  # accounts that opted out
    "0020_backfill.sql": {"backfill_queue"},
    "0024_labels.sql": {"label_event", "label_definition"},  # empty before; definitions of labelers
}
"""Tables that were small when these migrations were written."""

REPEATABLE = (
    "CREATE INDEX CONCURRENTLY IF NOT EXISTS ",
    "CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS ",
    "DROP INDEX CONCURRENTLY IF EXISTS ",
    "UPDATE ",
    "DELETE ",
    "DO ",
)

# Comments, bodies of functions, texts.
_NOISE = re.compile(r"--[^\n]*|\$\$.*?\$\$|BEGIN ATOMIC.*?^END|'[^']*'", re.DOTALL | re.MULTILINE)
_TABLE = r'(?:ONLY )?(?:\w+\.)?"?(\w+)"?'
_CONSTANT = re.compile(r"(?:true|false|null|now\(\)|[\d.]+|X(?:::\w+)?)\b|X|now\(\)", re.IGNORECASE)


def complaints(text: str) -> list[tuple[str, str]]:
    """(table, what is wrong) of each statement that takes long on a table that was there before."""
    quiet = _NOISE.sub(lambda match: "" if match[0].startswith("--") else "X", text)
    statements = [" ".join(part.split()) for part in quiet.split(";")]
    new = {match[1] for it in statements if (match := re.match(f"CREATE TABLE (?:IF NOT EXISTS )?{_TABLE}", it))}
    found = [(table, reason) for it in statements for table, reason in _reasons(it)]
    return [(table, reason) for table, reason in found if table not in new]


def _reasons(statement: str) -> list[tuple[str, str]]:
    if match := re.match(rf"CREATE (?:UNIQUE )?INDEX (?!CONCURRENTLY).*? ON {_TABLE}", statement):
        return [(match[1], "builds an index that writers wait for")]
    if match := re.match(rf"(?:UPDATE|DELETE FROM) {_TABLE}", statement):
        return [(match[1], "changes rows of a table in the transaction")]
    if match := re.match(rf"(?:TRUNCATE|LOCK TABLE|CLUSTER|VACUUM FULL|REINDEX TABLE) {_TABLE}", statement):
        return [(match[1], "locks a table")]
    match = re.match(rf"ALTER TABLE (?:IF EXISTS )?{_TABLE} (.*)", statement)
    if match is None:
        return []
    reasons = []
    for action in re.split(r", (?=ADD|ALTER|DROP|VALIDATE|SET|RENAME)", match[2]):
        if re.match(r"ALTER (?:COLUMN )?\S+ (?:SET DATA )?TYPE|SET (?:UN)?LOGGED|SET TABLESPACE", action):
            reasons.append("rewrites the table")
        elif re.match(r"ALTER (?:COLUMN )?\S+ SET NOT NULL", action):
            reasons.append("reads the whole table for NOT NULL")
        elif re.match(r"ADD (?:CONSTRAINT \S+ )?(?:CHECK|FOREIGN KEY)", action) and "NOT VALID" not in action:
            reasons.append("reads the whole table for a constraint")
        elif (
            re.match(r"ADD (?:CONSTRAINT \S+ )?(?:PRIMARY KEY|UNIQUE|EXCLUDE)", action) and "USING INDEX" not in action
        ):
            reasons.append("builds an index that everybody waits for")
        elif column := re.match(r"ADD (?:COLUMN )?(?:IF NOT EXISTS )?(?!CONSTRAINT)\S+ (.*)", action):
            default = re.search(r"DEFAULT (.*)", column[1])
            if re.search(r"GENERATED|serial\b", column[1], re.IGNORECASE):
                reasons.append("rewrites the table for a column that is computed")
            elif default and not _CONSTANT.match(default[1]):
                reasons.append("rewrites the table for a default that is computed for each row")
            if re.search(r"\b(?:CHECK|REFERENCES|UNIQUE|PRIMARY KEY)\b", column[1]):
                reasons.append("reads the whole table for a constraint")
            if "NOT NULL" in column[1] and not default and "GENERATED" not in column[1]:
                reasons.append("adds a column that the rows there have no value for")
    return [(match[1], reason) for reason in reasons]


@pytest.mark.parametrize("name", FILES)
def test_a_migrations_transaction_does_nothing_that_takes_long_on_large_tables(name: str) -> None:
    found = complaints(sql.read(f"schema/{name}"))
    assert [it for it in found if it[0] not in KNOWN.get(name, ())] == [], "see CONTRIBUTING.md, A migration"


@pytest.mark.parametrize("name", ONLINE)
def test_statements_outside_of_the_transaction_may_be_repeated_and_lock_briefly(name: str) -> None:
    assert name in FILES
    for key, text in sql.sections(f"schema/online/{name}").items():
        found = [reason for table, reason in complaints(text) if not text.startswith(("UPDATE", "DELETE"))]
        assert found == [], key
        repeatable = (
            not text
            or text.startswith(REPEATABLE)
            or (text.startswith("INSERT ") and "ON CONFLICT" in text)
            or (text.startswith("ALTER TABLE ") and not re.search(r"ADD COLUMN (?!IF NOT EXISTS)", text))
        )
        assert repeatable, key
        for constraint in re.findall(r"ADD CONSTRAINT (\w+)", text):
            assert re.search(rf"DROP CONSTRAINT (?:IF EXISTS )?{constraint}\b", text), f"{key} can't be repeated"


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("CREATE INDEX x ON bsky.record (cid)", "builds an index"),
        ('CREATE UNIQUE INDEX x ON bsky."like" (cid)', "builds an index"),
        ("UPDATE bsky.post SET rev = 'a'", "changes rows"),
        ("ALTER TABLE bsky.record ADD COLUMN x text CHECK (x <> 'a')", "reads the whole table"),
        ("ALTER TABLE bsky.record ADD COLUMN y int, ADD COLUMN x uuid DEFAULT gen_random_uuid()", "rewrites"),
        ("ALTER TABLE bsky.record ADD COLUMN x int GENERATED ALWAYS AS (1) STORED", "rewrites"),
        ("ALTER TABLE bsky.record ADD COLUMN x bigserial", "rewrites"),
        ("ALTER TABLE bsky.record ADD COLUMN x text NOT NULL", "no value"),
        ("ALTER TABLE bsky.record ALTER COLUMN cid TYPE bytea", "rewrites"),
        ("ALTER TABLE bsky.record ALTER cid SET NOT NULL", "NOT NULL"),
        ("ALTER TABLE bsky.record ADD CONSTRAINT x CHECK (cid <> 'a')", "reads the whole table"),
        ("ALTER TABLE bsky.record ADD UNIQUE (cid)", "everybody waits"),
        ("TRUNCATE bsky.record", "locks"),
    ],
)
def test_forms_that_take_long_are_found(statement: str, reason: str) -> None:
    ((table, found),) = complaints(f"-- A comment.\n{statement};\nSELECT 1;")
    assert table in ("record", "like", "post") and reason in found


def test_forms_that_are_quick_are_not_found() -> None:
    quick = """
        CREATE TABLE pipeline.fresh (n int);
        CREATE INDEX fresh_idx ON pipeline.fresh (n);
        ALTER TABLE bsky.record
            ADD COLUMN a text, ADD COLUMN b integer NOT NULL DEFAULT 0, ADD COLUMN c timestamptz DEFAULT now(),
            ADD COLUMN d text NOT NULL DEFAULT 'x', ADD COLUMN e jsonb NOT NULL DEFAULT '{}', DROP COLUMN f,
            ADD CONSTRAINT g CHECK (a <> 'b, ADD COLUMN z serial') NOT VALID;
        ALTER TABLE bsky.record ADD CONSTRAINT h UNIQUE USING INDEX h_idx;
        DROP INDEX bsky.record_x_idx;
        CREATE FUNCTION pipeline.f() RETURNS void LANGUAGE plpgsql AS $$ BEGIN UPDATE bsky.post SET rev = 'a'; END $$;
    """
    assert complaints(quick) == []
