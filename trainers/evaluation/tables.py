"""Results side by side for a terminal: one column each, in-distribution beside out-of-distribution."""

from __future__ import annotations

from collections.abc import Sequence

from trainers.evaluation.metrics import METRICS
from trainers.evaluation.result import Result


def side_by_side(results: Sequence[Result], metrics: Sequence[str] = ()) -> str:
    """All metrics that any of the results has; the ETO protocol's under a heading of their own.

    Args:
        results: one column each.
        metrics: only these; empty: all.
    """
    chosen = [name for name in (metrics or METRICS) if any(name in result.metrics for result in results)]
    lines = [["", *(_heading(result, results) for result in results)]]
    lines.append(["", *(f"{result.n_tasks} tasks{_seeds(result)}" for result in results)])
    for of_eto in (False, True):
        names = [name for name in chosen if METRICS[name].of_eto == of_eto]
        if of_eto and names:
            lines.append(["as the ETO protocol defines them:"])
        for name in names:
            title = ("  " if of_eto else "") + METRICS[name].title
            lines.append([title, *(_cell(result, name) for result in results)])
    broken = [result.broken for result in results]
    if any(broken):
        lines.append(["broken episodes (counted)", *map(str, broken)])
    return _aligned(lines) + f"\n\n{_legend(results)}\n"


def _heading(result: Result, results: Sequence[Result]) -> str:
    several = len({other.label for other in results}) > 1
    return f"{result.label}, {result.split}" if several else result.split


def _seeds(result: Result) -> str:
    return f", {len(result.seeds)} seeds" if result.seeds and len(result.seeds) > 1 else ""


def _cell(result: Result, name: str) -> str:
    found = result.estimates.get(name)
    if found is None:
        return "–"
    text = f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"
    over = result.over_seeds.get(name)
    if isinstance(over, dict) and isinstance(over.get("deviation"), (int, float)):
        text += f" ±{over['deviation']:.3f}"
    return text if found.n == result.n_tasks else f"{text} on {found.n}"


def _legend(results: Sequence[Result]) -> str:
    first = results[0]
    parts = [f"{first.label} on {first.env_id}", "value [95 % bootstrap interval over tasks]"]
    if any(result.over_seeds for result in results):
        parts.append("± sample deviation over seeds")
    if first.scoring.gamma != 1.0:
        parts.append(f"gamma {first.scoring.gamma:g}")
    if first.scoring.success_threshold is not None:
        parts.append(f"success from a score of {first.scoring.success_threshold:g}")
    return "; ".join(parts)


def _aligned(lines: list[list[str]]) -> str:
    places = max(len(line) for line in lines)
    widths = [max(len(line[place]) for line in lines if place < len(line) > 1) for place in range(places)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=False)).rstrip() for line in lines
    )
