"""The benchmark: a tiny form of it gives all figures; what it prefills is what the write path would have written."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from contextlib import closing
from datetime import datetime, timezone
from pathlib import Path

import psycopg2
import pytest

from appview_pipeline.store.database import Database
from appview_pipeline.store.database_url import libpq_url
from appview_pipeline.store.reports import aggregate_drift
from appview_pipeline_tests.benchmark import report
from appview_pipeline_tests.benchmark.buckets import bucket_of
from appview_pipeline_tests.benchmark.corpus import corpus
from appview_pipeline_tests.benchmark.databases import TableSize
from appview_pipeline_tests.benchmark.measure import Live, Percentiles, Run
from appview_pipeline_tests.benchmark.prefill import prefill
from appview_pipeline_tests.benchmark.report import COLUMNS, Result
from appview_pipeline_tests.benchmark.sizing import KINDS, bytes_a_row, measure
from appview_pipeline_tests.support.checkout import CHECKOUT
from appview_pipeline_tests.support.tables import rows

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads CPU and memory from /proc")

HEAD = "| " + " | ".join(COLUMNS) + " |\n|" + "---|" * len(COLUMNS) + "\n"
NUMBER = r"[\d,]+(?:\.\d+)?"


def benchmark(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "appview_pipeline_tests.benchmark", "--small", *arguments],
        cwd=CHECKOUT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def test_a_tiny_form_of_it_gives_every_figure(tmp_path: Path) -> None:
    history = tmp_path / "history.md"
    history.write_text("# Benchmarks\n\n" + HEAD)
    ran = benchmark(
        *[
            "--frames",
            "400",
            "--warm-up",
            "100",
            "--prefill",
            "2000",
            "--runs",
            "1",
            "--rate",
            "200",
            "--live-seconds",
            "1",
            "--rerun",
            "--no-stages",
            "--statements",
        ],
        *("--record", "a | remark", "--history", str(history)),
    )
    assert ran.returncode == 0, ran.stderr
    for pattern in (
        rf"700 frames of {NUMBER} bytes",
        rf"{NUMBER} commits/s, CPU {NUMBER} client \+ {NUMBER} PostgreSQL = {NUMBER} ms a commit",
        rf"batches: p50 {NUMBER}, p90 .* peak {NUMBER} MB; WAL {NUMBER} bytes a commit",
        rf"warming up: {NUMBER} commits/s",
        rf"arrival to readable p50 {NUMBER}, .* {NUMBER}% of a core client, {NUMBER}% PostgreSQL",
        rf"a rerun set right .* {NUMBER} of {NUMBER} records compared at {NUMBER}/s, {NUMBER} rows changed",
        rf"rerun beside it: {NUMBER} of {NUMBER} records compared at {NUMBER}/s",
        rf"again: {NUMBER} commits/s, CPU {NUMBER} ms",
        rf"{NUMBER} table \+ {NUMBER} index bytes a record",
        rf"bsky\.like +{NUMBER} rows",
        rf"{NUMBER} us a commit in statements",
        rf"{NUMBER} record write\n",
    ):
        assert re.search(pattern, ran.stdout), (pattern, ran.stdout)
    [row] = history.read_text().splitlines()[4:]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert len(cells) == len(COLUMNS) and all(cells), row
    assert cells[2] == "2,000" and cells[3].startswith("400 x ") and cells[-1] == "a / remark"
    [point] = report.read_history(history)
    assert point.per_second > 10 and 0 < point.cpu < 50
    assert (tmp_path / "history.svg").read_text().count("<circle") == 2


@pytest.mark.thorough  # about 25 s
def test_two_revisions_alternate() -> None:
    if not (CHECKOUT / ".git").exists():
        pytest.skip("no git checkout")
    ran = benchmark("--frames", "300", "--prefill", "0", "--runs", "2", "--live-seconds", "0", "--against", "HEAD")
    assert ran.returncode == 0, ran.stderr
    sides = re.findall(r"empty, ([0-9a-f]+)\+?, run (\d) of 2", ran.stdout)
    assert [number for _, number in sides] == ["1", "1", "2", "2"]
    assert re.search(rf"CPU ms a commit +{NUMBER} +{NUMBER} +{NUMBER}\n", ran.stdout), ran.stdout


def test_the_partition_of_an_account_is_that_of_the_queue(database: Database) -> None:
    dids = ["did:web:example.com", *(f"did:plc:{'a' * length}" for length in range(30))]
    found = rows(
        database.url, "SELECT hashtext(did) & 63 FROM unnest(%s) WITH ORDINALITY AS d (did, n) ORDER BY n", dids
    )
    assert [bucket_of(did) for did in dids] == [bucket for (bucket,) in found]


@pytest.mark.thorough  # about 25 s
def test_a_tiny_backfill_gives_every_figure() -> None:
    ran = subprocess.run(
        [
            *(sys.executable, "-m", "appview_pipeline_tests.benchmark.backfill", "--repositories", "60", "--small"),
            *("--hosts", "2", "--rate", "100", "--live-seconds", "3", "--warm-up", "300"),
        ],
        cwd=CHECKOUT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    for pattern in (
        rf"60 repositories, {NUMBER} records, {NUMBER} MB, 2 hosts",
        rf"1 process: {NUMBER} records/s, {NUMBER} repositories/s, .* peak {NUMBER} MB; WAL {NUMBER} bytes a record",
        rf"4 processes: {NUMBER} records/s",
        r"the tables are the same, whatever the number of processes",
        rf"live beside it: {NUMBER} events, {NUMBER}% readable within 2 s",
    ):
        assert re.search(pattern, ran.stdout), (pattern, ran.stdout)


def test_what_is_missing_is_said_in_one_sentence(tmp_path: Path) -> None:
    for arguments, environment, sentence in (
        (("--reference",), {"APPVIEW_REFERENCE_PACKAGES": str(tmp_path)}, "has no @atproto/bsky"),
        (("--prefill", "many"), {}, "numbers of records"),
        (
            ("--frames", "10", "--live-seconds", "0", "--against", "no-such-revision"),
            {},
            "no-such-revision is no revision",
        ),
    ):
        ran = benchmark(*arguments, **environment)
        assert ran.returncode != 0
        assert sentence in ran.stderr and "Traceback" not in ran.stderr, ran.stderr


def test_the_history_in_the_docs_has_the_columns_of_a_line() -> None:
    assert HEAD in report.HISTORY.read_text()


def test_a_line_and_the_plot_of_a_known_result(tmp_path: Path) -> None:
    live = Live(30.0, Percentiles(250, 480, 600, 700), Percentiles(40, 50, 60, 70), 0.05, 0.11)
    runs = tuple(
        Run(
            commits=100_000,
            per_second=rate,
            client_cpu=0.06,
            postgres_cpu=0.08,
            wal_bytes=4_000,
            apply=Percentiles(400, 500, 600, 700),
            peak_memory=200.0 + rate / 1_000,
            records=90_000,
            sizes=(TableSize("bsky.like", 70_000, 45_000_000, 90_000_000),),
            statements={},
            live=live if rate == 9_000 else None,
            again_per_second=30_000.0,
            again_cpu=0.03,
        )
        for rate in (8_000.0, 12_000.0, 9_000.0)
    )
    row = report.line(Result("abc1234", 0, 5_400.0, runs), "first")
    assert row.split(" | ")[1:] == [
        "abc1234", "empty", "100,000 x 5,400 B", "9,000", "0.060 + 0.080 = 0.140", "400 / 600", "212", "4,000",
        "500 + 1,000", "30,000", "600, 0.05 + 0.11", "first |",
    ]  # fmt: skip
    history = tmp_path / "benchmarks.md"
    history.write_text("## History\n\n" + HEAD)
    report.record([Result("abc1234", 0, 5_400.0, runs), Result("abc1234", 10_000_000, 5_400.0, runs)], "first", history)
    report.record([Result("def5678", 0, 5_400.0, runs[:1])], "second", history)
    points = report.read_history(history)
    assert [(p.revision, p.before, p.per_second, p.cpu) for p in points] == [
        ("abc1234", "empty", 9_000.0, 0.14),
        ("abc1234", "10,000,000", 9_000.0, 0.14),
        ("def5678", "empty", 8_000.0, 0.14),
    ]
    plot = history.with_suffix(".svg").read_text()
    assert plot.startswith("<svg") and plot.count("<circle") == 6 and "10,000,000 records" in plot


def test_what_is_prefilled_is_what_the_write_path_would_have_written(database_url: str) -> None:
    url = libpq_url(database_url)
    prefill(url, corpus(400, small=True), 3_000)
    found = measure(url)
    likes = found.tables["bsky.like"]
    assert bytes_a_row(likes) == (likes.table + likes.index) / likes.rows > 100
    # A post has a longer record than a like, and more rows.
    assert found.kinds.keys() == KINDS.keys() and found.kinds["post"] > found.kinds["like"] > bytes_a_row(likes)
    assert found.account > 0 and 1_000 < found.record < 20_000
    with closing(psycopg2.connect(url)) as connection:
        began, ended = datetime(2000, 1, 1, tzinfo=timezone.utc), datetime(2100, 1, 1, tzinfo=timezone.utc)
        for check in ("post_aggregates", "profile_aggregates"):
            drift = aggregate_drift(connection, check, began, ended, limit=10_000)
            assert drift.compared > 40 and drift.differing == 0, drift
        with connection.cursor() as cursor:

            def count(statement: str) -> int:
                cursor.execute(statement)
                [(found,)] = cursor.fetchall()
                return int(found)

            records = count("SELECT count(*) FROM bsky.record")
            assert 2_900 < records <= 3_000
            of_tables = 0
            for table in ("like", "repost", "follow", "actor_block", "post", "profile"):
                rows = count(f'SELECT count(*) FROM bsky."{table}"')
                assert rows == count(f'SELECT count(*) FROM bsky."{table}" JOIN bsky.record USING (uri, cid)')
                of_tables += rows
            assert 0.8 * records < of_tables <= records, "a few repeat what is there and have no row of their own"
            assert (
                count("SELECT count(*) FROM bsky.record WHERE (json::jsonb) ->> '$type' <> split_part(uri, '/', 4)")
                == 0
            )
            assert count("SELECT count(*) FROM bsky.notification") > 0.5 * records
            assert count("SELECT count(*) FROM pg_namespace WHERE nspname = 'bench'") == 0


@pytest.mark.thorough  # about 70 s
def test_a_tiny_backlog_of_accounts_gives_every_figure(tmp_path: Path) -> None:
    written = tmp_path / "figures.json"
    ran = subprocess.run(
        [
            *(sys.executable, "-m", "appview_pipeline_tests.benchmark.identity", "--small", "--accounts", "60"),
            *("--frames", "400", "--pairs", "1", "--rate", "200", "--live-seconds", "1", "--late", "3"),
            *("--json", str(written)),
        ],
        cwd=CHECKOUT, capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    figures = json.loads(written.read_text())
    assert figures["ratio"] > 0 and figures["without"][0]["live"]["p99"] > 0
    sick, well = figures["faulty"], figures["healthy"]
    assert sick["healthy"] < well["healthy"] == sick["accounts"] == 60
    assert sick["attempted_seconds"] and sick["healthy_seconds"] and well["healthy_seconds"]
    assert [state for _, _, state in sick["transitions"]][:1] == ["open"] and len(sick["memory"]) > 10
    assert well["answered_per_second"] > 0 and well["cpu_ms"] > 0 and well["late"]["p99"] < 10_000
    assert "every healthy one found after" in ran.stdout
