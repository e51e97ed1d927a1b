"""A table that refuses rows, with any SQLSTATE."""

from __future__ import annotations

from appview_pipeline.store.database import Database
from appview_pipeline_tests.support.tables import rows


def refuse(database: Database, condition: str, code: str = "23514", once: bool = False, on: str = "post") -> None:
    """A trigger on a table that raises (or, for `once`, does so the first time only)."""
    rows(
        database.url,
        f"""
        CREATE SEQUENCE bsky.refusals;
        CREATE FUNCTION bsky.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
          IF ({condition}) AND ({"nextval('bsky.refusals') = 1" if once else "true"}) THEN
            {"PERFORM pg_terminate_backend(pg_backend_pid());" if code == "kill" else ""}
            RAISE EXCEPTION 'refused by the test' USING ERRCODE = '{"57P01" if code == "kill" else code}';
          END IF;
          RETURN coalesce(NEW, OLD);
        END $$;
        CREATE TRIGGER refuse BEFORE INSERT OR DELETE ON bsky."{on}" FOR EACH ROW EXECUTE FUNCTION bsky.refuse();
        """,
    )
