"""The parts of the page: results, curves, why episodes end, and the run itself."""

from __future__ import annotations

from collections.abc import Sequence

import yaml

from trainers.evaluation.compare import Comparison
from trainers.evaluation.failures import CAUSES, count_causes
from trainers.evaluation.metrics import HIGHER_IS_BETTER, Estimate
from trainers.report.charts import Point, Series, line_chart, stacked_bars
from trainers.report.data import RunData, display_name
from trainers.report.markup import element, table, text
from trainers.report.tables import MAIN_COLUMNS, MORE_COLUMNS, Column, Row, table_rows, verdicts_in_words


# ---- results
def results(run: RunData) -> str:
    """The main table of every split, with the verdict in words."""
    if not run.evaluations:
        return element("p", "No policy has been evaluated yet.", class_="quiet")
    parts = []
    for split in run.splits:
        rows = table_rows(run, split)
        parts += [
            element("h3", f"{text(split)} <small>{text(_about_split(run, split, rows))}</small>"),
            _main_table(rows),
        ]
        words = verdicts_in_words(run, split)
        parts += [element("div", *(element("p", text(one)) for one in words), class_="verdict-line")] if words else []
        more = _more_table(rows)
        parts.append(element("details", element("summary", "more measures"), more, class_="plain") if more else "")
    return element("div", *parts, class_="results")


def _about_split(run: RunData, split: str, rows: Sequence[Row]) -> str:
    probe = run.config.get("probe")
    chosen = isinstance(probe, dict) and probe.get("split") == split and bool(probe.get("tasks"))
    return f"{rows[0].tasks} tasks" + (", also used to choose checkpoints, so its figures flatter" if chosen else "")


def _main_table(rows: Sequence[Row]) -> str:
    columns = [column for column in MAIN_COLUMNS if any(column.metric in row.metrics for row in rows)]
    body = [
        [text(row.name), *(_cell(column, row, _limits(rows, column)) for column in columns)] for row in rows
    ]  # fmt: skip
    # the last row is the policy this run is about
    return table(["", *(column.title for column in columns)], body, marked=len(rows) - 1 if len(rows) > 1 else None)


def _limits(rows: Sequence[Row], column: Column) -> tuple[float, float]:
    """The ends of the small range drawn in a column: a share's whole scale, or from 0 to the largest."""
    if column.unit == "%" or column.metric == "average_reward":
        return 0.0, 1.0
    return 0.0, max([row.metrics[column.metric].high for row in rows if column.metric in row.metrics] or [1.0]) * 1.05


def _cell(column: Column, row: Row, limits: tuple[float, float]) -> str:
    value = row.metrics.get(column.metric)
    if value is None:
        return "–"
    unit = f" {column.unit}" if column.unit else ""
    shown = element("span", column.number(value.value) + unit, class_="value")
    interval = element("span", f"{column.number(value.low)} – {column.number(value.high)}", class_="interval")
    return shown + interval + _range(value, limits) + _difference(column, row.versus.get(column.metric))


def _range(value: Estimate, limits: tuple[float, float]) -> str:
    low, high, middle = (
        100 * min(max((one - limits[0]) / (limits[1] - limits[0] or 1), 0), 1)
        for one in (value.low, value.high, value.value)
    )
    bar = element("i", style=f"left:{low:.1f}%;width:{max(high - low, 0.5):.1f}%")
    return element("span", bar, element("b", style=f"left:{middle:.1f}%"), class_="range", aria_hidden="true")


def _difference(column: Column, value: Comparison | None) -> str:
    if value is None:
        return ""
    kind = {"first": " up", "second": " down", "unclear": ""}[value.better]
    figures = (
        f"{column.difference(value.difference)} ({column.difference(value.low)} to {column.difference(value.high)})"
    )
    return element("span", text(figures), class_=f"difference{kind}", title=value.words)


def _more_table(rows: Sequence[Row]) -> str:
    columns = [column for column in MORE_COLUMNS if any(column.metric in row.metrics for row in rows)]
    body = [[text(row.name), *(_plain(column, row) for column in columns)] for row in rows]
    return table(["", *(column.title for column in columns)], body) if columns else ""


def _plain(column: Column, row: Row) -> str:
    value = row.metrics.get(column.metric)
    if value is None:
        return "–"
    tasks = f" · {value.n} tasks" if value.n != row.tasks else ""
    interval = f"{column.number(value.low)} – {column.number(value.high)}{tasks}"
    return element("span", column.number(value.value)) + element("span", interval, class_="interval")


# ---- curves over iterations
def curves(run: RunData) -> str:
    """Each main metric over the policies, one line per split."""
    labels = [label for label in run.labels if label not in ("random", "expert")]
    if len(labels) < 2:
        return ""
    charts = [_curve(run, labels, column) for column in MAIN_COLUMNS]
    if any("optimal_action_rate" in item.metrics for item in run.evaluations):
        charts.append(_curve(run, labels, next(one for one in MORE_COLUMNS if one.metric == "optimal_action_rate")))
    return element("div", *charts, class_="charts wide")


def _curve(run: RunData, labels: Sequence[str], column: Column) -> str:
    series = []
    for split in run.splits:
        points = []
        for place, label in enumerate(labels):
            found = run.evaluation(label, split)
            value = found.metrics.get(column.metric) if found else None
            if value is not None:
                name = f"{display_name(label)}, {split}: "
                note = f"{name}{column.number(value.value)} ({column.number(value.low)} – {column.number(value.high)})"
                points.append(Point(place, value.value, value.low, value.high, note))
        series.append(Series(split, points))
    better = "higher" if HIGHER_IS_BETTER[column.metric] else "lower"
    names = [display_name(label) for label in labels]
    return line_chart(f"{column.title} ({better} is better)", series, x_names=names, percent=column.unit == "%")


# ---- why episodes end
def failures(run: RunData) -> str:
    """One bar per policy and split: successes, and the causes of the rest."""
    parts = []
    for split in run.splits:
        found = [(label, run.evaluation(label, split)) for label in run.labels]
        rows = [
            (display_name(label), count_causes(item.trajectories))
            for label, item in found
            if item and item.trajectories
        ]
        if rows:
            parts += [element("h3", text(split)), stacked_bars(rows, CAUSES)]
    return "".join(parts)


# ---- the run itself
def about(run: RunData) -> str:
    """The config, what was evaluated, and what could not be read."""
    parts = []
    if run.config:
        written = yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True)
        parts.append(_folded("config", element("pre", text(written), class_="text")))
    details = [item for item in run.evaluations if item.record]
    if details:
        rows = [
            [
                text(f"{display_name(item.label)}, {item.split}"),
                text(item.record.get("env_id", "")),
                text(item.record.get("manifest_digest", ""))[:16],
                text(item.record.get("decoding", "")),
            ]
            for item in details
        ]
        parts.append(
            _folded(
                "what was evaluated",
                table(["policy, split", "environment", "tasks' digest", "decoding"], rows, class_="facts"),
            )
        )
    parts += [element("p", "Could not be read: " + text(note), class_="warning") for note in run.notes]
    return "".join(parts)


def _folded(title: str, body: str) -> str:
    return element("details", element("summary", text(title)), body, class_="plain")
