"""What a run cost: episodes, tokens read and written, seconds, by stage."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from trainers.diagnostics import SAMPLED, TOKENS
from trainers.report.data import RunData
from trainers.report.markup import table, text


def cost(run: RunData) -> str:
    """A row per finished stage, and their sum."""
    timed = [stage for stage in run.stages if isinstance(stage.get("seconds"), (int, float))]
    if not timed:
        return ""
    rows, sums = [], [0.0] * 6
    for stage in timed:
        name = str(stage.get("stage", "?"))
        values = [*_tokens(run, stage), _beside(stage), stage["seconds"], stage.get("cpu_seconds")]
        sums = [total + (value or 0) for total, value in zip(sums, values, strict=True)]
        rows.append([text(name), *_cells(values)])
    rows.append(["all", *_cells([total or None for total in sums])])
    head = ["stage", "episodes", "tokens read", "written or trained", "probed or scored", "time", "processor time"]
    return table(head, rows, class_="facts", marked=len(rows) - 1)


def _tokens(run: RunData, stage: Mapping[str, Any]) -> list[float | None]:
    """Episodes, tokens read and tokens written by a stage that plays; tokens read and trained by one that learns."""
    lines = run.training.get(str(stage.get("stage")))
    if lines:  # one that samples while it learns (PPO) plays as well
        sampled = [_sum(lines, f"{when}/{name}") for name in TOKENS for when in SAMPLED]
        read, learned = _sum(lines, "train/tokens"), _sum(lines, "train/scored_tokens")
        return [None, _plus(read, *sampled[:2]), _plus(learned, *sampled[2:])]
    facts = stage.get("facts") or {}
    if not all(name in facts for name in TOKENS):
        return [None, None, None]
    return [_sum([facts], "episodes"), *(_sum([facts], name) or None for name in TOKENS)]


def _beside(stage: Mapping[str, Any]) -> float | None:
    """Tokens of a training's probes, and those read under its reference or a reward model."""
    facts = stage.get("facts") or {}
    return _plus(_sum([facts], "probe_tokens"), _sum([facts], "scoring_tokens")) or None


def _plus(*values: float | None) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _sum(records: Iterable[Any], key: str) -> float | None:
    found = [record.get(key) for record in records]
    numbers = [value for value in found if isinstance(value, (int, float)) and not isinstance(value, bool)]
    return float(sum(numbers)) if numbers else None


def _cells(values: list[Any]) -> list[str]:
    return [*(f"{value:,.0f}" if value is not None else "–" for value in values[:4]), *map(minutes, values[4:])]


def minutes(seconds: Any) -> str:
    """A time in words; a dash where it is not known."""
    if not isinstance(seconds, (int, float)):
        return "–"
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"
