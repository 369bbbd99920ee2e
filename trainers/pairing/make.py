"""Pairings by name: the built-in contrasts, or a user's own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from icto_gym.errors import ConfigError
from trainers.dotted import load_dotted
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
    found = load_dotted(path, "pairing.granularity", "a function")
    if not callable(found):
        raise ConfigError(
            f"{path!r} is of type {type(found).__name__}; give a function that is called like build_pairs."
        )

    def pairing(*episodes: Any, expert: Iterable[Any] = (), **others: Any) -> PairingResult:
        demonstrations = list(expert)
        made = found(*episodes, expert=demonstrations, **others)
        if isinstance(made, PairingResult):
            _checked(made.pairs, path)
            return made
        return _counted(_checked(made, path), demonstrations)

    return pairing


def _checked(made: Any, path: str) -> tuple[PreferencePair, ...]:
    pairs = tuple(made) if isinstance(made, Iterable) else (made,)
    for pair in pairs:
        if not isinstance(pair, PreferencePair):
            raise ConfigError(f"{path!r} gave a {type(pair).__name__}; it must give PreferencePair records.")
    return pairs


def _counted(pairs: tuple[PreferencePair, ...], demonstrations: list[Any]) -> PairingResult:
    balance = describe_balance(pairs, [item.trajectory_id for item in demonstrations])
    own = len(pairs) - balance.expert_chosen
    return PairingResult(
        pairs, {"pairs": len(pairs), "own chosen": own, "expert chosen": balance.expert_chosen}, balance
    )
