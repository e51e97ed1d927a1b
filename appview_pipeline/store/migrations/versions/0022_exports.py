"""Records of exports that notify nobody, and more of what is waited for."""

from appview_pipeline.store.migrations import run, run_online

revision = "0022"
down_revision = "0021"


def upgrade() -> None:
    run_online("schema/online/0022_exports.sql")
    run("schema/0022_exports.sql")
