"""An index that the reference's reads need."""

from appview_pipeline.store.migrations import run, run_online

revision = "0026"
down_revision = "0025"


def upgrade() -> None:
    run_online("schema/online/0026_reads.sql")
    run("schema/0026_reads.sql")
