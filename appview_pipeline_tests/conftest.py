"""What all tests share: a throw-away PostgreSQL, migrated databases cloned from a template, the corpus.

Also which tests run, by how many workers, and for how long random properties are tried (docs/testing.md).
"""

from __future__ import annotations

import inspect
import logging
import os
import signal
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from hypothesis import settings

from appview_pipeline import logs
from appview_pipeline.indexing.changes import Change
from appview_pipeline.ingest.decoding import read_changes
from appview_pipeline.store.database import Database
from appview_pipeline.store.embedded.attach import EmbeddedPostgres
from appview_pipeline.store.embedded.ephemeral import ephemeral
from appview_pipeline_tests.conformance.reference.packages import folder, installed
from appview_pipeline_tests.properties.delivery import fresh_index
from appview_pipeline_tests.support.batches import batches_of, feed
from appview_pipeline_tests.support.budget import EXAMPLES, SECONDS, Budget
from appview_pipeline_tests.support.busy_world import busy_frames
from appview_pipeline_tests.support.changes import COLLECTIONS, validators
from appview_pipeline_tests.support.checkout import CHECKOUT
from appview_pipeline_tests.support.database import memory_folder, run_sql
from appview_pipeline_tests.support.frames import Stream
from appview_pipeline_tests.support.rerun import Rerun
from appview_pipeline_tests.support.tables import Fresh, fresh_database

WORKERS = 3
"""Processes that run the whole suite, each with a PostgreSQL of its own; `-n` says otherwise. One more than a small
machine has cores, since tests wait for nearly half of their time: for processes that start, for limits of time."""

# The same examples tomorrow, whatever a developer's machine has stored, and no time limit for an example.
settings.register_profile("appview", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("appview")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run the tests marked slow")
    parser.addoption("--thorough", action="store_true", help="run the random properties and the tests marked thorough")
    parser.addoption(
        "--budget", type=float, default=0.0, metavar="MINUTES", help="time that all random properties share (default 0)"
    )
    parser.addoption("--seed", type=int, default=0, help="first seed of the random properties (default 0)")


def pytest_configure() -> None:
    """Undoes an ignored SIGINT, which the processes that a test starts would inherit.

    A script starts its background commands with SIGINT ignored. `dagster dev` and our commands would then not notice
    the interrupt that a test sends, and `dagster dev` not even a SIGTERM.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Gives the whole suite to several workers, and chosen files to none, whose start would cost more."""
    if not config.pluginmanager.hasplugin("xdist") or hasattr(config, "workerinput"):
        return
    option = config.option
    whole = config.args_source is not pytest.Config.ArgsSource.ARGS
    if whole and option.numprocesses is None and not option.usepdb and not option.collectonly:
        option.numprocesses = WORKERS
        option.dist = "worksteal"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--thorough"):
        chosen = [item for item in items if _is_property(item) or item.get_closest_marker("thorough")]
        config.hook.pytest_deselected(items=[item for item in items if item not in set(chosen)])
        items[:] = chosen
        return
    for item in items:
        if item.get_closest_marker("thorough"):
            item.add_marker(pytest.mark.skip(reason="thorough: run by appview_pipeline_tests.thorough"))
        elif item.get_closest_marker("slow") and not config.getoption("--slow"):
            item.add_marker(pytest.mark.skip(reason="slow: run with --slow"))


def _is_property(item: pytest.Item) -> bool:
    """Whether a test is random: made by `given`, or by itself with a `budget`."""
    return isinstance(item, pytest.Function) and (hasattr(item.obj, "hypothesis") or "budget" in item.fixturenames)


def _budget(item: pytest.Item) -> Budget:
    """An equal share of what `--budget` gives to all properties of this run; a property's parameters divide its own."""
    parameters = Counter(map(_function_of, filter(_is_property, item.session.items)))
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    seconds = item.config.getoption("--budget") * 60 * workers / len(parameters) / parameters[_function_of(item)]
    return Budget(seconds, item.config.getoption("--seed"), item.user_properties)


def _function_of(item: pytest.Item) -> str:
    return item.nodeid.partition("[")[0]


@pytest.fixture
def budget(request: pytest.FixtureRequest) -> Budget:
    """The time of a property that is made inside of its test; properties that `given` decorates have theirs already."""
    return _budget(request.node)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Runs a property for its time."""
    if not hasattr(pyfuncitem.obj, "hypothesis"):
        return None
    names = inspect.signature(pyfuncitem.obj).parameters
    _budget(pyfuncitem).spend(pyfuncitem.obj, **{name: pyfuncitem.funcargs[name] for name in names})
    return True


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints how many examples each property reached, in its workers too."""
    reports = [report for outcome in ("passed", "failed") for report in terminalreporter.getreports(outcome)]
    reached = {it.nodeid: dict(it.user_properties) for it in reports if it.when == "call"}
    reached = {test: found for test, found in reached.items() if EXAMPLES in found}
    if reached:
        total = sum(found[EXAMPLES] for found in reached.values())
        terminalreporter.section(f"random properties: {total:,} examples")
        for test, found in sorted(reached.items()):
            terminalreporter.write_line(f"{found[EXAMPLES]:>8,} examples in {found[SECONDS]:>7.1f} s  {test}")


@pytest.fixture(scope="session")
def server() -> Iterator[EmbeddedPostgres]:
    """A private PostgreSQL server without durability, on the binaries that the product would choose."""
    with ephemeral(parent=memory_folder()) as postgres:
        yield postgres


@pytest.fixture(scope="session")
def template_database(server: EmbeddedPostgres) -> str:
    """Name of a database at the newest schema version that nobody connects to: the template of all others."""
    from appview_pipeline.store import migrate

    name = "appview_template"
    run_sql(server, f'CREATE DATABASE "{name}"')
    migrate.upgrade(server.url(name))
    run_sql(server, f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
    # A pool that the migration left open would keep the template from being cloned.
    run_sql(server, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", name)
    return name


@pytest.fixture(scope="session")
def fresh(server: EmbeddedPostgres, template_database: str) -> Fresh:
    """Makes databases for tests that need several: `with fresh() as database`, `with fresh(batch_events=4) as ...`."""
    return partial(fresh_database, server, template_database)


@pytest.fixture
def database(fresh: Fresh) -> Iterator[Database]:
    """A database at the newest schema version, dropped after the test."""
    with fresh() as made:
        yield made


@pytest.fixture
def database_url(database: Database) -> str:
    """SQLAlchemy URL of such a database."""
    return database.url


@pytest.fixture
def stream() -> Stream:
    """A relay's stream that has just begun."""
    return Stream()


@pytest.fixture(scope="module")
def rerun_index(server: EmbeddedPostgres, template_database: str) -> Iterator[Rerun]:
    """An index to rerun; it keeps what the tests of a module write to it."""
    with fresh_index(server, template_database) as made:
        yield Rerun(made.database, made.connection, made.clean)


@pytest.fixture(scope="session")
def busy_changes() -> list[Change]:
    """600 frames of a few accounts in which everything happens often."""
    return read_changes(list(busy_frames(600)), validators(), COLLECTIONS)


@pytest.fixture
def busy(rerun_index: Rerun, busy_changes: list[Change]) -> Rerun:
    """An index to rerun, of a network in which everything happens often."""
    rerun_index.clean()
    feed(rerun_index.database, batches_of(busy_changes, 50))
    return rerun_index


@pytest.fixture
def restored_logging() -> Iterator[None]:
    """Logging is after the test as it was before."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    for name in logs._CHATTY:
        logging.getLogger(name).setLevel(logging.NOTSET)


@pytest.fixture(scope="session")
def conformance() -> Path:
    """Folder of the conformance data, which lies beside the checkout and is never part of it."""
    folder = CHECKOUT.parent / "shared" / "conformance"
    if not folder.is_dir():
        pytest.skip(f"no conformance data in {folder}")
    return folder


@pytest.fixture(scope="session")
def packages() -> Path:
    """The folder node_modules of the published reference AppView, which is never part of the checkout."""
    found = installed()
    if found is None:
        pytest.skip(f"the reference AppView is not in {folder()}: `just reference` installs it")
    return found
