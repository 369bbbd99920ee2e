"""Contrastive losses over pairs: direct preference optimisation by episode and by step, and ICTO's Eq. 3 as printed.

Every argument named ``logps`` holds sums of token log-probabilities in nats; observation tokens are not in them.
"""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor


class PreferenceLoss(NamedTuple):
    """What a loss over pairs returns; each field has one entry per pair, shape (B,)."""

    losses: Tensor
    chosen_rewards: Tensor
    """Implicit reward β·(log π − log π_ref) of the chosen side, without gradient."""
    rejected_rewards: Tensor


def dpo_loss(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    reference_chosen_logps: Tensor,
    reference_rejected_logps: Tensor,
    *,
    beta: float,
    chosen_penalty: float = 0.0,
) -> PreferenceLoss:
    """Direct preference optimisation (Rafailov et al., 2023, eq. 7).

        Δ = [log π(chosen) − log π_ref(chosen)] − [log π(rejected) − log π_ref(rejected)]
        L = − log σ(β·Δ)

    Each argument holds one summed log-probability per response, shape (B,), in nats.
    Where policy equals reference, every loss is log 2.

    The loss falls whether the chosen side rises or the rejected one sinks, even if both sink. With ``chosen_penalty``
    λ > 0, λ·max(0, log π_ref(chosen) − log π(chosen)) is taken from Δ, as in DPO-positive (Pal et al., 2024).
    """
    chosen_log_ratio = policy_chosen_logps - reference_chosen_logps
    rejected_log_ratio = policy_rejected_logps - reference_rejected_logps
    delta = chosen_log_ratio - rejected_log_ratio - chosen_penalty * F.relu(-chosen_log_ratio)
    losses = -F.logsigmoid(beta * delta)
    return PreferenceLoss(losses, beta * chosen_log_ratio.detach(), beta * rejected_log_ratio.detach())


def step_dpo_loss(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    reference_chosen_logps: Tensor,
    reference_rejected_logps: Tensor,
    weights: Tensor,
    *,
    beta: float,
    chosen_penalty: float = 0.0,
) -> PreferenceLoss:
    """Preference optimisation step by step, weighted by step rewards (ICTO's Eq. 2 inside its Eq. 3).

        Δ_t^side = log π(step t of side) − log π_ref(step t of side)
        L = − Σ_t w_t · log σ(β·(Δ_t^chosen − Δ_t^rejected)) / Σ_t w_t

    Args:
        policy_chosen_logps: (B, S), one summed log-probability per paired step; so are the three that follow.
        policy_rejected_logps: (B, S).
        reference_chosen_logps: (B, S).
        reference_rejected_logps: (B, S).
        weights: (B, S), w_t = max(R_t, 0) of Eq. 2; 0 where there is no step t. Each row has a positive sum.
        beta: strength of the pull towards the reference.
        chosen_penalty: as in `dpo_loss`, step by step.

    Returns:
        Losses (B,), log 2 where policy equals reference; implicit rewards summed over the weighted steps.
    """
    chosen_log_ratio = policy_chosen_logps - reference_chosen_logps
    rejected_log_ratio = policy_rejected_logps - reference_rejected_logps
    delta = chosen_log_ratio - rejected_log_ratio - chosen_penalty * F.relu(-chosen_log_ratio)
    step_losses = -F.logsigmoid(beta * delta)
    losses = (weights * step_losses).sum(-1) / weights.sum(-1)
    counted = (weights > 0).to(chosen_log_ratio.dtype)
    return PreferenceLoss(
        losses,
        beta * (counted * chosen_log_ratio.detach()).sum(-1),
        beta * (counted * rejected_log_ratio.detach()).sum(-1),
    )


def log_ratio_loss(policy_chosen_logps: Tensor, policy_rejected_logps: Tensor) -> PreferenceLoss:
    """ICTO's Eq. 3 to the letter, with the sign that matches its text; for the ablation only.

        L = − [log π(chosen) − log π(rejected)]

    The paper prints the expectation without the minus and calls it a loss; minimised like that it would prefer
    failure. There is no reference and no bound below: nothing stops it from pushing the rejected side down for ever.

    Args:
        policy_chosen_logps: (B,), in nats.
        policy_rejected_logps: (B,), in nats.

    Returns:
        Losses (B,); as rewards, the log-probabilities themselves.
    """
    losses = -(policy_chosen_logps - policy_rejected_logps)
    return PreferenceLoss(losses, policy_chosen_logps.detach(), policy_rejected_logps.detach())
