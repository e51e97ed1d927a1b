"""Names in schema pipeline have the words of the glossary."""

from appview_pipeline.store.migrations import run

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    run("schema/0015_relationships.sql")
