"""Supervised fine-tuning: the negative log-likelihood of what was demonstrated."""

from __future__ import annotations

from torch import Tensor


def sft_loss(logps: Tensor) -> Tensor:
    """Mean negative log-likelihood per trained token.

        L = − (1/K) Σ_k log π(t_k | t_<k)

    Args:
        logps: (K,), log-probabilities of the tokens the policy should have written, in nats.

    Returns:
        A scalar, in nats per token.
    """
    return -logps.mean()
