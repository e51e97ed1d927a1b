"""The indexes of the reference by which it finds what a deleted account leaves: the URIs say so, too."""

from appview_pipeline.store.migrations import run

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    run("schema/0008_fewer_indexes_of_accounts.sql")
