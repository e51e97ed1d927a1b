"""Posts know their rev; what depends on posts and gates as of a rev is found by one look-up."""

from appview_pipeline.store.migrations import run

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    run("schema/0011_revs_of_posts.sql")
