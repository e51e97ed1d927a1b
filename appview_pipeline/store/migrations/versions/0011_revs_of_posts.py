"""Posts know their rev; what depends on posts and gates as of a rev is found by one look-up."""

from appview_pipeline.store.migrations import run, run_online

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    run_online("schema/online/0011_revs_of_posts.sql")
    run("schema/0011_revs_of_posts.sql")
