"""Step rewards by playing on: what a step is worth is how episodes end that go on from it (IPR, section 3.2)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from icto_gym.errors import ConfigError, DataError, check_name
from icto_gym.trajectory import Trajectory
from trainers.feedback.learned import increments
from trainers.policies.base import derive_seed
from trainers.records import StepRewards, prefix_steps
from trainers.sampling import Job

Beginning = tuple[str, tuple[str, ...]]
"""A task and the responses that have been given in it: what an environment without chance goes on from."""


@dataclass(frozen=True)
class MonteCarloConfig:
    """How continuations are sampled."""

    samples: int = 5
    """N, continuations of each step."""
    temperature: float = 1.0
    """Sampling temperature of the policy that continues."""
    steps: Literal["all", "decision"] = "all"
    """Which steps are continued: `all`; or `decision`, the first that the policy took itself. IPR reads that one alone,
    beside the expert's step in its place, and plays on from those only that outcomes do not settle."""

    def __post_init__(self) -> None:
        if self.samples < 1 or self.temperature < 0:
            raise ConfigError(
                f"monte_carlo wants samples >= 1 and temperature >= 0; got {self.samples!r} and {self.temperature!r}."
            )
        check_name(self.steps, ("all", "decision"), "monte_carlo steps")


def continuation_jobs(
    trajectories: Iterable[Trajectory], config: MonteCarloConfig, seed: int, known: Iterable[Trajectory] = ()
) -> list[Job]:
    """The episodes to play: N from behind each step but the last, whose reward is the outcome itself.

    Equal beginnings, such as the expert's steps that several episodes share, are continued once, and those of
    ``known`` continuations not again.
    """
    steps = ((item, step) for item in trajectories for step in _continued(item, config))
    return jobs_behind(steps, config, seed, known)


def jobs_behind(
    steps: Iterable[tuple[Trajectory, int]], config: MonteCarloConfig, seed: int, known: Iterable[Trajectory] = ()
) -> list[Job]:
    """The episodes to play from behind steps that are named: N of each, for beginnings that ``known`` ones lack.

    Args:
        steps: episodes and the numbers of their steps, from 0; a last step is left out, its reward is the outcome.
        config: how many, and how warm.
        seed: of all draws; what is played from a beginning depends on its place among its task's.
        known: continuations that there are already.
    """
    beginnings: dict[str, dict[tuple[str, ...], None]] = defaultdict(dict)
    played = {beginning(item) for item in known if item.error is None}
    for trajectory, step in steps:
        given = tuple(item.response for item in trajectory.steps[: step + 1])
        if step < len(trajectory.steps) - 1 and (trajectory.task_id, given) not in played:
            beginnings[trajectory.task_id].setdefault(given)
    return [
        Job(
            task_id, attempt := number * config.samples + sample, derive_seed(seed, "continue", task_id, attempt),
            config.temperature, prefix=prefix,
        )
        for task_id, prefixes in beginnings.items()
        for number, prefix in enumerate(prefixes)
        for sample in range(config.samples)
    ]  # fmt: skip


def _continued(trajectory: Trajectory, config: MonteCarloConfig) -> list[int]:
    if trajectory.error is not None:
        return []
    inner = range(len(trajectory.steps) - 1)
    if config.steps == "all":
        return list(inner)
    decision = prefix_steps(trajectory)
    return [decision] if decision in inner else []


def beginning(continuation: Trajectory) -> Beginning:
    """What an episode went on from."""
    given = continuation.steps[: prefix_steps(continuation)]
    return continuation.task_id, tuple(step.response for step in given)


class MonteCarloStepRewards:
    """Values steps by their continuations: V_t = (1/N) * sum of the outcomes of the episodes that went on from step t.

    The last step's value is the outcome. A step that nobody continued has one known continuation, the episode itself,
    so its value is that outcome too.
    """

    def __init__(self, continuations: Iterable[Trajectory], form: Literal["increment", "value"] = "increment") -> None:
        """Args:
        continuations: episodes played from the jobs of `continuation_jobs`; broken ones do not count.
        form: ``"value"``: a step's reward is V_t, as IPR compares them; ``"increment"``: V_t - V_(t-1), so that the
            running sums of ICTO's Eq. 2 are the values.
        """
        self.form = form
        self.name = f"monte_carlo:{form}"
        self._found: dict[Beginning, list[Trajectory]] = defaultdict(list)
        for item in continuations:
            if item.error is None:
                self._found[beginning(item)].append(item)

    def score_steps(self, trajectory: Trajectory) -> StepRewards:
        """One value or increment per step."""
        values = [self.value(trajectory, step) for step in range(len(trajectory.steps))]
        rewards = values if self.form == "value" else increments(values)
        return StepRewards(trajectory.trajectory_id, tuple(rewards), self.name)

    def value(self, trajectory: Trajectory, step: int) -> float:
        """V_t of one step (counted from 0).

        Raises:
            DataError: a continuation saw something else on the same way, so its environment cannot be replayed.
        """
        if step == len(trajectory.steps) - 1:
            return trajectory.score
        given = tuple(item.response for item in trajectory.steps[: step + 1])
        samples = self._found.get((trajectory.task_id, given), [])
        for sample in samples:
            _check_same_way(trajectory, sample, step)
        return sum(sample.score for sample in samples) / len(samples) if samples else trajectory.score


def _check_same_way(trajectory: Trajectory, sample: Trajectory, step: int) -> None:
    """The state after the replayed steps must be the one that is valued."""
    seen = [[item.observation for item in side.steps[: step + 2]] for side in (trajectory, sample)]
    if len(sample.steps) > step + 1 and seen[0] != seen[1]:
        raise DataError(
            f"{sample.trajectory_id!r} replays the first {step + 1} steps of {trajectory.trajectory_id!r} and sees "
            "something else. Monte-Carlo step rewards need an environment that answers equal actions equally."
        )
