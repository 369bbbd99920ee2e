"""The main table: every policy on one split, with intervals and the paired difference to cloning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from icto_gym.errors import DataError
from trainers.evaluation.compare import Comparison, paired_difference
from trainers.evaluation.metrics import Estimate
from trainers.report.data import Evaluation, RunData, display_name


@dataclass(frozen=True)
class Column:
    """A metric of the main table."""

    metric: str
    title: str
    scale: float = 1.0
    digits: int = 3
    unit: str = ""

    def number(self, value: float) -> str:
        """A value as text, without its unit."""
        return f"{value * self.scale:.{self.digits}f}"

    def difference(self, value: float) -> str:
        """A difference as text, with its sign; a true minus sign aligns with the plus."""
        rounded = round(value * self.scale, self.digits) + 0.0  # no minus sign before a zero
        return f"{rounded:+.{self.digits}f}".replace("-", "−")


MAIN_COLUMNS = (
    Column("average_reward", "average reward"),
    Column("success_rate", "success", 100, 1, "%"),
    Column("mean_actions", "mean actions", 1, 2),
    Column("invalid_action_share", "invalid actions", 100, 1, "%"),
)
MORE_COLUMNS = (
    Column("mean_actions_success", "actions where it succeeded", 1, 2),
    Column("optimal_action_rate", "optimal actions", 100, 1, "%"),
    Column("ended_by_itself_rate", "ended by itself", 100, 1, "%"),
    Column("loop_share", "episodes with a loop", 100, 1, "%"),
    Column("tokens_per_episode", "tokens per episode", 1, 0),
)


@dataclass(frozen=True)
class Row:
    """One policy on one split."""

    label: str
    split: str
    metrics: dict[str, Estimate]
    versus: dict[str, Comparison] = field(default_factory=dict)
    """By metric: the paired difference to the baseline; absent for the baseline and where tasks differ."""

    @property
    def name(self) -> str:
        return display_name(self.label)

    @property
    def tasks(self) -> int:
        return max((value.n for value in self.metrics.values()), default=0)


def table_rows(run: RunData, split: str) -> list[Row]:
    """The rows of one split, in the order the policies came to be."""
    baseline = run.evaluation(run.baseline, split)
    rows = []
    for label in run.labels:
        found = run.evaluation(label, split)
        if found is not None:
            rows.append(Row(label, split, found.metrics, _versus(found, baseline)))
    return rows


def _versus(found: Evaluation, baseline: Evaluation | None) -> dict[str, Comparison]:
    if baseline is None or found is baseline or not (found.trajectories and baseline.trajectories):
        return {}
    names = display_name(found.label), display_name(baseline.label)
    compared = {}
    for column in (*MAIN_COLUMNS, *MORE_COLUMNS):
        try:
            compared[column.metric] = paired_difference(
                found.trajectories, baseline.trajectories, column.metric, names=names
            )
        except DataError:  # other tasks, or a metric that is not known for them
            continue
    return compared


def table_text(rows: Sequence[Row]) -> str:
    """The main table for a terminal: value and interval of each metric, then the differences to cloning."""
    columns = [column for column in MAIN_COLUMNS if any(column.metric in row.metrics for row in rows)]
    lines = [["", "tasks", *(f"{column.title}{' %' * bool(column.unit)}" for column in columns)]]
    for row in rows:
        lines.append([row.name, str(row.tasks), *(_cell(column, row.metrics.get(column.metric)) for column in columns)])
    compared = [row for row in rows if row.versus]
    if compared:
        lines.append([])
    for row in compared:
        cells = (_difference_cell(column, row.versus.get(column.metric)) for column in columns)
        lines.append([f"{row.name} − {_baseline(row)}", "", *cells])
    return _aligned(lines)


def _baseline(row: Row) -> str:
    return next(iter(row.versus.values())).second


def _cell(column: Column, value: Estimate | None) -> str:
    if value is None:
        return "–"
    return f"{column.number(value.value)} [{column.number(value.low)}, {column.number(value.high)}]"


def _difference_cell(column: Column, value: Comparison | None) -> str:
    if value is None:
        return "–"
    mark = "" if value.better == "unclear" else " *"
    return (
        f"{column.difference(value.difference)} [{column.difference(value.low)}, {column.difference(value.high)}]{mark}"
    )


def _aligned(lines: list[list[str]]) -> str:
    widths = [max(len(line[place]) for line in lines if line) for place in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=False)).rstrip() for line in lines
    )


def verdicts_in_words(run: RunData, split: str) -> list[str]:
    """What the last policy is against the cloned one, as sentences; the difference is reported as it is."""
    rows = [row for row in table_rows(run, split) if row.versus]
    if not rows:
        return []
    return [rows[-1].versus[metric].words for metric in ("success_rate", "average_reward") if metric in rows[-1].versus]


def run_text(run: RunData) -> str:
    """All main tables of a run for a terminal, with the verdict in words below each."""
    parts = []
    for split in run.splits:
        rows = table_rows(run, split)
        parts += [f"{split}: value [95 % bootstrap interval over tasks]", table_text(rows)]
        if any(row.versus for row in rows):
            parts.append("Differences are paired by task; * marks an interval without 0.")
        parts += [*verdicts_in_words(run, split), ""]
    return "\n".join(parts).rstrip() + "\n" if parts else "There are no evaluations yet.\n"
