"""The Bradley-Terry loss: a reward model learns which of two answers is preferred (RLCD's first stage)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def bradley_terry_loss(chosen_rewards: Tensor, rejected_rewards: Tensor) -> Tensor:
    """Negative log-likelihood of the preferences (Bradley and Terry, 1952; Ouyang et al., 2022, eq. 1).

        L = − log σ(R(x, y_w) − R(x, y_l))

    Only differences of answers to the same prompt count: what is added to all rewards of a prompt changes nothing.

    Args:
        chosen_rewards: (B,), R(x, y_w).
        rejected_rewards: (B,), R(x, y_l), of the same prompts.

    Returns:
        Losses (B,), in nats; log 2 where both rewards are equal.
    """
    return -F.logsigmoid(chosen_rewards - rejected_rewards)
