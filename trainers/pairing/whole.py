"""The agent's attempt against the expert's episode, each whole: the pairs of ETO (Song et al., 2024)."""

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
from trainers.records import PreferencePair, steps_at_limit

logger = logging.getLogger(__name__)
OPENING = 3
"""Messages before the first response: how to act, the acknowledgement, the task."""
_ROUNDING = 1e-9


@dataclass(frozen=True)
class WholePairingConfig:
    """How an attempt is set against the expert's episode."""

    expert_score: float | None = None
    """What every expert's episode counts as; None: the score it reached. ETO: as reached in a shop whose demonstrations
    may fall short, 1.0 elsewhere."""
    max_extra_messages: int | None = 10
    """A rejected attempt keeps at most as many messages as the expert's has, and so many more (10: five rounds).
    None: no cut."""

    def __post_init__(self) -> None:
        if self.max_extra_messages is not None and (self.max_extra_messages < 0 or self.max_extra_messages % 2):
            raise ConfigError(
                f"pairing max_extra_messages is {self.max_extra_messages!r}; give an even number from 0 (response and "
                "observation make two), or None."
            )
        if self.expert_score is not None and not 0.0 <= self.expert_score <= 1.0:
            raise ConfigError(f"pairing expert_score is {self.expert_score!r}; give a score from 0 to 1, or None.")


def against_expert(
    trajectories: Iterable[Trajectory],
    verdicts: Any = None,
    step_rewards: Any = None,
    config: WholePairingConfig | None = None,
    *,
    expert: Iterable[Trajectory] = (),
) -> PairingResult:
    """Pair each attempt with the expert's episode of its task; the higher outcome is chosen.

    There is no shared prefix beyond the task, no margin and no judge (``verdicts`` and ``step_rewards`` are there since
    all pairings are called alike). ``counts`` account for every attempt: ``agent won``, ``expert won``, ``ties``,
    ``broken``, ``overflowed`` (a conversation did not fit the model, so an outcome says nothing of the attempt),
    ``without a demonstration``, ``nothing trainable``, ``identical``; and ``cut``, the rejected sides that were
    shortened.
    """
    config = config or WholePairingConfig()
    experts: dict[str, Trajectory] = {}
    for demonstration in expert:
        experts.setdefault(demonstration.task_id, demonstration)
    counts: Counter[str] = Counter()
    pairs = [
        pair
        for attempt in trajectories
        if (pair := _pair(attempt, experts.get(attempt.task_id), config, counts)) is not None
    ]
    counts["pairs"] = len(pairs)
    result = PairingResult(
        tuple(pairs),
        dict(sorted(counts.items())),
        describe_balance(pairs, [item.trajectory_id for item in experts.values()]),
    )
    logger.info("paired %d attempts: %s", sum(counts[name] for name in _OUTCOMES), dict(counts))
    return result


_OUTCOMES = (
    "agent won", "expert won", "ties", "broken", "overflowed", "without a demonstration", "nothing trainable",
    "identical",
)  # fmt: skip


def _pair(
    attempt: Trajectory, expert: Trajectory | None, config: WholePairingConfig, counts: Counter[str]
) -> PreferencePair | None:
    """The pair of one attempt; its outcome is counted under exactly one name."""
    if attempt.error is not None:
        counts["broken"] += 1
        return None
    if steps_at_limit(attempt, "overflowed"):
        counts["overflowed"] += 1
        return None
    if expert is None:
        counts["without a demonstration"] += 1
        return None
    lead = attempt.score - (expert.score if config.expert_score is None else config.expert_score)
    if abs(lead) <= _ROUNDING:
        counts["ties"] += 1
        return None
    chosen, rejected = (attempt, expert) if lead > 0 else (expert, attempt)
    limit = None
    if rejected is attempt and config.max_extra_messages is not None:
        limit = len(responses(expert)) + config.max_extra_messages
        counts["cut"] += len(responses(attempt)) > limit
    if not usable(chosen) or not rejected.steps:
        counts["nothing trainable"] += 1
        return None
    if responses(chosen) == responses(rejected)[:limit]:  # where the expert counts as more than it reached
        counts["identical"] += 1
        return None
    counts["agent won" if lead > 0 else "expert won"] += 1
    return whole_pair(chosen, rejected, abs(lead), limit)


def whole_pair(chosen: Trajectory, rejected: Trajectory, margin: float, limit: int | None = None) -> PreferencePair:
    """Everything after the task's message of either side; the prompt is the chosen side's.

    Args:
        limit: the rejected side keeps its first so many messages, an odd number; None: all.
    """
    return PreferencePair(
        task_id=chosen.task_id,
        prompt=tuple(trajectory_messages(chosen)[:OPENING]),
        chosen=tuple(responses(chosen)),
        rejected=tuple(responses(rejected)[:limit]),
        margin=margin,
        granularity="trajectory",
        chosen_id=chosen.trajectory_id,
        rejected_id=rejected.trajectory_id,
    )


def responses(trajectory: Trajectory, start: int = 0) -> list[Any]:
    """Messages from the response of step ``start`` on, responses and observations in turn."""
    return trajectory_messages(trajectory)[OPENING + 2 * start :]


def usable(trajectory: Trajectory, start: int = 0) -> bool:
    """There is a response from ``start`` on, and none of them is empty: an empty one is nothing to imitate."""
    return len(trajectory.steps) > start and all(step.response.strip() for step in trajectory.steps[start:])
