"""Contrasts along the expert's path: at every step, what the agent would have done there (IPR, Xiong et al., 2024)."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from icto_gym.dialogue import trajectory_messages
from icto_gym.errors import ConfigError
from icto_gym.trajectory import Trajectory
from trainers.pairing.balance import describe_balance
from trainers.pairing.build import PairingResult
from trainers.pairing.whole import OPENING, responses, usable, whole_pair
from trainers.records import PreferencePair, StepRewards, prefix_steps

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class AlongPairingConfig:
    """When one side is better by enough, and what of it is trained."""

    outcome_margin: float = 0.01
    """τ of outcomes: the better side's is higher by more than this."""
    step_margin: float | None = 0.01
    """τ of step rewards, for step pairs, in the same direction as the outcome. None: the outcome alone decides
    (step-wise ETO), and no step rewards are sampled."""
    shorter_wins: bool = False
    """For step pairs the agent also wins by outcome where its remainder is shorter than the expert's, so that step
    rewards decide (the published rule for household tasks)."""
    remainder: bool = True
    """Train everything from the step on; off: that one response alone."""
    trajectory_pairs: bool = True
    """Make pairs of whole trajectories, from the episodes that start at the start."""
    step_pairs: bool = True
    """Make pairs of steps, from those that start further on."""
    first_step: bool = False
    """Make step pairs of those that start at the start too, in the place of trajectory pairs (step-wise ETO)."""

    def __post_init__(self) -> None:
        for name in ("outcome_margin", "step_margin"):
            if (getattr(self, name) or 0.0) < 0:
                raise ConfigError(f"pairing {name} is {getattr(self, name)!r}; it must not be below 0.")
        if not (self.trajectory_pairs or self.step_pairs):
            raise ConfigError("pairing trajectory_pairs and step_pairs are both off, so there can be no pairs.")
        if self.first_step and (self.trajectory_pairs or not self.step_pairs):
            raise ConfigError("pairing first_step wants step_pairs on and trajectory_pairs off, whose place it takes.")


def along_expert(
    trajectories: Iterable[Trajectory],
    verdicts: Any = None,
    step_rewards: Iterable[StepRewards] | None = None,
    config: AlongPairingConfig | None = None,
    *,
    expert: Iterable[Trajectory] = (),
) -> PairingResult:
    """Pair each episode that began with the expert's first steps with the expert's own continuation.

    Args:
        trajectories: episodes whose ``extra`` says how many ``prefix_steps`` were the expert's.
        verdicts: not used; all pairings are called alike.
        step_rewards: the value of every step, of explored and demonstrated episodes.
        config: see `AlongPairingConfig`.
        expert: the demonstrations whose paths were followed.

    Returns:
        Pairs, and counts under which every episode stands once: ``agent won``, ``expert won`` (with `` at a step``
        behind it for step pairs), ``ties``, ``step rewards disagree``, ``broken``, ``ended on the expert's path``,
        ``without a demonstration``, ``nothing trainable``, ``not asked for``.
    """
    maker = _Maker(config or AlongPairingConfig(), step_rewards, expert)
    counts: Counter[str] = Counter()
    pairs = []
    for attempt in trajectories:
        outcome, pair = maker.contrast(attempt)
        counts[outcome] += 1
        pairs += [pair] if pair else []
    counts["pairs"] = len(pairs)
    logger.info("paired along the expert's path: %s", dict(counts))
    balance = describe_balance(pairs, [item.trajectory_id for item in maker.experts.values()])
    return PairingResult(tuple(pairs), dict(sorted(counts.items())), balance)


def compared_steps(
    trajectories: Iterable[Trajectory], config: AlongPairingConfig, *, expert: Iterable[Trajectory]
) -> list[tuple[Trajectory, int]]:
    """The steps whose rewards `along_expert` will ask for: of each contrast that outcomes leave open, both sides'.

    Args:
        trajectories: episodes that began with the expert's first steps.
        config: of the pairing.
        expert: the demonstrations whose paths were followed.

    Returns:
        Episodes, of both kinds, and the number of one of their steps, from 0.
    """
    maker = _Maker(config, None, expert)
    found: list[tuple[Trajectory, int]] = []
    for attempt in trajectories:
        start = prefix_steps(attempt)
        if maker.unfit(attempt, start) or not maker.by_step(start) or not any(maker.winners(attempt, start)):
            continue
        other = maker.experts[attempt.task_id]
        if not same_step(attempt, other, start):
            found += [(attempt, start), (other, start)]
    return found


def same_step(one: Trajectory, other: Trajectory, step: int) -> bool:
    """Whether two episodes that are alike so far go on alike, so that this step is worth the same in both."""
    return one.steps[step].response == other.steps[step].response


class _Maker:
    def __init__(
        self, config: AlongPairingConfig, step_rewards: Iterable[StepRewards] | None, expert: Iterable[Trajectory]
    ) -> None:
        self.config = config
        self.rewards = {item.trajectory_id: item for item in step_rewards or ()}
        self.experts: dict[str, Trajectory] = {}
        for demonstration in expert:
            self.experts.setdefault(demonstration.task_id, demonstration)

    def contrast(self, attempt: Trajectory) -> tuple[str, PreferencePair | None]:
        """What became of an attempt, and the pair if it made one."""
        start = prefix_steps(attempt)
        reason = self.unfit(attempt, start)
        return (reason, None) if reason else self._decide(attempt, self.experts[attempt.task_id], start)

    def unfit(self, attempt: Trajectory, start: int) -> str:
        """Why an attempt is set against nothing, or ``""``."""
        expert = self.experts.get(attempt.task_id)
        if attempt.error is not None:
            return "broken"
        if expert is None or [s.response for s in attempt.steps[:start]] != [s.response for s in expert.steps[:start]]:
            return "without a demonstration"
        if len(attempt.steps) <= start or len(expert.steps) <= start:
            return "ended on the expert's path"
        asked = self.config.step_pairs if self._is_step(start) else self.config.trajectory_pairs
        return "" if asked else "not asked for"

    def _is_step(self, start: int) -> bool:
        return start > 0 or self.config.first_step

    def by_step(self, start: int) -> bool:
        """Whether step rewards have a say."""
        return self._is_step(start) and self.config.step_margin is not None

    def winners(self, attempt: Trajectory, start: int) -> tuple[bool, bool]:
        """Whether the agent, and whether the expert, may win as far as outcomes go."""
        expert, margin = self.experts[attempt.task_id], self.config.outcome_margin
        lead = attempt.score - expert.score
        shorter = self.by_step(start) and self.config.shorter_wins and len(attempt.steps) < len(expert.steps)
        return lead > margin or shorter, -lead > margin

    def _decide(self, attempt: Trajectory, expert: Trajectory, start: int) -> tuple[str, PreferencePair | None]:
        lead = attempt.score - expert.score
        agent_wins, expert_wins = self.winners(attempt, start)
        if not (agent_wins or expert_wins):
            return "ties", None
        if self.by_step(start):
            alike = same_step(attempt, expert, start)
            lead = 0.0 if alike else self._value(attempt, start) - self._value(expert, start)
            margin = self.config.step_margin or 0.0
            agent_wins, expert_wins = agent_wins and lead > margin, expert_wins and -lead > margin
            if not (agent_wins or expert_wins):
                return "step rewards disagree", None
        chosen, rejected = (attempt, expert) if agent_wins else (expert, attempt)
        same = responses(chosen, start) == responses(rejected, start)
        if same or not usable(chosen, start) or not usable(rejected, start):
            return "nothing trainable", None
        name = "agent won" if agent_wins else "expert won"
        if not self._is_step(start):
            return name, whole_pair(chosen, rejected, abs(lead))
        return self._step_pair(f"{name} at a step", chosen, rejected, start, abs(lead))

    def _step_pair(
        self, name: str, chosen: Trajectory, rejected: Trajectory, start: int, margin: float
    ) -> tuple[str, PreferencePair | None]:
        """The shared steps are prompt; both sides go on from ``start``."""
        limit = None if self.config.remainder else 1
        sides = [tuple(responses(side, start)[:limit]) for side in (chosen, rejected)]
        if sides[0] == sides[1]:
            return "nothing trainable", None
        return name, PreferencePair(
            task_id=chosen.task_id,
            prompt=tuple(trajectory_messages(chosen)[: OPENING + 2 * start]),
            chosen=sides[0],
            rejected=sides[1],
            margin=margin,
            granularity="step",
            chosen_id=chosen.trajectory_id,
            rejected_id=rejected.trajectory_id,
            step_weights=(1.0,) * ((min(map(len, sides)) + 1) // 2),
        )

    def _value(self, trajectory: Trajectory, step: int) -> float:
        """The step reward r_s of one step.

        Raises:
            ConfigError: there are none.
        """
        found = self.rewards.get(trajectory.trajectory_id)
        if found is None:
            raise ConfigError(
                f"There are no step rewards of {trajectory.trajectory_id!r}; sample or predict them first, or set "
                "pairing.step_margin to None, so that outcomes alone decide."
            )
        return found.check(trajectory).rewards[step]
