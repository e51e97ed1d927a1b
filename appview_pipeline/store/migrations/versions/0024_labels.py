"""Labels of labelers, their streams, and the label feed."""

from appview_pipeline.store.migrations import run, run_online

revision = "0024"
down_revision = "0023"


def upgrade() -> None:
    run_online("schema/online/0024_labels.sql")
    run("schema/0024_labels.sql")
    run("views/label_in_effect.sql")
