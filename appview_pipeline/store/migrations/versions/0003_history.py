"""Past states by which posts are evaluated as of an earlier rev, and what evaluations depend on."""

from appview_pipeline.store.migrations import run, run_online

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    run_online("schema/online/0003_history.sql")
    run("schema/0003_history.sql")
