"""A user's own loss over pairs, by dotted path (importable without torch)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from icto_gym.errors import ConfigError
from trainers.dotted import load_dotted


def make_objective(path: str) -> Callable[..., Any]:
    """The function that ``package.module:name`` leads to; it is called like `trainers.losses.step_dpo_loss`.

    It gets four (B, S) tensors of summed log-probabilities (policy chosen, policy rejected, reference chosen, reference
    rejected; one column per reply, 0 where there is none), the (B, S) weights of the steps, and ``beta``. It returns a
    `trainers.losses.PreferenceLoss`.

    Raises:
        ConfigError: nothing that can be called is there.
    """
    found = load_dotted(path, "dpo.objective", "a function")
    if not callable(found):
        raise ConfigError(f"dpo.objective {path!r} is of type {type(found).__name__}; give a function.")
    return found
