"""The command line, `appview-pipeline`. Thin: each command is a call into a package."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import click
import orjson
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from appview_pipeline import __version__, logs
from appview_pipeline.errors import OperatorError, Stopped
from appview_pipeline.settings import Settings, load


def _show_version(context: click.Context, parameter: click.Parameter, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        from appview_pipeline.store import migrate as migrations

        click.echo(f"appview-pipeline {__version__}, schema {migrations.head()}")
        context.exit()


@click.group()
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version, and that of the database schema that it needs.",
)
def cli() -> None:
    """Indexes the AT Protocol network into PostgreSQL. Settings come from environment variables (docs/settings.md)."""


def _begin(service: str) -> Settings:
    settings = load()
    logs.configure(settings, service)
    return settings


def _json_line(value: dict[str, Any]) -> None:
    click.echo(orjson.dumps(value))


@cli.command()
def migrate() -> None:
    """Bring the database's schema to the newest version."""
    from appview_pipeline.store import migrate as migrations
    from appview_pipeline.store.database import open_database

    settings = _begin("migrate")
    database = open_database(settings, migrate=True)
    database.close()
    click.echo(f"The schema is at version {migrations.head()}.")


@cli.command()
@click.option("--check", is_flag=True, help="Change nothing, and say what the reference's indexer will not do.")
def leave(check: bool) -> None:
    """Give the database back to the reference AppView's own indexer (docs/serve.md).

    Builds the indexes that it expects, and drops the one that would refuse its rows. No row changes. Stop Dagster and
    all other processes first; they refuse the database until `adopt` has taken it over again. May be repeated.
    """
    from appview_pipeline.operations.leaving import leave as run
    from appview_pipeline.store.database import open_database

    settings = _begin("leave")
    database = open_database(settings, given_back=True)
    try:
        left = run(database, check=check, progress=lambda step: click.echo(step, err=True))
    finally:
        database.close()
    for line in left.lines():
        click.echo(line)
    if not check:
        click.echo("The database is the reference's: its indexer may be started.")


@cli.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--check", is_flag=True, help="Then restore it beside the folder, and read every row of it.")
def backup(folder: Path, check: bool) -> None:
    """Back the embedded database up to FOLDER, which must not exist yet, while everything goes on (docs/backup.md).

    Restoring is copying FOLDER/state to a new state folder (APPVIEW_STATE_DIR). The last line of the output is a JSON
    summary. For a database of your own use pg_basebackup or pg_dump.
    """
    from appview_pipeline.store.embedded.backup import back_up, check_backup

    settings = _begin("backup")
    with tqdm(unit="B", unit_scale=True, desc=folder.name, file=sys.stderr) as bar, logging_redirect_tqdm():

        def show(done: int, total: int) -> None:
            bar.total = max(done, total)
            bar.update(done - bar.n)

        made = back_up(settings, folder, progress=show)
    found = asdict(made)
    if check:
        restored = check_backup(folder, settings)
        found["checked"] = {"rows": sum(restored.rows.values()), "cursors": restored.cursors}
    _json_line(found)


@cli.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a script that lets a shell complete commands and options with the Tab key.

    \b
    bash:  eval "$(appview-pipeline completion bash)"   in ~/.bashrc
    zsh:   eval "$(appview-pipeline completion zsh)"    in ~/.zshrc
    fish:  appview-pipeline completion fish > ~/.config/fish/completions/appview-pipeline.fish
    """
    from click.shell_completion import get_completion_class

    shells = get_completion_class(shell)
    assert shells is not None
    click.echo(shells(cli, {}, "appview-pipeline", "_APPVIEW_PIPELINE_COMPLETE").source())


@cli.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--batch-size", type=click.IntRange(1, 100_000), help="Frames in a transaction. [APPVIEW_BATCH_EVENTS]")
def replay(file: Path, batch_size: int | None) -> None:
    """Index the frames of a capture FILE ([u32 length][frame]..., plain or .zst).

    Never moves the relay's cursor. Replayed again after any interruption, the file ends in the same tables. The last
    line of the output is a JSON summary.
    """
    from appview_pipeline.ingest.files.replay import replay as run
    from appview_pipeline.ingest.interpreter import favour_throughput
    from appview_pipeline.store.database import open_database

    settings = _begin("replay")
    favour_throughput()
    size = file.stat().st_size if file.is_file() else None
    database = open_database(settings)
    try:
        with (
            tqdm(total=size, unit="B", unit_scale=True, desc=file.name, file=sys.stderr) as bar,
            logging_redirect_tqdm(),
        ):
            summary = run(settings, database, file, batch_size=batch_size, progress=bar.update)
    finally:
        database.close()
    figures = asdict(summary)
    figures["seconds"] = round(summary.seconds, 3)
    figures["events_per_second"] = round(summary.events_per_second, 1)
    _json_line(figures)


@cli.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), required=True, help="How long to capture.")
@click.option("--cursor", type=click.IntRange(0, 2**53 - 1), help="Begin after this sequence number. [newest event]")
def capture(file: Path, seconds: float, cursor: int | None) -> None:
    """Write the relay's frames to FILE, which `replay` reads; compressed if its name ends in .zst."""
    from appview_pipeline.ingest.files.capture import capture as run
    from appview_pipeline.network.subscription import SubscriptionStatus

    settings = _begin("capture")
    with tqdm(total=round(seconds), unit="s", desc=file.name, file=sys.stderr) as bar, logging_redirect_tqdm():

        def show(gone: float, status: SubscriptionStatus) -> None:
            bar.n = min(round(gone), round(seconds))
            bar.set_postfix_str(f"{status.frames:,} frames" if status.connected else status.last_error or "connecting")

        summary = run(settings, file, seconds, cursor=cursor, progress=show)
    _json_line(asdict(summary))


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
def status(as_json: bool) -> None:
    """Say where the index stands: what is wrong, then cursors, lag, rates, dead letters, gaps, tables."""
    from appview_pipeline.operations.check import check_health, verdict_lines
    from appview_pipeline.operations.database_conditions import DATABASE_ANSWERS
    from appview_pipeline.store.database import open_database
    from appview_pipeline.store.status import PipelineStatus, read_status

    settings = _begin("status")
    database = open_database(settings, given_back=True)
    try:
        with database.connect("reader") as connection:
            found: PipelineStatus = read_status(connection, database.url, settings.dead_letter_day_bytes)
        try:
            failed = [verdict for verdict in check_health(database, settings) if not verdict.passed]
        except OperatorError as error:  # a database that is slow can still be looked at
            failed = [DATABASE_ANSWERS.of_process(str(error), "")]
    finally:
        database.close()
    if as_json:
        _json_line({"checks_that_fail": [verdict.as_json() for verdict in failed], **found.as_json()})
    else:
        click.echo("\n".join([*verdict_lines(failed), *found.lines()]))


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
def check(as_json: bool) -> None:
    """Evaluate all checks on the health of the pipeline, for a person, cron or a monitor (docs/operations.md).

    What only Dagster knows (ticks, runs, recounts) is not among them. Exit code 1: a check of severity error fails.
    Checks of severity warn that fail are shown, and leave it 0. Exit code 2: the database can't be asked.
    """
    from appview_pipeline.operations.check import check_health, verdict_lines
    from appview_pipeline.store.database import open_database

    settings = _begin("check")
    database = open_database(settings)
    try:
        verdicts = check_health(database, settings)
    finally:
        database.close()
    if as_json:
        _json_line({"checks": [verdict.as_json() for verdict in verdicts]})
    else:
        click.echo("\n".join(verdict_lines(verdicts)))
    if any(verdict.severity == "error" and not verdict.passed for verdict in verdicts):
        sys.exit(1)


@cli.command()
@click.argument("subject", metavar="AT-URI|DID|HANDLE|URL")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
def explain(subject: str, as_json: bool) -> None:
    """Say what is known of a record or an account, and why it is so (docs/explain.md).

    Reads the database and asks nobody. A URL is that of a post, list, feed or starter pack on bsky.app.
    """
    from appview_pipeline.operations.explain import explain as run
    from appview_pipeline.operations.explain_words import as_json as to_json
    from appview_pipeline.operations.explain_words import lines
    from appview_pipeline.store.database import open_database

    settings = _begin("explain")
    database = open_database(settings)
    try:
        found = run(settings, database, subject)
    finally:
        database.close()
    if as_json:
        _json_line(to_json(found))
    else:
        click.echo("\n".join(lines(found)))


@cli.command("import-predecessor")
@click.argument("url")
@click.option("--dry-run", is_flag=True, help="Write nothing, and say what would be taken over.")
@click.option(
    "--source",
    "sources",
    multiple=True,
    metavar="DID",
    help="Whose labels become ours; may be repeated. [APPVIEW_LABELER_DID and did:plc:system]",
)
@click.option("--purge", is_flag=True, help="Also remove what is stored here of accounts that opted out there.")
@click.option("--json", "as_json", is_flag=True, help="The summary as one JSON object.")
def import_predecessor(url: str, dry_run: bool, sources: tuple[str, ...], purge: bool, as_json: bool) -> None:
    """Take over opt-outs, label definitions and labels from the predecessor's database at URL (docs/migration.md).

    That database is only read. Give its password in PGPASSFILE rather than in the URL, which others see in the list of
    processes. Run again, it goes on where it was, and changes nothing that was decided here since. Exit code 1: for
    some rows APPVIEW_LABELER_DID has to be set first.
    """
    from appview_pipeline.operations.import_predecessor import import_predecessor as run
    from appview_pipeline.store.database import open_database

    settings = _begin("import-predecessor")
    database = open_database(settings)
    try:
        with tqdm(unit=" rows", desc="import", file=sys.stderr) as bar, logging_redirect_tqdm():

            def show(what: str, number: int) -> None:
                bar.set_postfix_str(what)
                bar.update(number)

            summary = run(settings, database, url, sources=sources, purge=purge, dry_run=dry_run, progress=show)
    finally:
        database.close()
    if as_json:
        _json_line(summary.as_json())
    else:
        click.echo("\n".join(summary.lines()))
    if not summary.is_complete:
        sys.exit(1)


@cli.command()
@click.option("--check", is_flag=True, help="Change nothing: say what is in the way, and what would be put right.")
@click.option("--schema", metavar="NAME", help="Where the reference's tables are. [the only schema that has them]")
@click.option(
    "--cursor",
    type=click.IntRange(0, 2**53 - 1),
    help="What the reference's indexer had reached in APPVIEW_RELAY_URL's stream. [unknown: a survey closes the gap]",
)
@click.option("--compare", is_flag=True, help="Queue all repositories to be compared with the network.")
@click.option("--from-keys", is_flag=True, help="Most records came from indexRepo: their keys say when they were made.")
@click.option(
    "--processes",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="How many go through history and records, each with a session.",
)
@click.option("--json", "as_json", is_flag=True, help="The result as one JSON object.")
def adopt(
    check: bool,
    schema: str | None,
    cursor: int | None,
    compare: bool,
    from_keys: bool,
    processes: int,
    as_json: bool,
) -> None:
    """Take over a database that the reference's own indexer has filled (docs/serve.md).

    Stop that indexer first; the AppView may go on serving. The tables stay where they are: columns and indexes of ours
    are added, and what the indexer got wrong is repaired. Private state and moderation are not touched. Interrupted at
    any moment, it goes on where it was when it is run again. Exit code 1: something is in the way.
    """
    from appview_pipeline.operations.adopting import adopt as run
    from appview_pipeline.operations.adopting import check_adoption
    from appview_pipeline.store.database import open_database

    settings = _begin("adopt")
    database = open_database(settings, migrate=False, check=False)
    try:
        with (
            _interruptible() as stopped,
            tqdm(unit=" rows", desc="adopt", file=sys.stderr) as bar,
            logging_redirect_tqdm(),
        ):

            def show(step: str, rows: int) -> None:
                bar.set_postfix_str(step)
                bar.update(rows)

            if check:
                findings = check_adoption(settings, database, schema=schema, progress=show)
            else:
                try:
                    summary = run(
                        settings,
                        database,
                        schema=schema,
                        cursor=cursor,
                        compare=compare,
                        from_keys=from_keys,
                        processes=processes,
                        progress=show,
                        stopped=stopped,
                    )
                except Stopped:
                    sys.exit(130)
    finally:
        database.close()
    found = findings if check else summary
    if as_json:
        _json_line(found.as_json())
    else:
        click.echo("\n".join(found.lines()))
    if check and findings.obstacles:
        sys.exit(1)


@cli.group()
def privacy() -> None:
    """Accounts that forbid the collection of their data (docs/privacy.md)."""


@privacy.command("forbid")
@click.argument("account", metavar="DID|HANDLE")
@click.option("--purge", is_flag=True, help="Also remove what is stored; the job remove_accounts does it.")
def privacy_forbid(account: str, purge: bool) -> None:
    """Store nothing new of an account from now on, whatever way it arrives."""
    _switch_collection(account, forbid=True, purge=purge)


@privacy.command("allow")
@click.argument("account", metavar="DID|HANDLE")
def privacy_allow(account: str) -> None:
    """Store what an account writes again, and queue its repository to be fetched whole."""
    _switch_collection(account, forbid=False, purge=False)


def _switch_collection(account: str, *, forbid: bool, purge: bool) -> None:
    from appview_pipeline.ingest.opting_out import switch_collection
    from appview_pipeline.store.database import open_database

    settings = _begin("privacy")
    database = open_database(settings)
    try:
        click.echo(switch_collection(database, account, forbid=forbid, purge=purge).sentence)
    finally:
        database.close()


@privacy.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object an account.")
def privacy_list(as_json: bool) -> None:
    """List the accounts that forbid the collection of their data, the longest first."""
    from appview_pipeline.store.database import open_database
    from appview_pipeline.store.exclusion import opted_out

    settings = _begin("privacy")
    database = open_database(settings)
    try:
        with database.connect("reader") as connection:
            accounts = opted_out(connection)
    finally:
        database.close()
    for account in accounts:
        if as_json:
            _json_line(asdict(account))
        else:
            purge = "" if account.purge is None else f"  purge {account.purge}"
            handle = "" if account.handle is None else f"  {account.handle}"
            click.echo(f"{account.did}{handle}  since {account.since:%Y-%m-%d %H:%M}{purge}")
    if not as_json and not accounts:
        click.echo("No account forbids the collection of its data.")


@cli.command()
@click.argument("names", nargs=-1, metavar="[SWEEP]...")
@click.option("--dry-run", is_flag=True, help="Only count what would be deleted.")
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), help="End after this time. [no limit]")
def sweep(names: tuple[str, ...], dry_run: bool, seconds: float | None) -> None:
    """Delete what nothing needs any more, as the job sweep does; of all tables, or of those of the named sweeps.

    Exit code 1: a statement failed. Interrupted at any moment, it goes on where it was when it is run again.
    """
    from appview_pipeline.operations.sweeping import SweepSummary, count_due, due_lines, run_sweeps
    from appview_pipeline.store.database import open_database
    from appview_pipeline.store.session_lock import LockTaken

    settings = _begin("sweep")
    database = open_database(settings)
    try:
        if dry_run:
            click.echo("\n".join(due_lines(count_due(settings, database, names))))
            return
        with (
            _interruptible() as stopped,
            tqdm(unit="rows", desc="sweep", file=sys.stderr) as bar,
            logging_redirect_tqdm(),
        ):

            def show(so_far: SweepSummary) -> None:
                bar.update(so_far.rows - bar.n)

            limit = float("inf") if seconds is None else seconds
            try:
                found = run_sweeps(
                    settings, database, names, seconds=limit, every_walk=True, progress=show, stopped=stopped
                )
            except LockTaken as error:
                raise OperatorError(f"{error}: wait for it to end, or stop it in Dagster.") from None
    finally:
        database.close()
    click.echo("\n".join(found.lines()))
    click.echo(f"{found.rows:,} rows in {found.seconds:.1f} s; it ended because {found.ended}.")
    if found.failures:
        sys.exit(1)


@cli.command()
@click.option("--dry-run", is_flag=True, help="Only count what would be deleted, what is kept, and why.")
@click.option("--now", is_flag=True, help="Delete now, as the job retention does.")
def retention(dry_run: bool, now: bool) -> None:
    """Delete posts, likes and reposts older than APPVIEW_RETENTION_DAYS, but for those of protected accounts.

    Interrupted at any moment, it goes on where it was when it is run again.
    """
    from appview_pipeline.ingest.retention import RetentionSummary, apply_retention, count_retention
    from appview_pipeline.store.database import open_database
    from appview_pipeline.store.retention import OUTCOMES
    from appview_pipeline.store.session_lock import LockTaken

    if dry_run == now:
        raise click.UsageError("Give --dry-run or --now.")
    settings = _begin("retention")
    database = open_database(settings)
    try:
        if dry_run:
            before, counted = count_retention(settings, database)
            click.echo(f"Records older than {before}:")
            for row in counted:
                click.echo(f"{row.rows:>13,}  {row.kind:<6}  {OUTCOMES[row.outcome]}")
            if not counted:
                click.echo("There are none.")
            return
        with (
            _interruptible() as stopped,
            tqdm(unit="records", desc="retention", file=sys.stderr) as bar,
            logging_redirect_tqdm(),
        ):

            def show(so_far: RetentionSummary) -> None:
                bar.update(so_far.total - bar.n)

            try:
                found = apply_retention(settings, database, progress=show, stopped=stopped)
            except LockTaken as error:
                raise OperatorError(f"{error}: wait for it to end, or stop it in Dagster.") from None
            except Stopped:
                sys.exit(130)
    finally:
        database.close()
    click.echo(
        f"{found.total:,} records of {found.accounts:,} accounts deleted that were older than {found.before}, in "
        f"{found.seconds:.1f} s."
    )


@cli.command("dead-letters")
@click.option("--kind", help="Only this kind.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=20, show_default=True, help="Most letters shown.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a letter.")
def dead_letters(kind: str | None, limit: int, as_json: bool) -> None:
    """List what upstream sent and could not be indexed, newest first. The job retry_dead_letters tries it again."""
    from appview_pipeline.store.database import open_database
    from appview_pipeline.store.dead_letters import kinds_of_letters, list_letters

    settings = _begin("dead-letters")
    database = open_database(settings)
    try:
        with database.connect("reader") as connection:
            letters = list_letters(connection, kind, limit)
            kinds = kinds_of_letters(connection)
    finally:
        database.close()
    for letter in letters:
        if as_json:
            _json_line(asdict(letter))
        else:
            subject = f"{letter.did or '?'}{'/' + letter.path if letter.path else ''}"
            click.echo(
                f"{letter.id}  {letter.first_seen:%Y-%m-%d %H:%M}  {letter.kind}  {subject}\n    {letter.reason}"
            )
    if not as_json:
        counts = ", ".join(f"{it.kind} {it.open:,}" for it in kinds if it.open)
        click.echo(f"Open: {counts or 'none'}.")


@cli.command()
@click.argument("accounts", nargs=-1, metavar="[DID|HANDLE]...")
@click.option("--car", type=click.Path(path_type=Path), help="Read the repository from this CAR file, not the network.")
@click.option("--did", help="With --car: the account that it is the repository of (or its handle).")
@click.option("--key", metavar="did:key:...", help="With --car: check the signature with this key.")
@click.option("--all", "everything", is_flag=True, help="All repositories of the network, as far as hosts list them.")
@click.option(
    "--days",
    type=click.IntRange(1, 36_500),
    help="Only records of the last so many days; nothing is deleted. Alone: of all repositories.",
)
def backfill(
    accounts: tuple[str, ...],
    car: Path | None,
    did: str | None,
    key: str | None,
    everything: bool,
    days: int | None,
) -> None:
    """Fetch repositories, prove them, and write what the index lacks or has differently.

    Interrupted at any moment, it goes on where it was when it is run again. The last line of the output is a JSON
    summary. Exit code 1: some repositories could not be fetched, or are still not complete.
    """
    is_of_network = everything or (days is not None and not accounts and car is None)
    is_of_file = did is not None or key is not None
    if sum([bool(accounts), car is not None, is_of_network]) != 1 or (is_of_file and car is None):
        raise click.UsageError("Give accounts, or --car FILE --did DID, or --all, or --days N.")
    if car is not None and did is None:
        raise click.UsageError("--car needs --did: the account that the file is the repository of.")
    settings = _begin("backfill")
    if car is not None:
        assert did is not None
        _backfill_from_file(settings, car, did, key, -1 if days is None else days)
    else:
        _backfill_from_network(settings, accounts, days)


def _backfill_from_network(settings: Settings, accounts: tuple[str, ...], days: int | None) -> None:
    """The repositories of `accounts`; without any, those of the whole network."""
    from appview_pipeline.backfill.by_hand import backfill_accounts, backfill_network
    from appview_pipeline.backfill.progress import WorkSummary
    from appview_pipeline.identity.show import dids_of
    from appview_pipeline.ingest.interpreter import favour_throughput
    from appview_pipeline.store.database import open_database

    favour_throughput()
    database = open_database(settings)
    try:
        dids = dids_of(database, settings, accounts)
        with (
            _interruptible() as stopped,
            tqdm(total=len(dids) or None, unit="repo", desc="backfill", file=sys.stderr) as bar,
            logging_redirect_tqdm(),
        ):

            def show(so_far: WorkSummary) -> None:
                bar.total = len(dids) or so_far.repositories + so_far.left
                bar.n = so_far.repositories + (so_far.failed if dids else 0)
                bar.set_postfix_str(
                    f"{so_far.records:,} records, {so_far.record_rate:,.0f}/s, {so_far.bytes / 1e6:,.0f} MB, "
                    f"{so_far.failed:,} failures"
                )

            if dids:
                summary = backfill_accounts(settings, database, dids, days=days, progress=show, stopped=stopped)
            else:
                summary = backfill_network(settings, database, days=days, progress=show, stopped=stopped)
            is_interrupted = stopped()
    finally:
        database.close()
    _json_line(summary.as_json())
    if is_interrupted:
        sys.exit(130)
    if summary.work.failed or summary.incomplete:
        sys.exit(1)


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Whether an interrupt (Ctrl-C) has come: the first one asks for an end, another one ends at once."""
    asked = False

    def ask(number: int, frame: object) -> None:
        nonlocal asked
        asked = True
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, before)


def _backfill_from_file(settings: Settings, car: Path, did: str, key: str | None, days: int) -> None:
    from appview_pipeline.backfill.car_file import backfill_from_file
    from appview_pipeline.backfill.compare import Counts
    from appview_pipeline.identity.show import known_did
    from appview_pipeline.ingest.interpreter import favour_throughput
    from appview_pipeline.store.database import open_database

    favour_throughput()
    database = open_database(settings)
    try:
        did = known_did(database, did)
        with tqdm(unit="records", desc=car.name, file=sys.stderr) as bar, logging_redirect_tqdm():

            def show(counts: Counts) -> None:
                bar.update(counts.records - bar.n)

            found = backfill_from_file(settings, database, car, did, key=key, days=days, progress=show)
    finally:
        database.close()
    _json_line(found.as_json())
    if not found.is_complete:
        sys.exit(1)


@cli.command()
@click.argument("accounts", nargs=-1, metavar="[DID|HANDLE]...")
@click.option("--sample", type=click.IntRange(1, 1_000_000), help="So many random repositories that are synchronized.")
@click.option("--deep", is_flag=True, help="Also compare the rows that are derived from the records with them.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a repository instead of a table.")
def audit(accounts: tuple[str, ...], sample: int | None, deep: bool, as_json: bool) -> None:
    """Prove that the index is what the network says: fetch repositories and compare them record by record.

    Changes nothing. The last line of the output is a JSON summary. Exit code 1: index and network differ. Exit code 3:
    they don't, but some repositories could not be fetched or proved.
    """
    from appview_pipeline.backfill.audit import AuditSummary, lines
    from appview_pipeline.backfill.audit import audit as run
    from appview_pipeline.backfill.fetch import Fetcher
    from appview_pipeline.identity.show import dids_of
    from appview_pipeline.network.xrpc import Client
    from appview_pipeline.store.database import open_database
    from appview_pipeline.store.repo_sample import sample_repositories

    if bool(accounts) == (sample is not None):
        raise click.UsageError("Give accounts, or --sample.")
    settings = _begin("audit")
    database = open_database(settings)
    try:
        if sample is None:
            dids = dids_of(database, settings, accounts)
        else:
            with database.connect("reader") as connection:
                dids = sample_repositories(connection, sample)
            if not dids:
                click.echo("No repository is said to be complete yet, so there is nothing to audit.", err=True)
        with (
            _interruptible() as stopped,
            Client(settings) as client,
            tqdm(total=len(dids), unit="repo", desc="audit", file=sys.stderr) as bar,
            logging_redirect_tqdm(),
        ):

            def show(so_far: AuditSummary) -> None:
                bar.n = so_far.repositories + len(so_far.failed)
                bar.set_postfix_str(f"{so_far.records:,} records, {so_far.differences:,} differences")

            fetcher = Fetcher(settings, database, client)
            summary = run(settings, database, fetcher, dids, deep=deep, progress=show, stopped=stopped)
            is_interrupted = stopped()
    finally:
        database.close()
    if as_json:
        for found in summary.audited:
            _json_line(found.as_json())
    else:
        click.echo("\n".join(lines(summary)))
    _json_line(summary.as_json())
    if is_interrupted:
        sys.exit(130)
    if summary.differences:
        sys.exit(1)
    if summary.failed:
        sys.exit(3)


@cli.group()
def identity() -> None:
    """DIDs, their documents, and handles."""


@identity.command("show")
@click.argument("account", metavar="DID|HANDLE")
@click.option("--refresh", is_flag=True, help="Resolve it now, and store what is found.")
@click.option("--json", "as_json", is_flag=True, help="The row of pipeline.identity as one JSON object.")
def identity_show(account: str, refresh: bool, as_json: bool) -> None:
    """Show what is known of an account: from where, how old, and why its handle is not verified.

    Exit code 1: with --refresh, the account's servers gave no answer; what was known before is shown. Exit code 2: the
    account is not known, or what was given is neither a DID nor a handle.
    """
    from appview_pipeline.identity.show import refresh_account, show_account
    from appview_pipeline.store.database import open_database

    settings = _begin("identity-show")
    database = open_database(settings)
    try:
        failure = None
        if refresh:
            account, failure = refresh_account(database, settings, account)
        found = show_account(database, settings, account)
    finally:
        database.close()
    if as_json:
        _json_line(found.as_json())
    else:
        click.echo("\n".join(found.lines()))
    if failure is not None:
        click.echo(failure, err=True)
        sys.exit(1)


@identity.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--verify", is_flag=True, help="Import only operations whose CID and signature are valid.")
@click.option("--skip-lines", type=click.IntRange(min=0), default=0, help="Begin after so many lines.")
def identity_import(file: Path, verify: bool, skip_lines: int) -> None:
    """Load the DID documents of a PLC export FILE (JSON lines of https://plc.directory/export, plain, .gz or .zst).

    The newest operation of each account counts, whatever the order of lines and files; what was resolved later stays.
    Imported again, nothing changes. Handles are shown once they are verified. The last line of the output is a JSON
    summary.
    """
    from appview_pipeline.identity.plc_import import import_export
    from appview_pipeline.store.database import open_database

    settings = _begin("identity-import")
    size = file.stat().st_size if file.is_file() else None
    database = open_database(settings)
    try:
        with (
            tqdm(total=size, unit="B", unit_scale=True, desc=file.name, file=sys.stderr) as bar,
            logging_redirect_tqdm(),
        ):
            summary = import_export(settings, database, file, verify=verify, skip_lines=skip_lines, progress=bar.update)
    finally:
        database.close()
    _json_line(summary.as_json())


@cli.group()
def labels() -> None:
    """What labelers say of accounts and records (docs/labels.md)."""


@labels.command("subscribe")
@click.argument("labelers", nargs=-1, metavar="[DID]...")
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), help="How long. [until it is interrupted]")
@click.option(
    "--from-start", is_flag=True, help="Read the streams from their beginning; what is repeated changes nothing."
)
def labels_subscribe(labelers: tuple[str, ...], seconds: float | None, from_start: bool) -> None:
    """Read the streams of labelers into the database, without Dagster: of the DIDs given, or of APPVIEW_LABELERS.

    Holds the lock of the label process, of which there is one for each database. The last line of the output is a JSON
    summary. Exit code 1: a labeler is parked, or was not connected at the end.
    """
    from appview_pipeline.ingest.interpreter import favour_throughput
    from appview_pipeline.labels.by_hand import subscribe
    from appview_pipeline.labels.label_live import LabelSummary

    settings = _begin("labels-subscribe")
    favour_throughput()
    with (
        _interruptible() as stopped,
        tqdm(unit="labels", desc="labels", file=sys.stderr) as bar,
        logging_redirect_tqdm(),
    ):

        def show(so_far: LabelSummary) -> None:
            bar.update(so_far.events - bar.n)
            bar.set_postfix_str(f"{so_far.changed:,} changed, {so_far.rejected:,} rejected")

        summary = subscribe(settings, labelers, seconds=seconds, from_start=from_start, progress=show, stopped=stopped)
        is_interrupted = stopped()
    _json_line(asdict(summary))
    if is_interrupted:
        sys.exit(130)
    if any(state != "connected" for state in summary.labelers.values()):
        sys.exit(1)


@labels.command("apply")
@click.argument("subject", required=False, metavar="[AT-URI|DID|HANDLE]")
@click.argument("value", required=False)
@click.option("--cid", help="Only this version of the record.")
@click.option("--exp", metavar="DATETIME", help="When it ends, such as 2030-12-31T00:00:00Z. [never]")
@click.option("--file", type=click.File("rb"), help="Labels from FILE, a line each: CSV or JSON. - is standard input.")
@click.option("--force", is_flag=True, help="Say it again where it is so already.")
def labels_apply(
    subject: str | None, value: str | None, cid: str | None, exp: str | None, file: BinaryIO | None, force: bool
) -> None:
    """Label an account or a record, as APPVIEW_LABELER_DID; signed where APPVIEW_LABELER_KEY is set.

    A line of FILE is `subject,value[,cid][,exp]`, or a JSON object with these fields (subject, val, cid, exp, neg).
    Lines that are not valid are named, and the others are applied. What is so already is not said again, so an
    interrupted run can be repeated. The last line of the output is a JSON summary. Exit code 1: lines were refused.
    """
    _make_labels(subject, value, cid, exp, file, force=force, negate=False)


@labels.command("negate")
@click.argument("subject", required=False, metavar="[AT-URI|DID|HANDLE]")
@click.argument("value", required=False)
@click.option("--file", type=click.File("rb"), help="From FILE, a line each: CSV or JSON. - is standard input.")
@click.option("--force", is_flag=True, help="Also what is not in effect here, for others who may have it.")
def labels_negate(subject: str | None, value: str | None, file: BinaryIO | None, force: bool) -> None:
    """Take a label back that was made here, of all versions of the record.

    What is not in effect is left alone. Lines of FILE are as for `labels apply`.
    """
    _make_labels(subject, value, None, None, file, force=force, negate=True)


def _make_labels(
    subject: str | None,
    value: str | None,
    cid: str | None,
    exp: str | None,
    file: BinaryIO | None,
    *,
    force: bool,
    negate: bool,
) -> None:
    """Labels that are made here: one, or those of a file."""
    from appview_pipeline.labels.bulk import apply_file, apply_one
    from appview_pipeline.labels.service import LabelRequest
    from appview_pipeline.store.database import open_database

    if (file is None) != (subject is not None and value is not None) or (file is not None and (subject or cid or exp)):
        raise click.UsageError("Give a subject and a value, or --file FILE.")
    settings = _begin("labels")
    database = open_database(settings)
    try:
        if file is None:
            assert subject is not None and value is not None
            request = LabelRequest(subject, value, cid=cid, exp=exp, neg=negate)
            summary = apply_one(settings, database, request, force=force)
        else:
            path = Path(getattr(file, "name", "-"))
            size = path.stat().st_size if path.is_file() else None
            with (
                tqdm(total=size, unit="B", unit_scale=True, desc=path.name, file=sys.stderr) as bar,
                logging_redirect_tqdm(),
            ):
                summary = apply_file(
                    settings,
                    database,
                    file,
                    negate=negate,
                    force=force,
                    refuse=lambda number, reason: bar.write(f"line {number}: {reason}", file=sys.stderr),
                    progress=bar.update,
                )
    finally:
        database.close()
    _json_line(asdict(summary))
    if summary.refused:
        sys.exit(1)


@labels.command("query")
@click.option(
    "--subject",
    "subjects",
    multiple=True,
    metavar="URI|DID|PATTERN",
    help="Labels of this subject, or of all that begin so: at://did:plc:x/*. May be repeated. [all]",
)
@click.option(
    "--source", "sources", multiple=True, metavar="DID|HANDLE", help="Of this labeler; may be repeated. [all]"
)
@click.option("--value", "values", multiple=True, help="With this value; may be repeated. [all]")
@click.option("--negated", is_flag=True, help="Negations too.")
@click.option("--expired", is_flag=True, help="Labels that have ended, too.")
@click.option("--limit", type=click.IntRange(1, 10_000_000), default=100, show_default=True, help="Most labels shown.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a label.")
def labels_query(
    subjects: tuple[str, ...],
    sources: tuple[str, ...],
    values: tuple[str, ...],
    negated: bool,
    expired: bool,
    limit: int,
    as_json: bool,
) -> None:
    """List the labels in effect, of all labelers: the newest first, or by subject where subjects are given."""
    from appview_pipeline.labels.service import find_labels
    from appview_pipeline.store.database import open_database

    settings = _begin("labels")
    database = open_database(settings)
    shown = 0
    try:
        for label in find_labels(
            database,
            subjects=subjects,
            sources=sources,
            values=values,
            with_negated=negated,
            with_expired=expired,
            limit=limit,
        ):
            shown += 1
            if as_json:
                _json_line(label.as_json())
            else:
                click.echo(label.line())
    finally:
        database.close()
    if not as_json and not shown:
        click.echo("No such labels.")


@labels.group("definitions", invoke_without_command=True)
@click.option(
    "--source", "sources", multiple=True, metavar="DID|HANDLE", help="Of this labeler; may be repeated. [all]"
)
@click.option("--value", "values", multiple=True, help="Of this value; may be repeated. [all]")
@click.option("--lang", "languages", multiple=True, metavar="TAG", help="Language to show, such as pt-BR. [en]")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a definition, with all languages.")
@click.pass_context
def labels_definitions(
    context: click.Context,
    sources: tuple[str, ...],
    values: tuple[str, ...],
    languages: tuple[str, ...],
    as_json: bool,
) -> None:
    """List what labels mean: as labelers say it in their records, and as it was set here."""
    from appview_pipeline.labels.definitions import definition_line, list_definitions
    from appview_pipeline.store.database import open_database

    if context.invoked_subcommand is not None:
        return
    settings = _begin("labels")
    database = open_database(settings)
    try:
        found = list_definitions(database, sources=sources, values=values)
    finally:
        database.close()
    for definition in found:
        if as_json:
            _json_line(definition.as_json())
        else:
            click.echo(definition_line(definition, languages))
    if not as_json and not found:
        click.echo("No such definitions.")


@labels_definitions.command("set")
@click.argument("value")
@click.option("--severity", default="inform", show_default=True, help="inform, alert or none.")
@click.option("--blurs", default="none", show_default=True, help="content, media or none.")
@click.option("--default", "default_setting", default="warn", show_default=True, help="ignore, warn or hide.")
@click.option("--adult-only", is_flag=True, help="Only for those who have enabled adult content.")
@click.option(
    "--locale",
    "locales",
    nargs=3,
    multiple=True,
    required=True,
    metavar="TAG NAME DESCRIPTION",
    help="Name and description in a language, such as en; may be repeated.",
)
@click.option("--source", metavar="DID|HANDLE", help="Of labels of this labeler. [APPVIEW_LABELER_DID]")
def labels_definitions_set(
    value: str,
    severity: str,
    blurs: str,
    default_setting: str,
    adult_only: bool,
    locales: tuple[tuple[str, str, str], ...],
    source: str | None,
) -> None:
    """Say what labels with VALUE mean, in the place of what was set before and of what the labeler's record says."""
    from appview_pipeline.labels.definitions import definition_line, set_definition
    from appview_pipeline.store.database import open_database
    from appview_pipeline.store.label_definitions import Strings

    settings = _begin("labels")
    database = open_database(settings)
    try:
        definition = set_definition(
            settings,
            database,
            value,
            locales=[Strings(*strings) for strings in locales],
            severity=severity,
            blurs=blurs,
            default_setting=default_setting,
            adult_only=adult_only,
            source=source,
        )
    finally:
        database.close()
    click.echo(definition_line(definition))


@labels_definitions.command("remove")
@click.argument("value")
@click.option("--source", metavar="DID|HANDLE", help="Of labels of this labeler. [APPVIEW_LABELER_DID]")
def labels_definitions_remove(value: str, source: str | None) -> None:
    """Remove what was set here of VALUE, so that what the labeler's record says counts again."""
    from appview_pipeline.labels.definitions import remove_definition
    from appview_pipeline.store.database import open_database

    settings = _begin("labels")
    database = open_database(settings)
    try:
        removed = remove_definition(settings, database, value, source=source)
    finally:
        database.close()
    click.echo(f"The definition of {value} is removed." if removed else f"Nothing was set here of {value}.")


@cli.command("serve-labels")
@click.option("--own", is_flag=True, help="Only labels of APPVIEW_LABELER_DID, as the service of a labeler has to.")
@click.option(
    "--source", "sources", multiple=True, metavar="DID|HANDLE", help="Only labels of this labeler; may be repeated."
)
@click.option("--unsigned", is_flag=True, help="Also labels without a signature, which most clients refuse.")
def serve_labels(own: bool, sources: tuple[str, ...], unsigned: bool) -> None:
    """Serve labels to others, at APPVIEW_LABELS_ADDRESS: com.atproto.label.subscribeLabels and queryLabels.

    Without options, those of all labelers that are verified. Runs until it is stopped (docs/serving-labels.md).
    """
    from appview_pipeline.labels.serving import serve_labels as run
    from appview_pipeline.store.database import open_database

    settings = _begin("serve-labels")
    database = open_database(settings)
    try:
        run(settings, database, own=own, sources=sources, unsigned=unsigned)
    finally:
        database.close()


@cli.command()
def serve() -> None:
    """Serve metrics for Prometheus (/metrics) and health for probes (/livez, /readyz), at APPVIEW_METRICS_ADDRESS.

    Reads the database, and goes on while it is away. Runs until it is stopped (docs/metrics.md).
    """
    from appview_pipeline.operations.serving import serve as run

    run(_begin("serve"))


@cli.command()
@click.option("--url", help="What to ask, any http or https URL. [/readyz of `serve` on this machine]")
def healthy(url: str | None) -> None:
    """Ask a server whether it is healthy, for a HEALTHCHECK. Exit code 1: it is not, and one sentence says why."""
    from appview_pipeline.operations.probe import ask, default_url

    settings = _begin("healthy")
    found = ask(url or default_url(settings))
    click.echo(found.sentence, err=not found.is_healthy)
    if not found.is_healthy:
        sys.exit(1)


def main() -> None:
    """Entry point: an operator's mistake is one sentence on standard error and exit code 2."""
    started = time.monotonic()
    try:
        cli(standalone_mode=False)
    except click.exceptions.Exit as end:
        sys.exit(end.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except OperatorError as error:
        click.echo(str(error), err=True)
        sys.exit(2)
    except (KeyboardInterrupt, click.Abort):
        click.echo(f"Interrupted after {time.monotonic() - started:.0f} s.", err=True)
        sys.exit(130)


if __name__ == "__main__":
    main()
