"""Labels of labelers, their streams, and the label feed."""

from appview_pipeline.store.migrations import run

revision = "0024"
down_revision = "0023"


def upgrade() -> None:
    run("schema/0024_labels.sql")
    run("views/label_in_effect.sql")
