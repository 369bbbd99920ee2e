"""AdamW, plain or with its moments in 8 bits or in memory that pages (Dettmers et al., 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from icto_gym.errors import require
from trainers.training.config import OptimizerConfig

_CLASSES = {"adamw8bit": "AdamW8bit", "paged_adamw": "PagedAdamW", "paged_adamw8bit": "PagedAdamW8bit"}


def make_optimizer(parameters: Sequence[torch.nn.Parameter], config: OptimizerConfig) -> Any:
    """The optimiser that ``config.optimizer`` names.

    Raises:
        DependencyNotInstalled: if bitsandbytes is needed and missing.
    """
    options: dict[str, Any] = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
    if config.optimizer == "adamw":
        return torch.optim.AdamW(parameters, **options)
    bitsandbytes = require("bitsandbytes", extra="quantization")
    return getattr(bitsandbytes.optim, _CLASSES[config.optimizer])(parameters, **options)
