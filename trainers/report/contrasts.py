"""Telling contrasts: what training changed for better and for worse, and the pairs it learned from."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from icto_gym.trajectory import Trajectory
from trainers.pairing.balance import Kind, decision_kinds
from trainers.records import PreferencePair
from trainers.report.data import PLAYED_ON, Iteration, RunData, display_name
from trainers.report.likelihoods import before_and_after, trained_as


@dataclass(frozen=True)
class SideBySide:
    """Two episodes of one task; the better or the chosen one stands left."""

    group: str
    """Where they come from, a heading of the list."""
    left: Trajectory
    right: Trajectory
    left_name: str
    right_name: str
    left_rewards: tuple[float, ...]
    right_rewards: tuple[float, ...]
    rewards_from: str = "recorded"
    raters: tuple[str, ...] = ()
    """Whose probability of each action is shown: before and after training (see `trainers.report.likelihoods`)."""

    @property
    def title(self) -> str:
        return f"{self.left.task_id}: {self.left.score:.2f} against {self.right.score:.2f}"


def choose_contrasts(run: RunData, each: int = 6) -> list[SideBySide]:
    """A few telling ones: what training changed (for better and for worse), then pairs it learned from."""
    found: list[SideBySide] = []
    baseline = run.baseline or (run.labels[0] if run.labels else None)
    for split in run.splits:
        last = [label for label in run.labels if run.evaluation(label, split)]
        if not found and last and last[-1] != baseline:
            found += _changed(run, split, baseline, last[-1], each)
    for iteration in reversed(run.iterations):
        found += _pairs(run, iteration, each) + _played_on(run, iteration, each)
    return found


def _changed(run: RunData, split: str, before: str | None, after: str, each: int) -> list[SideBySide]:
    sides = [run.evaluation(label, split) for label in (before, after)]
    if sides[0] is None or sides[1] is None:
        return []
    by_task = [{item.task_id: item for item in side.trajectories if item.steps} for side in sides if side]
    both = [(by_task[0][task], by_task[1][task]) for task in sorted(by_task[0].keys() & by_task[1].keys())]
    names = display_name(str(before)), display_name(after)
    raters = tuple(filter(None, (trained_as(run, str(before)), trained_as(run, after))))
    better = [(new, old) for old, new in both if new.score > old.score + 1e-9]
    worse = [(old, new) for old, new in both if old.score > new.score + 1e-9]
    found = []
    for title, pairs, order in (("better", better, (names[1], names[0])), ("worse", worse, names)):
        group = f"{split}: {title} after training ({len(pairs)} of {len(both)} tasks)"
        for left, right in sorted(pairs, key=_telling)[:each]:
            rewards = _recorded(left), _recorded(right)
            found.append(SideBySide(group, left, right, *order, *rewards, raters=raters))
    return found


def _telling(pair: tuple[Trajectory, Trajectory]) -> tuple[float, int, str]:
    """Large differences first, short episodes first."""
    left, right = pair
    return right.score - left.score, len(left.steps) + len(right.steps), left.task_id


def _pairs(run: RunData, iteration: Iteration, each: int) -> list[SideBySide]:
    """Pairs of an iteration, one of each kind of decision before a second of any."""
    ranked: list[tuple[int, PreferencePair]] = []
    seen: Counter[Kind] = Counter()
    for pair, kind in zip(iteration.pairs, decision_kinds(iteration.pairs), strict=True):
        seen[kind] += 1
        ranked.append((seen[kind], pair))
    raters = before_and_after(run, iteration)
    played = [run.demonstrations, iteration.trajectories, iteration.retries, *iteration.prompted.values()]
    episodes = {name: episode for found in played for name, episode in found.items()}
    found: list[SideBySide] = []
    done: set[tuple[str, str]] = set()
    for _, pair in sorted(ranked, key=lambda item: item[0]):
        ids = pair.chosen_id, pair.rejected_id
        if len(found) == each or ids in done or not all(name in episodes for name in ids):
            continue
        done.add(ids)
        left, right = (episodes[name] for name in ids)
        rewards, source = _rewards(iteration, left, right)
        group = f"iteration {iteration.number}: pairs it was trained on ({len(iteration.pairs)} in all)"
        names = f"chosen · {left.policy}", f"rejected · {right.policy}"
        found.append(SideBySide(group, left, right, *names, *rewards, source, raters))
    return found


def _played_on(run: RunData, iteration: Iteration, each: int) -> list[SideBySide]:
    """Pairs of turns (RLCD), as the episodes that went on from either response; those that ended unlike first."""
    raters = before_and_after(run, iteration)
    shown = sorted(iteration.played_on, key=lambda sides: -abs(sides[0].score - sides[1].score))[:each]
    of = f"{len(iteration.played_on)} of {len(iteration.pairs)}"
    group = f"iteration {iteration.number}: pairs of turns, played on to the end ({of})"
    names = f"chosen · {PLAYED_ON[0]}", f"rejected · {PLAYED_ON[1]}"
    return [
        SideBySide(group, left, right, *names, _recorded(left), _recorded(right), raters=raters)
        for left, right in shown
    ]


def _rewards(
    iteration: Iteration, left: Trajectory, right: Trajectory
) -> tuple[tuple[tuple[float, ...], tuple[float, ...]], str]:
    """Step rewards of both sides and where they come from: those given for both, else the recorded ones."""
    first, second = (iteration.step_rewards.get(side.trajectory_id) for side in (left, right))
    if first and second and (len(first.rewards), len(second.rewards)) == (len(left.steps), len(right.steps)):
        return (first.rewards, second.rewards), first.source
    return (_recorded(left), _recorded(right)), "recorded"


def _recorded(trajectory: Trajectory) -> tuple[float, ...]:
    return tuple(step.reward for step in trajectory.steps)
