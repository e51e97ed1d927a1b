"""The identities of the corpus' accounts, as resolution would have left them: every signature can be checked."""

from __future__ import annotations

import io
from contextlib import closing

import psycopg2

from appview_pipeline_tests.benchmark.corpus import Corpus

PDS = "https://pds.bench.test"


def insert_identities(libpq: str, corpus: Corpus) -> None:
    """Enters the signing keys of the accounts that were there before the first frame, into older tables too."""
    accounts = zip(corpus.past["accounts"], corpus.past["keys"], strict=True)
    lines = "".join(f"{account[0]}\t{account[1]}\t{key}\n" for account, key in accounts)
    with closing(psycopg2.connect(libpq)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("CREATE TEMP TABLE account (did text, handle text, key text) ON COMMIT DROP")
        cursor.copy_expert("COPY account FROM STDIN", io.StringIO(lines))
        cursor.execute(
            "SELECT count(*) > 0 FROM information_schema.columns "
            "WHERE (table_schema, table_name, column_name) = ('pipeline', 'identity', 'state')"
        )
        has_state = cursor.fetchone() == (True,)
        more, values = (", state, source", ", 'found', 'plc'") if has_state else ("", "")
        cursor.execute(
            "INSERT INTO pipeline.identity "
            f"(did, handle, pds, signing_key, resolved_at, handle_checked_at, next_check_at{more}) "
            f"SELECT did, handle, %s, key, now(), now(), now() + interval '1 day'{values} FROM account ORDER BY did "
            "ON CONFLICT (did) DO NOTHING",
            (PDS,),
        )
