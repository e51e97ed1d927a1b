"""How far the adoption of a database of the reference has come."""

from appview_pipeline.store.migrations import run

revision = "0027"
down_revision = "0026"


def upgrade() -> None:
    run("schema/0027_adoption.sql")
