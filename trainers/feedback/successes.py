"""Which of a policy's own episodes are worth imitating."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from icto_gym.trajectory import Trajectory

_ROUNDING = 1e-9
"""Scores are sums; those this close are equal."""


def distinct_successes(
    trajectories: Iterable[Trajectory],
    others: Sequence[Trajectory],
    min_score: float | None,
    accepted: set[str] | None = None,
) -> tuple[list[Trajectory], dict[str, int]]:
    """Successes worth imitating, and how many of the policy's other episodes were left out why.

    Left out are episodes that are ``broken`` or ``below the threshold``, and successes that were ``refused``, those
    ``with random steps`` (a command drawn at random in the policy's place, whose canned thought would be learned), and
    those ``repeated``: another one (or one of ``others``) equals them command by command.

    Args:
        trajectories: the policy's.
        others: demonstrations, which are kept anyway.
        min_score: a score from here on is a success; None: at least an expert's on the same task, of several the
            lowest, whatever their order.
        accepted: ids that a judge let pass; None: all.
    """
    needed: dict[str, float] = {}
    for item in others:
        needed[item.task_id] = min(item.score, needed.get(item.task_id, item.score))
    seen, kept, counts = {(item.task_id, item.actions) for item in others}, [], Counter[str]()
    for item in trajectories:
        threshold = needed.get(item.task_id, 1.0) if min_score is None else min_score
        if item.error is not None:
            reason = "broken"
        elif item.score < threshold - _ROUNDING:
            reason = "below the threshold"
        elif accepted is not None and item.trajectory_id not in accepted:
            reason = "refused"
        elif (item.extra or {}).get("random_steps"):
            reason = "with random steps"
        elif (item.task_id, item.actions) in seen:
            reason = "repeated"
        else:
            seen.add((item.task_id, item.actions))
            kept.append(item)
            continue
        counts[reason] += 1
    return kept, dict(sorted(counts.items()))
