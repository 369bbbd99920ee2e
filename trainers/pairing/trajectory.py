"""Whole episodes: where two of them part, and the contrast of all that follows."""

from __future__ import annotations

from typing import NamedTuple

from icto_gym.dialogue import Message, trajectory_messages
from icto_gym.trajectory import Trajectory
from trainers.records import PreferencePair

_OPENING = 3
"""Messages up to the first observation: how to act, the acknowledgement, the task."""


class Unpaired(Exception):
    """Two episodes make no pair; the text is the reason that is counted."""


def divergence(first: Trajectory, second: Trajectory) -> int:
    """Return t*, the number of leading steps that serve as prompt for both.

    That is the first step at which the commands differ. Where the same commands led to different
    observations, it is the step that led there: what comes before was still the same for both.

    Raises:
        Unpaired: ``"different start"``, ``"identical"``, or ``"nothing trainable"`` where one is the
            beginning of the other.
    """
    seen = [[*(step.observation for step in side.steps), side.final_observation] for side in (first, second)]
    for t, (left, right) in enumerate(zip(*seen, strict=False)):
        if left != right:
            if t == 0:
                raise Unpaired("different start")
            return t - 1
        if t == len(first.steps) or t == len(second.steps):
            break
        if first.steps[t].action != second.steps[t].action:
            return t
    raise Unpaired("identical" if len(first.steps) == len(second.steps) else "nothing trainable")


class Contrast(NamedTuple):
    """Two episodes of one task cut at their first difference."""

    chosen: Trajectory
    rejected: Trajectory
    start: int
    """t*: the number of leading steps that are prompt."""

    @property
    def margin(self) -> float:
        """Difference of the final scores."""
        return self.chosen.score - self.rejected.score

    def prompt(self) -> tuple[Message, ...]:
        """The conversation up to t*, as the chosen side had it (thoughts may differ before t*)."""
        return tuple(trajectory_messages(self.chosen)[: _OPENING + 2 * self.start])

    def remainder(self, trajectory: Trajectory, steps: int | None = None) -> tuple[Message, ...]:
        """From the response at t* to the last response, or to the ``steps``-th one."""
        messages = trajectory_messages(trajectory)[_OPENING + 2 * self.start :]
        return tuple(messages if steps is None else messages[: max(0, 2 * steps - 1)])


def contrast(chosen: Trajectory, rejected: Trajectory) -> Contrast:
    """Find where two episodes part.

    Raises:
        Unpaired: they are the same, start differently, or leave nothing to train on.
    """
    found = Contrast(chosen, rejected, divergence(chosen, rejected))
    if any(not step.response.strip() for step in chosen.steps[found.start :]):
        raise Unpaired("nothing trainable")  # an empty reply cannot be something to imitate
    if found.remainder(chosen) == found.remainder(rejected):
        raise Unpaired("identical")
    return found


def trajectory_pair(found: Contrast, max_extra_steps: int | None = None) -> PreferencePair:
    """One contrast over all messages from t* on.

    Args:
        found: the two episodes and t*.
        max_extra_steps: the rejected side keeps at most this many steps more than the chosen one.
    """
    limit = None if max_extra_steps is None else len(found.chosen.steps) - found.start + max_extra_steps
    chosen, rejected = found.remainder(found.chosen), found.remainder(found.rejected, limit)
    if chosen == rejected:
        raise Unpaired("identical")
    return PreferencePair(
        task_id=found.chosen.task_id,
        prompt=found.prompt(),
        chosen=chosen,
        rejected=rejected,
        margin=found.margin,
        granularity="trajectory",
        chosen_id=found.chosen.trajectory_id,
        rejected_id=found.rejected.trajectory_id,
    )
