"""The losses, each one page that reads like its formula. They take tensors and know nothing of models or episodes."""

try:
    import torch  # noqa: F401
except ImportError as error:
    raise ImportError(f"The losses need torch ({error}). Install it: pip install 'icto-gym[train]'") from error

from trainers.losses.bradley_terry import bradley_terry_loss
from trainers.losses.dpo import PreferenceLoss, dpo_loss, log_ratio_loss, step_dpo_loss
from trainers.losses.logprobs import sum_logps, token_logps
from trainers.losses.ppo import (
    clip_fraction,
    clipped_surrogate_loss,
    generalized_advantages,
    token_rewards,
    value_loss,
    whiten,
)
from trainers.losses.reward import reward_loss
from trainers.losses.sft import sft_loss

__all__ = [
    "PreferenceLoss",
    "bradley_terry_loss",
    "clip_fraction",
    "clipped_surrogate_loss",
    "dpo_loss",
    "generalized_advantages",
    "log_ratio_loss",
    "reward_loss",
    "sft_loss",
    "step_dpo_loss",
    "sum_logps",
    "token_logps",
    "token_rewards",
    "value_loss",
    "whiten",
]
