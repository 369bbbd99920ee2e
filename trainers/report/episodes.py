"""Episodes packed for the page: every text once, compressed; the script draws only what is looked at."""

from __future__ import annotations

import base64
import gzip
import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

from icto_gym.trajectory import Trajectory
from trainers.evaluation.failures import failure_cause
from trainers.pairing.trajectory import Unpaired, divergence
from trainers.records import Verdict
from trainers.report.contrasts import SideBySide, choose_contrasts
from trainers.report.data import RunData, display_name
from trainers.report.likelihoods import known, rater_name
from trainers.report.markup import visible

MOST_EPISODES = 1000
LONGEST_TEXT = 12_000


class Packing:
    """Collects texts, tasks, episodes and contrasts of one or several runs."""

    def __init__(self) -> None:
        self.texts: dict[str, int] = {}
        self.tasks: list[dict[str, Any]] = []
        self.episodes: list[dict[str, Any]] = []
        self.contrasts: list[dict[str, Any]] = []
        self.left_out = 0
        self._tasks: dict[tuple[str, str], int] = {}
        self._episodes: dict[tuple[str, str], int] = {}

    def add_run(self, run: RunData, most: int) -> None:
        """Episodes of a run: those of its telling contrasts, then whole tasks until ``most`` are there."""
        verdicts = _verdicts(run)
        by_task: dict[str, list[tuple[Trajectory, str]]] = {}
        for trajectory, where in all_episodes(run):
            by_task.setdefault(trajectory.task_id, []).append((trajectory, where))
        places = {one.trajectory_id: where for found in by_task.values() for one, where in found}
        for item in choose_contrasts(run):
            left, right = (
                self._episode(run, side, verdicts, places[side.trajectory_id]) for side in (item.left, item.right)
            )
            self.contrasts.append(self._contrast(run, item, left, right))
        for _, found in sorted(by_task.items(), key=lambda item: (_same_outcome(item[1]), item[0])):
            if len(self._episodes) + len(found) > most:
                self.left_out += len(found)
                continue
            for trajectory, where in found:
                self._episode(run, trajectory, verdicts, where)

    def payload(self) -> str:
        """Base64 of gzipped JSON: nothing in it can end a script or a string."""
        packed = {
            "texts": list(self.texts), "tasks": self.tasks, "episodes": self.episodes, "contrasts": self.contrasts,
            "leftOut": self.left_out,
        }  # fmt: skip
        written = json.dumps(packed, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
        return base64.b64encode(gzip.compress(written.encode("ascii"), mtime=0)).decode("ascii")

    def _text(self, value: str) -> int:
        value = value.strip("\n")
        if len(value) > LONGEST_TEXT:
            value = f"{value[:LONGEST_TEXT]}\n[… {len(value) - LONGEST_TEXT} more characters are in the run folder]"
        return self.texts.setdefault(visible(value), len(self.texts))

    def _task(self, run: RunData, trajectory: Trajectory) -> int:
        key = str(run.folder), trajectory.task_id
        if key not in self._tasks:
            self._tasks[key] = len(self.tasks)
            goal = self._text(trajectory.instruction)
            self.tasks.append({"run": visible(run.name), "id": visible(trajectory.task_id), "goal": goal})
        return self._tasks[key]

    def _episode(self, run: RunData, trajectory: Trajectory, verdicts: dict[str, str], where: str) -> int:
        key = str(run.folder), trajectory.trajectory_id
        if key in self._episodes:
            return self._episodes[key]
        self._episodes[key] = len(self.episodes)
        steps = [
            [self._text(step.thought if step.thought != step.action.strip() else ""), self._text(step.action),
             step.reward, int(step.valid)]
            for step in trajectory.steps
        ]  # fmt: skip
        seen = [*(step.observation for step in trajectory.steps), trajectory.final_observation]
        packed = {
            "id": visible(trajectory.trajectory_id), "task": self._task(run, trajectory), "where": visible(where),
            "score": trajectory.score, "success": int(trajectory.success), "cause": failure_cause(trajectory),
            "steps": steps, "seen": [self._text(value) for value in seen],
        }  # fmt: skip
        verdict = verdicts.get(trajectory.trajectory_id)
        if verdict:
            packed["verdict"] = self._text(verdict)
        self.episodes.append(packed)
        return self._episodes[key]

    def _contrast(self, run: RunData, item: SideBySide, left: int, right: int) -> dict[str, Any]:
        sides = (item.left, item.right)
        found: dict[str, Any] = {
            "group": visible(item.group), "left": left, "right": right, "parting": parting(*sides),
            "names": [visible(item.left_name), visible(item.right_name)],
        }  # fmt: skip
        if item.rewards_from != "recorded":
            found |= {"rewards": [item.left_rewards, item.right_rewards], "rewardsFrom": visible(item.rewards_from)}
        odds = [[_probabilities(known(run, side, rater)) for rater in item.raters] for side in sides]
        if len(item.raters) == 2 and all(all(side) for side in odds):
            found |= {"odds": odds, "raters": [visible(rater_name(run, rater)) for rater in item.raters]}
        return found


def parting(left: Trajectory, right: Trajectory) -> int:
    """The step, from 0, at which two episodes part; -1 where one is the beginning of the other."""
    try:
        return divergence(left, right)
    except Unpaired as reason:
        return 0 if str(reason) == "different start" else -1


def all_episodes(run: RunData) -> Iterator[tuple[Trajectory, str]]:
    """Every episode of a run and where it was played, in words."""
    for item in run.evaluations:
        yield from ((one, f"{item.split} · {display_name(item.label)}") for one in item.trajectories)
    for iteration in run.iterations:
        for how, played in iteration.played.items():
            yield from ((one, f"iteration {iteration.number} · {how}") for one in played)
    yield from ((one, "demonstration") for one in run.demonstrations.values())


def _same_outcome(found: Sequence[tuple[Trajectory, str]]) -> bool:
    """Tasks with a success and a failure come first: there is something to compare."""
    return len({trajectory.success for trajectory, _ in found}) < 2


def _verdicts(run: RunData) -> dict[str, str]:
    found: dict[str, str] = {}
    for iteration in run.iterations:
        for verdict in iteration.verdicts:
            before = found.get(verdict.trajectory_id)
            found[verdict.trajectory_id] = f"{before}\n{_in_words(verdict)}" if before else _in_words(verdict)
    return found


def _in_words(verdict: Verdict) -> str:
    return f"{verdict.judge}: {'accepted' if verdict.accepted else 'refused'}, {verdict.score:.2f}, {verdict.reason}"


def _probabilities(logps: Sequence[float]) -> list[float]:
    return [float(f"{math.exp(min(value, 0.0)):.3g}") for value in logps]
