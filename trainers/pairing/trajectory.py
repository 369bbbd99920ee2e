"""Whole episodes: where two of them part, and the contrast of all that follows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

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
    rejected_end: int
    """The rejected side is trained up to (not including) this step."""

    @property
    def margin(self) -> float:
        """Difference of the final scores."""
        return self.chosen.score - self.rejected.score

    def prompt(self) -> tuple[Message, ...]:
        """The conversation up to t*, as the chosen side had it (thoughts may differ before t*)."""
        return tuple(trajectory_messages(self.chosen)[: _OPENING + 2 * self.start])

    @property
    def chosen_steps(self) -> int:
        """Steps of the chosen side from t* on."""
        return len(self.chosen.steps) - self.start

    @property
    def rejected_steps(self) -> int:
        """Steps of the rejected side from t* on that may be trained."""
        return self.rejected_end - self.start

    def sides(self, chosen_steps: int, rejected_steps: int) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
        """Both remainders, from the response at t* on, so many steps of each.

        Raises:
            Unpaired: they read the same.
        """
        chosen = self._remainder(self.chosen, chosen_steps)
        rejected = self._remainder(self.rejected, rejected_steps)
        if chosen == rejected:
            raise Unpaired("identical")
        return chosen, rejected

    def cut(
        self, max_extra_steps: int | None = None, max_rejected_steps: int | None = None
    ) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
        """Both remainders, the rejected one with so many steps more than the chosen one and in all, at most.

        Raises:
            Unpaired: they read the same.
        """
        limits = [self.rejected_steps]
        limits += [] if max_extra_steps is None else [self.chosen_steps + max_extra_steps]
        limits += [] if max_rejected_steps is None else [max_rejected_steps]
        return self.sides(self.chosen_steps, min(limits))

    def _remainder(self, trajectory: Trajectory, steps: int) -> tuple[Message, ...]:
        first = _OPENING + 2 * self.start
        return tuple(trajectory_messages(trajectory)[first : first + 2 * steps - 1])


def contrast(chosen: Trajectory, rejected: Trajectory, *, train_random_steps: bool = False) -> Contrast:
    """Find where two episodes part.

    Steps that the policy did not choose itself (a prefix the expert played, commands drawn at random by
    exploration) stand in the trajectory's ``extra`` as ``prefix_steps`` and ``random_steps``. The
    expert's are never rejected; random ones are trained only if asked for.

    Raises:
        Unpaired: they are the same, start differently, or leave nothing to train on.
    """
    start = divergence(chosen, rejected)
    if start < _extra(rejected, "prefix_steps", 0):
        raise Unpaired("the expert's steps on the rejected side")
    end = len(rejected.steps)
    if not train_random_steps:
        if any(t >= start for t in _extra(chosen, "random_steps", ())):
            raise Unpaired("random steps on the chosen side")
        end = min([end, *(t for t in _extra(rejected, "random_steps", ()) if t >= start)])
        if end == start:
            raise Unpaired("a random step decides")
    if any(not step.response.strip() for step in chosen.steps[start:]):
        raise Unpaired("nothing trainable")  # an empty response is nothing to imitate
    return Contrast(chosen, rejected, start, end)


def _extra(trajectory: Trajectory, name: str, default: Any) -> Any:
    return (trajectory.extra or {}).get(name, default)


def trajectory_pair(
    found: Contrast,
    max_extra_steps: int | None = None,
    weights: Sequence[float] = (),
    max_rejected_steps: int | None = None,
) -> PreferencePair:
    """One contrast over all messages from t* on.

    Args:
        found: the two episodes and t*.
        max_extra_steps: the rejected side keeps at most this many steps more than the chosen one.
        weights: of the steps from t* on, for objectives that look at steps too; what is too long is cut.
        max_rejected_steps: the rejected side keeps at most this many.
    """
    chosen, rejected = found.cut(max_extra_steps, max_rejected_steps)
    return PreferencePair(
        task_id=found.chosen.task_id,
        prompt=found.prompt(),
        chosen=chosen,
        rejected=rejected,
        margin=found.margin,
        granularity="trajectory",
        chosen_id=found.chosen.trajectory_id,
        rejected_id=found.rejected.trajectory_id,
        step_weights=tuple(weights[: (min(len(chosen), len(rejected)) + 1) // 2]),
    )
