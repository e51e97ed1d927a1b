"""What was measured, in words, as a line of docs/benchmarks.md, and as the plot beside it."""

from __future__ import annotations

import math
import re
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from appview_pipeline_tests.benchmark.measure import Run
from appview_pipeline_tests.support.checkout import CHECKOUT

COLUMNS = (
    "date", "revision", "records before", "frames", "commits/s", "CPU ms a commit", "batch p50 / p99 ms", "peak MB",
    "WAL bytes", "table + index bytes", "again /s", "live p99 ms, cores", "remark",
)  # fmt: skip
HISTORY = CHECKOUT / "docs" / "benchmarks.md"
# What issue 4 asks for: commits a second (empty, ten million), CPU milliseconds.
GOAL_RATE, GOAL_CPU = 10_000.0, 0.15


@dataclass(frozen=True)
class Result:
    """The runs of one side on copies of one database."""

    side: str
    before: int
    frame_bytes: float
    runs: tuple[Run, ...]
    verify: str | None = None

    def median(self, of: Callable[[Run], float]) -> float:
        return statistics.median(of(run) for run in self.runs)


def named(records: int) -> str:
    """A database by its number of records."""
    return f"{records:,} records" if records else "empty"


def run_in_words(run: Run) -> str:
    """A run on a few lines."""
    lines = [
        f"{run.per_second:,.0f} commits/s, CPU {run.client_cpu:.3f} client + {run.postgres_cpu:.3f} PostgreSQL = "
        f"{run.cpu:.3f} ms a commit",
        f"batches: {run.apply}; peak {run.peak_memory:,.0f} MB; WAL {run.wal_bytes:,.0f} bytes a commit",
    ]
    if run.warm_up_per_second is not None:
        lines.append(f"before that, warming up: {run.warm_up_per_second:,.0f} commits/s")
    if run.first_rerun is not None:
        lines.append(f"before that, a rerun set right what the prefill had left wrong: {run.first_rerun}")
    if run.live:
        live = run.live
        lines += [
            f"live: arrival to readable {live.arrival_to_readable}; batches {live.apply}; "
            f"{live.client_cores:.1%} of a core client, {live.postgres_cores:.1%} PostgreSQL",
        ]
        if live.rerun is not None:
            lines.append(f"rerun beside it: {live.rerun}")
    if run.again_per_second is not None:
        lines.append(f"again: {run.again_per_second:,.0f} commits/s, CPU {run.again_cpu:.3f} ms a commit")
    return "\n".join("    " + line for line in lines)


def sizes_in_words(run: Run, limit: int = 12) -> str:
    """Bytes a record, and a row of the largest tables."""
    rows = [
        f"      {size.name:<28}{size.rows:>12,} rows {size.table / size.rows:>7,.0f} table "
        f"{size.index / size.rows:>7,.0f} index bytes"
        for size in run.sizes[:limit]
        if size.rows
    ]
    total = f"    {run.table_bytes:,.0f} table + {run.index_bytes:,.0f} index bytes a record, all tables; a row:"
    return "\n".join([total, *rows])


def statements_in_words(run: Run, limit: int = 25) -> str:
    """The statements that take PostgreSQL longest."""
    named = list(run.statements.items())[:limit]
    total = f"    {sum(run.statements.values()):.1f} us a commit in statements (elapsed, not CPU), of them"
    return "\n".join([total, *(f"      {micros:6.1f} {name}" for name, micros in named)])


def comparison(a: Result, b: Result) -> str:
    """Medians side by side, and the ratio of each pair of runs (medians): above 1, A has more."""
    lines = [f"  {'':<28}{'A ' + a.side:>14}{'B ' + b.side:>14}{'A/B':>8}"]
    figures: tuple[tuple[str, Callable[[Run], float], str], ...] = (
        ("commits/s", lambda run: run.per_second, ",.0f"),
        ("CPU ms a commit", lambda run: run.cpu, ".4f"),
        ("  client", lambda run: run.client_cpu, ".4f"),
        ("  PostgreSQL", lambda run: run.postgres_cpu, ".4f"),
        ("WAL bytes a commit", lambda run: run.wal_bytes, ",.0f"),
        ("peak MB", lambda run: run.peak_memory, ",.0f"),
        ("table bytes a record", lambda run: run.table_bytes, ",.0f"),
        ("index bytes a record", lambda run: run.index_bytes, ",.0f"),
        ("records in the end", lambda run: run.records, ",.0f"),
    )
    for name, of, form in figures:
        ratio = statistics.median(of(x) / (of(y) or 1e-9) for x, y in zip(a.runs, b.runs, strict=True))
        lines.append(f"  {name:<28}{a.median(of):>14{form}}{b.median(of):>14{form}}{ratio:>8.3f}")
    return "\n".join(lines)


def line(result: Result, remark: str) -> str:
    """A result as a row of the history."""
    client, postgres = result.median(lambda run: run.client_cpu), result.median(lambda run: run.postgres_cpu)
    again = [run.again_per_second for run in result.runs if run.again_per_second is not None]
    live = [run.live for run in result.runs if run.live]
    p50, p99 = result.median(lambda run: run.apply.p50), result.median(lambda run: run.apply.p99)
    cells = (
        time.strftime("%Y-%m-%d"),
        result.side,
        named(result.before).removesuffix(" records"),
        f"{result.runs[0].commits:,} x {result.frame_bytes:,.0f} B",
        f"{result.median(lambda run: run.per_second):,.0f}",
        f"{client:.3f} + {postgres:.3f} = {client + postgres:.3f}",
        f"{p50:,.0f} / {p99:,.0f}",
        f"{max(run.peak_memory for run in result.runs):,.0f}",
        f"{result.median(lambda run: run.wal_bytes):,.0f}",
        f"{result.median(lambda run: run.table_bytes):,.0f} + {result.median(lambda run: run.index_bytes):,.0f}",
        f"{statistics.median(again):,.0f}" if again else "",
        f"{live[-1].arrival_to_readable.p99:,.0f}, {live[-1].client_cores:.2f} + {live[-1].postgres_cores:.2f}"
        if live
        else "",
        ", ".join(part for part in (remark.replace("|", "/"), f"verify {result.verify}" * bool(result.verify)) if part),
    )
    return "| " + " | ".join(cells) + " |"


def record(results: list[Result], remark: str, history: Path) -> Path:
    """Adds a line for each result to the end of the history, and draws the plot again. Returns the plot."""
    text = history.read_text().rstrip("\n")
    history.write_text("\n".join([text, *(line(result, remark) for result in results), ""]))
    plot = history.with_suffix(".svg")
    plot.write_text(draw(read_history(history)))
    return plot


@dataclass(frozen=True)
class Point:
    """What the plot shows of a row of the history."""

    revision: str
    before: str
    per_second: float
    cpu: float


def read_history(history: Path) -> list[Point]:
    """The rows of the history, oldest first."""
    points = []
    for row in history.read_text().splitlines():
        cells = [cell.strip() for cell in row.strip().strip("|").split("|")]
        if len(cells) == len(COLUMNS) and re.fullmatch(r"\d{4}-\d\d-\d\d", cells[0]):
            per_second = float(cells[4].replace(",", ""))
            points.append(Point(cells[1], cells[2], per_second, float(cells[5].rpartition("=")[2])))
    return points


_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM, _GAP = 420, 240, 50, 56, 56, 70
_STEPS = 5
_COLOURS = ("#1f6feb", "#d1690e", "#2da44e", "#8250df", "#cf222e")


def _step(maximum: float) -> float:
    """A round number of which `_STEPS` are more than `maximum`."""
    power = 10.0 ** math.floor(math.log10(maximum / _STEPS))
    return next(round_ * power for round_ in (1, 2, 2.5, 5, 10, 20) if round_ * power * _STEPS > maximum)


def draw(points: list[Point]) -> str:
    """An SVG: commits a second and CPU milliseconds a commit over the revisions, a line for each size of database."""
    revisions = list(dict.fromkeys(point.revision for point in points))
    sizes = list(dict.fromkeys(point.before for point in points))
    colours = {size: _COLOURS[number % len(_COLOURS)] for number, size in enumerate(sizes)}
    panels: tuple[tuple[str, Callable[[Point], float], float, str], ...] = (
        ("commits/s", lambda point: point.per_second, GOAL_RATE, "{:,.0f}"),
        ("CPU ms a commit, client and PostgreSQL", lambda point: point.cpu, GOAL_CPU, "{:.3g}"),
    )
    width = 2 * (_LEFT + _WIDTH) + _GAP
    height = _TOP + _HEIGHT + _BOTTOM
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for number, (title, of, goal, form) in enumerate(panels):
        left = _LEFT + number * (_LEFT + _WIDTH + _GAP // 2)
        step = _step(max([goal, *(of(point) for point in points)]))
        top = step * _STEPS

        def x(revision: str, left: int = left) -> float:
            return left + _WIDTH * (revisions.index(revision) + 0.5) / len(revisions)

        def y(value: float, top: float = top) -> float:
            return _TOP + _HEIGHT * (1 - value / top)

        out.append(f'<text x="{left}" y="{_TOP - 14}" font-weight="bold">{title}</text>')
        out += [
            f'<path d="M{left} {y(value):.1f}h{_WIDTH}" stroke="#ddd"/>'
            f'<text x="{left - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{form.format(value)}</text>'
            for value in (step * count for count in range(_STEPS + 1))
        ]
        out.append(
            f'<path d="M{left} {y(goal):.1f}h{_WIDTH}" stroke="#888" stroke-dasharray="5 4"/>'
            f'<text x="{left + _WIDTH}" y="{y(goal) - 4:.1f}" text-anchor="end" fill="#666">'
            f"goal {form.format(goal)}</text>"
        )
        out += [
            f'<text transform="translate({x(revision):.1f} {_TOP + _HEIGHT + 12}) rotate(35)">{revision}</text>'
            for revision in revisions
        ]
        for size in sizes:
            # Of a revision that was measured more than once the last counts.
            series = {point.revision: of(point) for point in points if point.before == size}
            path = " ".join(f"{x(revision):.1f},{y(value):.1f}" for revision, value in series.items())
            out.append(f'<polyline points="{path}" fill="none" stroke="{colours[size]}" stroke-width="2"/>')
            for revision, value in series.items():
                out.append(
                    f'<circle cx="{x(revision):.1f}" cy="{y(value):.1f}" r="3.5" fill="{colours[size]}">'
                    f"<title>{revision}, {size}: {form.format(value)}</title></circle>"
                )
    for number, size in enumerate(sizes):
        at = _LEFT + 150 * number
        out.append(
            f'<rect x="{at}" y="8" width="10" height="10" fill="{colours[size]}"/>'
            f'<text x="{at + 14}" y="17">{size if size == "empty" else size + " records"}</text>'
        )
    return "\n".join([*out, "</svg>", ""])
