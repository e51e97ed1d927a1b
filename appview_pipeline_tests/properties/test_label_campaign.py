"""A small campaign of labels: the tables are what the labelers said, whatever is broken, restarted and killed."""

from __future__ import annotations

from functools import partial

from appview_pipeline.store.database import Database
from appview_pipeline_tests.properties.label_campaign import Plan, in_words, run
from appview_pipeline_tests.support.tables import rows


def test_labels_are_what_the_labelers_say(database: Database) -> None:
    said: list[str] = []
    cut = partial(
        rows,
        database.url,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )
    plan = Plan(labels=2_000, labelers=9, broken=4, kills=2, seconds=1.0, patience=60.0)
    found = run(database, plan, said.append, restart=cut)
    assert not found.different, (in_words(found), said)
    # It was no easy one.
    assert found.killed == 2 and found.labels == 2_000 and 0 < found.events < found.labels
    assert 0 < found.in_effect < found.stored
    assert set(found.reasons) == {"no key", "hangs", "wrong key", "garbage"}, found.reasons
    assert found.reasons["no key"].startswith("parked"), found.reasons
    assert found.letters["label-signature"] >= 1, found.letters
