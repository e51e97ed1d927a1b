"""Where the ranges stand that several processes of an adoption work through."""

from appview_pipeline.store.migrations import run

revision = "0028"
down_revision = "0027"


def upgrade() -> None:
    run("schema/0028_adoption_ranges.sql")
