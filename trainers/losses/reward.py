"""The reward model's loss (ICTO, Eq. 5): squared error over the steps that are there."""

from __future__ import annotations

from torch import Tensor


def reward_loss(predictions: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error over existing steps.

        L = Σ_t m_t · (R_φ(h_t, a_t) − R_t)² / Σ_t m_t

    Args:
        predictions: (B, S), the value predicted after each step.
        targets: (B, S), the value it should have; any number where there is no step.
        mask: (B, S), 1 where there is a step, 0 elsewhere; not all 0.

    Returns:
        A scalar, in squared reward units.
    """
    mask = mask.to(predictions.dtype)
    errors = (predictions - targets).masked_fill(mask == 0, 0.0)
    return (mask * errors.square()).sum() / mask.sum()
