"""In and out of distribution side by side, and several runs (ablations, seeds) on one page."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from icto_gym.errors import DataError
from trainers.evaluation.compare import paired_difference
from trainers.evaluation.metrics import HIGHER_IS_BETTER
from trainers.report.charts import Point, Series, line_chart
from trainers.report.data import Evaluation, RunData, display_name, is_development, is_ood
from trainers.report.markup import element, table, text
from trainers.report.tables import MAIN_COLUMNS, Column

SHOWN = MAIN_COLUMNS[:3]
"""Average reward, success, mean actions: the numbers of the published tables."""


def reported_splits(runs: Sequence[RunData]) -> list[str]:
    """Splits that results are read from, in distribution first; development splits only where there is no other."""
    found = list(dict.fromkeys(split for run in runs for split in run.splits))
    kept = [split for split in found if not is_development(split)] or found
    return sorted(kept, key=lambda split: (is_ood(split), split))


def in_and_out(run: RunData) -> str:
    """One row per policy: the main numbers in distribution, then out of it; empty where there is no such pair."""
    splits = reported_splits([run])
    if len({is_ood(split) for split in splits}) < 2:
        return ""
    columns = [(split, column) for split in splits for column in SHOWN]
    rows = []
    for label in run.labels:
        if any(run.evaluation(label, split) for split in splits):
            cells = [_value(run.evaluation(label, split), column) for split, column in columns]
            rows.append([text(display_name(label)), *cells])
    shown = table(
        ["", *(_title(split, column) for split, column in columns)], rows, class_="compact", marked=len(rows) - 1
    )
    return element("div", shown, class_="results")


def side_by_side(runs: Sequence[RunData]) -> str:
    """Several runs: what differs in their settings, the last policy of each, curves, and means over seeds."""
    differing = settings_that_differ(runs)
    splits = reported_splits(runs)
    columns = [(split, column) for split in splits for column in SHOWN]
    rows = []
    for run in runs:
        words = ", ".join(f"{key} {_short(_flat(run.config).get(key))}" for key in differing) or "the same settings"
        name = text(run.name) + element("span", text(words), class_="settings")
        rows.append([name, *(_against(run, runs[0], split, column) for split, column in columns)])
    head = ["the last policy of each run", *(_title(split, column) for split, column in columns)]
    lead = f"Differences are to {runs[0].name}, paired by task, where both played the same tasks."
    parts = [table(head, rows, class_="compact"), element("p", text(lead), class_="quiet"), over_seeds(runs, columns)]
    return element("div", *parts, class_="results") + _curves(runs)


def settings_that_differ(runs: Sequence[RunData]) -> list[str]:
    """Keys of the configs, dotted, whose values are not the same in all runs."""
    flat = [_flat(run.config) for run in runs]
    keys = list(dict.fromkeys(key for one in flat for key in one))
    return [key for key in keys if any(one.get(key) != flat[0].get(key) for one in flat)]


def over_seeds(runs: Sequence[RunData], columns: Sequence[tuple[str, Column]]) -> str:
    """Mean and standard deviation of runs that differ in seeds alone; empty where there are none."""
    groups: dict[str, list[RunData]] = {}
    for run in runs:
        settings = {key: value for key, value in _flat(run.config).items() if key.rpartition(".")[2] != "seed"}
        groups.setdefault(repr(sorted(settings.items(), key=str)), []).append(run)
    rows = []
    for found in (group for group in groups.values() if len(group) > 1):
        name = f"{len(found)} seeds: {', '.join(run.name for run in found)}"
        rows.append([text(name), *(_spread(found, split, column) for split, column in columns)])
    if not rows:
        return ""
    head = ["mean and deviation over seeds", *(_title(split, column) for split, column in columns)]
    return table(head, rows, class_="compact")


def _spread(runs: Sequence[RunData], split: str, column: Column) -> str:
    found = [last_evaluation(run, split) for run in runs]
    values = [item.metrics[column.metric].value for item in found if item and column.metric in item.metrics]
    if len(values) < 2:
        return "–"
    unit = f" {column.unit}" if column.unit else ""
    mean, deviation = column.number(statistics.fmean(values)), column.number(statistics.stdev(values))
    return element("span", f"{mean} ± {deviation}{unit}", class_="value")


def last_evaluation(run: RunData, split: str) -> Evaluation | None:
    """The policy that a run ended with, on a split."""
    found = [run.evaluation(label, split) for label in run.labels]
    return next((item for item in reversed(found) if item), None)


def _title(split: str, column: Column) -> str:
    return text(f"{column.title}, {split}{' (OOD)' if is_ood(split) and 'ood' not in split else ''}")


def _value(found: Evaluation | None, column: Column) -> str:
    value = found.metrics.get(column.metric) if found else None
    if value is None:
        return "–"
    unit = f" {column.unit}" if column.unit else ""
    interval = element("span", f"{column.number(value.low)} – {column.number(value.high)}", class_="interval")
    return element("span", column.number(value.value) + unit, class_="value") + interval


def _against(run: RunData, first: RunData, split: str, column: Column) -> str:
    found, other = last_evaluation(run, split), last_evaluation(first, split)
    shown = _value(found, column)
    if run is first or found is None or other is None or not (found.trajectories and other.trajectories):
        return shown
    try:
        result = paired_difference(found.trajectories, other.trajectories, column.metric, names=(run.name, first.name))
    except DataError:  # other tasks, or a metric that is not known for them
        return shown
    kind = {"first": " up", "second": " down", "unclear": ""}[result.better]
    figures = (
        f"{column.difference(result.difference)} ({column.difference(result.low)} to {column.difference(result.high)})"
    )
    return shown + element("span", text(figures), class_=f"difference{kind}", title=result.words)


def _curves(runs: Sequence[RunData]) -> str:
    """The paper's Figure 4 for several runs: a line per run over the iterations, on the split most policies played."""
    splits = list(dict.fromkeys(split for run in runs for split in run.splits))
    played = {
        split: sum(run.evaluation(label, split) is not None for run in runs for label in run.labels) for split in splits
    }
    if not played or max(played.values()) <= len(runs):
        return ""
    split = max(splits, key=lambda name: played[name])
    charts = []
    for column in SHOWN:
        series = [Series(run.name, _points(run, split, column)) for run in runs]
        better = "higher" if HIGHER_IS_BETTER[column.metric] else "lower"
        title = f"{column.title}, {split} ({better} is better)"
        last = max((point.x for one in series for point in one.points), default=0.0)
        names = [str(number) for number in range(int(last) + 1)] if last < 100 else []
        charts.append(
            line_chart(title, series, x_names=names, x_title="iteration (0: before it)", percent=column.unit == "%")
        )
    return element("div", *charts, class_="charts wide")


def _points(run: RunData, split: str, column: Column) -> list[Point]:
    points = {}
    for label in run.labels:
        found, number = run.evaluation(label, split), re.search(r"-(\d{1,9})$", label)
        value = found.metrics.get(column.metric) if found else None
        if value is not None and label not in ("random", "expert"):
            place = float(number[1]) if number else 0.0
            note = f"{run.name}, {display_name(label)}: {column.number(value.value)}"
            points[place] = Point(place, value.value, value.low, value.high, note)
    return [points[place] for place in sorted(points)]


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            found.update(_flat(value, f"{prefix}{key}."))
        else:
            found[f"{prefix}{key}"] = value
    return found


def _short(value: Any) -> str:
    shown = "–" if value is None else {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)
    return shown if len(shown) <= 40 else shown[:39] + "…"
