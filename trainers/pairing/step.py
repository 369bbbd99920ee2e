"""Single steps: how far ahead the success is at each step, and pairs weighted by it."""

from __future__ import annotations

from collections.abc import Sequence

from trainers.pairing.trajectory import Contrast
from trainers.records import PreferencePair

_ROUNDING = 1e-9
"""Sums of step rewards below this are rounding, not a lead."""


def cumulative_contrast(success: Sequence[float], failure: Sequence[float]) -> list[float]:
    """Return R_t = sum over i <= t of (r_i of the success - r_i of the failure), Eq. 2 of the paper.

    Args:
        success: step rewards of the successful episode, from its first step.
        failure: step rewards of the failed one.

    Returns:
        One value per step of the longer episode; after its end an episode's reward is 0.
    """
    lead, found = 0.0, []
    for t in range(max(len(success), len(failure))):
        lead += (success[t] if t < len(success) else 0.0) - (failure[t] if t < len(failure) else 0.0)
        found.append(lead)
    return found


def weights_from_contrast(contrast: Sequence[float]) -> tuple[float, ...]:
    """Return w_t = max(R_t, 0); uniform 1.0 if no step has a lead, so that the pair still teaches."""
    weights = tuple(value if value > _ROUNDING else 0.0 for value in contrast)
    return weights if any(weights) else (1.0,) * len(weights)


def step_weights(
    found: Contrast, success: Sequence[float], failure: Sequence[float], horizon: int | None = None
) -> tuple[float, ...]:
    """w_t of every step that both sides have, from t* on.

    Args:
        found: the two episodes and t*.
        success: step rewards of the whole chosen episode.
        failure: step rewards of the whole rejected episode.
        horizon: at most this many steps; None: as far as both sides go.
    """
    paired = min(found.chosen_steps, found.rejected_steps, *([] if horizon is None else [horizon]))
    return weights_from_contrast(cumulative_contrast(success, failure)[found.start : found.start + paired])


def step_pair(
    found: Contrast, success: Sequence[float], failure: Sequence[float], horizon: int | None = None
) -> PreferencePair:
    """Message t of one side against message t of the other, from t* on.

    Both sides end with the last step that has a weight: what follows would be read and not trained.
    The arguments are those of `step_weights`.
    """
    weights = step_weights(found, success, failure, horizon)
    steps = max(t for t, weight in enumerate(weights) if weight) + 1
    chosen, rejected = found.sides(steps, steps)
    return PreferencePair(
        task_id=found.chosen.task_id,
        prompt=found.prompt(),
        chosen=chosen,
        rejected=rejected,
        margin=found.margin,
        granularity="step",
        chosen_id=found.chosen.trajectory_id,
        rejected_id=found.rejected.trajectory_id,
        step_weights=weights[:steps],
    )
