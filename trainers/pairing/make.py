"""Pairings by name: the built-in contrasts, or a user's own."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from typing import Any

from icto_gym.errors import ConfigError
from trainers.pairing.balance import describe_balance
from trainers.pairing.build import PairingResult, build_pairs
from trainers.pairing.config import PairingConfig
from trainers.records import PreferencePair

Pairing = Callable[..., PairingResult]
"""Called like `build_pairs`."""


def make_pairing(config: PairingConfig) -> Pairing:
    """The function that makes pairs: `build_pairs`, or the one that ``granularity`` names by its dotted path.

    A user's own is called like `build_pairs` and returns a `PairingResult`, or just the pairs.

    Raises:
        ConfigError: the path leads to nothing that can be called.
    """
    path = config.granularity
    if ":" not in path:
        return build_pairs
    module, _, name = path.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"{path!r} could not be loaded ({error}). Give 'package.module:name' of a function importable from here."
        ) from error
    if not callable(found):
        raise ConfigError(
            f"{path!r} is of type {type(found).__name__}; give a function that is called like build_pairs."
        )

    def pairing(*episodes: Any, expert: Iterable[Any] = (), **others: Any) -> PairingResult:
        demonstrations = list(expert)
        made = found(*episodes, expert=demonstrations, **others)
        return made if isinstance(made, PairingResult) else _counted(made, path, demonstrations)

    return pairing


def _counted(made: Any, path: str, demonstrations: list[Any]) -> PairingResult:
    pairs = tuple(made) if isinstance(made, Iterable) else (made,)
    for pair in pairs:
        if not isinstance(pair, PreferencePair):
            raise ConfigError(f"{path!r} gave a {type(pair).__name__}; it must give PreferencePair records.")
    balance = describe_balance(pairs, [item.trajectory_id for item in demonstrations])
    own = len(pairs) - balance.expert_chosen
    return PairingResult(
        pairs, {"pairs": len(pairs), "own chosen": own, "expert chosen": balance.expert_chosen}, balance
    )
