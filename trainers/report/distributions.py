"""How scores and lengths of episodes are spread: a mean hides that half the episodes fail and half succeed."""

from __future__ import annotations

import math

from trainers.report.charts import histogram
from trainers.report.data import RunData, display_name
from trainers.report.markup import element

_MOST_POLICIES = 4


def distributions(run: RunData) -> str:
    """Score and number of actions, one pair of charts per split."""
    charts = []
    for split in run.splits:
        found = [(label, run.evaluation(label, split)) for label in run.labels]
        played = [(display_name(label), item.trajectories) for label, item in found if item and item.trajectories]
        played = played[-_MOST_POLICIES:]  # the policies that training ended with
        if not played:
            continue
        scores = [(name, [episode.score for episode in episodes]) for name, episodes in played]
        lengths = [(name, [float(len(episode.steps)) for episode in episodes]) for name, episodes in played]
        names = ["0", "to 0.25", "to 0.5", "to 0.75", "below 1", "1"]
        edges = [0.0, 1e-9, 0.25, 0.5, 0.75, 1 - 1e-9, 1.0]
        charts.append(
            histogram(f"score, {split}", scores, edges=edges, names=names, x_title="score of an episode (1: solved)")
        )
        longest = max((length for _, values in lengths for length in values), default=0.0)
        charts.append(
            histogram(f"actions, {split}", lengths, edges=length_edges(longest), x_title="actions of an episode")
        )
    return element("div", *charts, class_="charts wide") if charts else ""


def length_edges(longest: float, bins: int = 8) -> list[float]:
    """Ends of at most so many equal intervals of whole numbers, from 0 past the longest episode."""
    wide = max(1, math.ceil((longest + 1) / bins))
    return [float(edge) for edge in range(0, math.ceil(longest) + wide + 1, wide)]
