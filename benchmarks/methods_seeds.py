"""Rows of `methods.py` over several seeds, from what the table keeps of every seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from icto_gym.trajectory import Trajectory
from trainers.evaluation.compare import difference_of_means
from trainers.evaluation.metrics import episode_values, task_means

COMPARED = ("average_reward", "success_rate")
Row = dict[str, Any]


def by_task(episodes: Sequence[Trajectory]) -> dict[str, str]:
    """Every task's values, tasks sorted, as one line of text per metric: small enough to be committed."""
    return {
        metric: " ".join(f"{value:.4g}" for value in task_means(episode_values(episodes, metric)).values())
        for metric in COMPARED
    }


def over_seeds(seeds: Mapping[int, Sequence[Row]], splits: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Rows that are finished with several seeds, by split: means over the seeds, and differences to their clones.

    A task's values are averaged over the seeds, and the bootstrap is over tasks: how sure the mean of these seeds is on
    other tasks, not how far another seed may be; for that the seeds' own means stand beside it. The difference to RFT
    is over the seeds that have both rows by task.

    Args:
        seeds: the rows of each, by its number.
        splits: in their order.
    """
    known = [{"seed": {"number": number}, **{row["method"]: row for row in rows}} for number, rows in seeds.items()]
    found: dict[str, dict[str, Any]] = {split: {} for split in splits}
    for name in dict.fromkeys(row["method"] for rows in seeds.values() for row in rows):
        for split in splits:
            here = [
                rows
                for rows in known
                if name in rows and split in rows[name]["splits" if name == "sft" else "versus_sft"]
            ]
            if len(here) > 1:
                found[split][name] = _over(here, name, split)
    return found


def _over(seeds: Sequence[Mapping[str, Row]], name: str, split: str) -> dict[str, Any]:
    each = [rows[name]["splits"][split] for rows in seeds]
    means = {metric: [seed[metric]["value"] for seed in each] for metric in (*COMPARED, "mean_actions")}
    versus = {} if name == "sft" else {metric: _difference(seeds, name, split, metric) for metric in COMPARED}
    found = {"seeds": len(seeds), "means": means, "versus_sft": versus}
    both = [rows for rows in seeds if _known_by_task(rows, (name, "rft"), split)]
    if both and name not in ("sft", "rft"):
        numbers = [rows["seed"]["number"] for rows in both]
        found["versus_rft"] = {
            metric: {**_rounded(_pooled(both, name, split, metric, "rft")), "of_seeds": numbers} for metric in COMPARED
        }
    return found


def _known_by_task(rows: Mapping[str, Row], names: Sequence[str], split: str) -> bool:
    return all(rows.get(name, {}).get("splits", {}).get(split, {}).get("by_task") for name in names)


def _rounded(result: dict[str, Any]) -> dict[str, Any]:
    return {name: round(value, 4) for name, value in result.items()}


def _difference(seeds: Sequence[Mapping[str, Row]], name: str, split: str, metric: str) -> dict[str, Any]:
    """Of the mean over seeds.

    Seeds of which nothing is known by task stand with their own intervals. The mean of intervals is no narrower than
    the interval of the mean, whatever the seeds have in common, so this errs to the safe side.
    """
    whole = [rows for rows in seeds if _known_by_task(rows, (name, "sft"), split)]
    parts = [(len(whole), _pooled(whole, name, split, metric))] if whole else []
    parts += [(1, rows[name]["versus_sft"][split][metric]) for rows in seeds if rows not in whole]
    ends = {
        end: round(sum(count * part[end] for count, part in parts) / len(seeds), 4)
        for end in ("difference", "low", "high")
    }
    return {**ends, "n": parts[0][1]["n"], "by_task": len(whole) == len(seeds)}


def _pooled(
    seeds: Sequence[Mapping[str, Row]], name: str, split: str, metric: str, other: str = "sft"
) -> dict[str, Any]:
    digests = {rows[row]["splits"][split]["tasks_digest"] for rows in seeds for row in (name, other)}
    if len(digests) > 1:
        raise ValueError(f"{name} on {split}: the seeds were asked different tasks ({', '.join(sorted(digests))}).")

    def values(row: str) -> dict[str, float]:
        each = [rows[row]["splits"][split]["by_task"][metric].split() for rows in seeds]
        return {str(task): fmean(map(float, of_seeds)) for task, of_seeds in enumerate(zip(*each, strict=True))}

    result = difference_of_means(values(name), values(other), metric, names=(name, other))
    return {"difference": result.difference, "low": result.low, "high": result.high, "n": result.n}
