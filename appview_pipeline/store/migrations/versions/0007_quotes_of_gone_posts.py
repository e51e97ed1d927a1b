"""Quotes of deleted posts: a gate that arrives late may forbid them."""

from appview_pipeline.store.migrations import run_online

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    run_online("schema/0007_quotes_of_gone_posts.sql")
