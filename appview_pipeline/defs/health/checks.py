"""Dagster's checks, made from the conditions of health: run by hand, they read a health report and evaluate it.

Mostly it is sensors that evaluate them (`sensor.py`, and each leased process's own).
"""

# No postponed annotations here: Dagster reads the types of its checks' parameters at definition.

from collections.abc import Callable, Iterator

import dagster as dg

from appview_pipeline import settings
from appview_pipeline.defs.check_events import result
from appview_pipeline.defs.database import IndexDatabase
from appview_pipeline.defs.health import dagster_state
from appview_pipeline.errors import OperatorError
from appview_pipeline.operations.completeness_conditions import FETCHING
from appview_pipeline.operations.conditions import CONDITIONS, judge_all
from appview_pipeline.operations.database_conditions import DATABASE_ANSWERS
from appview_pipeline.operations.identity_conditions import RESOLVING
from appview_pipeline.operations.label_conditions import LABELERS_KEEP_UP, READING_LABELS
from appview_pipeline.operations.stream_conditions import CONNECTED
from appview_pipeline.operations.verdict import Check, Verdict, what_to_do
from appview_pipeline.settings import Settings
from appview_pipeline.store.database import Database
from appview_pipeline.store.errors import DatabaseError
from appview_pipeline.store.health_report import read_health

CHECKS: tuple[Check, ...] = (*CONDITIONS, DATABASE_ANSWERS, *dagster_state.CHECKS)
"""All checks that a health report, or Dagster's storage, is evaluated by."""
SUPERVISED = frozenset(it.name for it in (CONNECTED, RESOLVING, FETCHING, READING_LABELS, LABELERS_KEEP_UP))
"""Checks that the sensor of a leased process evaluates, which knows more of it than the database."""
ANSWERS = "PostgreSQL answered all questions."


def spec(check: Check) -> dg.AssetCheckSpec:
    """A check as Dagster shows it."""
    threshold = f" Threshold: `{check.setting}`." if check.setting else ""
    link = what_to_do(check.name)
    return dg.AssetCheckSpec(
        check.name,
        asset=check.asset,
        description=f"{check.description}{threshold} What to do when it fails: {link}",
        metadata={"what_to_do": link},
    )


def evaluate_all(
    instance: dg.DagsterInstance, open_database: Callable[[], Database], chosen: Settings
) -> list[Verdict]:
    """What every check says now. Where the database does not answer, what can be said without it."""
    of_dagster = dagster_state.judge(dagster_state.read_failures(instance), chosen)
    try:
        with open_database().connect("health") as connection:
            report = read_health(connection, chosen)
    except (OperatorError, DatabaseError) as error:
        return [DATABASE_ANSWERS.of_process(f"The database can't be asked: {error}", ANSWERS), *of_dagster]
    return [*judge_all(report, chosen), DATABASE_ANSWERS.of_process(None, ANSWERS), *of_dagster]


@dg.multi_asset_check(
    name="health", specs=[spec(check) for check in CHECKS], can_subset=True, op_tags={"dagster/max_runtime": "600"}
)
def health_checks(context: dg.AssetCheckExecutionContext, index: IndexDatabase) -> Iterator[dg.AssetCheckResult]:
    """Evaluates the selected checks by one health report."""
    selected = context.selected_asset_check_keys
    wanted = {key.name for key in selected}
    said = set()
    for verdict in evaluate_all(context.instance, index.open, settings.load()):
        if verdict.name in wanted:
            said.add(verdict.name)
            yield result(verdict)
    for check in CHECKS:
        if check.name in wanted - said:
            yield result(check.verdict(False, "The database can't be asked, so this is not known."))
