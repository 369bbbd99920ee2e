"""Which of a policy's own episodes are worth imitating."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from icto_gym.trajectory import Trajectory
from trainers.records import random_steps, retried_step

_ROUNDING = 1e-9
"""Scores are sums; those this close are equal."""


def worth_imitating(
    trajectories: Sequence[Trajectory],
    others: Sequence[Trajectory],
    min_score: float | None,
    accepted: set[str] | None = None,
    best_margin: float | None = None,
) -> tuple[list[Trajectory], dict[str, int]]:
    """The `distinct_successes`; with ``best_margin`` also the `best_attempts` at tasks that have none of these.

    The counts then say how many of those kept are the ``best``.
    """
    kept, counts = distinct_successes(trajectories, others, min_score, accepted)
    if best_margin is None:
        return kept, counts
    best = best_attempts(trajectories, {item.task_id for item in (*kept, *others)}, best_margin)
    chosen = {item.trajectory_id for item in best}
    rest = [item for item in trajectories if item.trajectory_id not in chosen]
    return [*kept, *best], {"best": len(best), **distinct_successes(rest, others, min_score, accepted)[1]}


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
        elif random_steps(item):
            reason = "with random steps"
        elif (item.task_id, item.actions) in seen:
            reason = "repeated"
        else:
            seen.add((item.task_id, item.actions))
            kept.append(item)
            continue
        counts[reason] += 1
    return kept, dict(sorted(counts.items()))


def best_attempts(trajectories: Iterable[Trajectory], solved: Iterable[str], margin: float) -> list[Trajectory]:
    """Of every task that has no success the best attempt, where another one is worse by ``margin`` at least.

    RAFT (Dong et al., 2023, algorithm 1) keeps the best of a task's attempts whatever they are; where all are alike
    there is nothing to learn from the choice, so here they must differ. Attempts with random steps, or with a command
    that is none where it would be imitated, are not kept, though they may be the worse one; broken ones are neither. Of
    equal ones the shortest is kept.

    Args:
        trajectories: the policy's.
        solved: ids of tasks of which a success, or an expert's episode, is imitated already.
        margin: in units of the score.
    """
    attempts: dict[str, list[Trajectory]] = {}
    passed = set(solved)
    for item in trajectories:
        if item.error is None and item.task_id not in passed:
            attempts.setdefault(item.task_id, []).append(item)
    found = []
    for tried in attempts.values():
        worst = min(item.score for item in tried)
        sound = [item for item in tried if _is_sound(item) and item.score - worst >= margin - _ROUNDING]
        found += sorted(sound, key=lambda item: (-item.score, len(item.steps)))[:1]
    return found


def _is_sound(item: Trajectory) -> bool:
    imitated = item.steps[retried_step(item) or 0 :]
    return not random_steps(item) and all(step.valid for step in imitated)
