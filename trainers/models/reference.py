"""The frozen reference policy, as its log-probabilities: computed once before training, kept in a file.

The reference of an iteration is the policy it starts from. Where one adapter goes on learning over iterations, "adapter
switched off" would be another policy, and a copy would cost its memory in every step; numbers cost nothing.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor

from icto_gym.errors import DataError
from icto_gym.files import atomic_open
from trainers.models.foreign import readable

logger = logging.getLogger(__name__)


def cached_logps(
    path: Path,
    size: int,
    turns: int,
    groups: Iterable[list[int]],
    score: Callable[[list[int]], Tensor],
    *,
    save_every: int = 32,
) -> Tensor:
    """Return one row of summed log-probabilities per item, reading from ``path`` what is there already.

    Args:
        path: safetensors file; written atomically every ``save_every`` groups, so that little is lost by a kill.
        size: number of items.
        turns: length of a row; shorter ones are filled with 0.
        groups: the item numbers, split into batches; the same split on every call.
        score: item numbers -> (items, S), S <= ``turns``.

    Returns:
        (size, turns), in nats.
    """
    table, done = _read(path, size, turns)
    fresh = 0
    for number, group in enumerate(groups):
        if number < done:
            continue
        rows = score(group)
        table[group, : rows.shape[1]] = rows.to(table)
        fresh += 1
        if fresh % save_every == 0:
            _write(path, table, number + 1)
    if fresh:
        _write(path, table, done + fresh)
    return table


def read_logps(path: Path, size: int, turns: int) -> Tensor:
    """What `cached_logps` has written, (size, turns), in nats.

    Raises:
        DataError: there is no such file, it cannot be read, or it holds other numbers.
    """
    if not path.exists():
        raise DataError(f"{path}: not found. Processes that train together need a folder that all of them see.")
    return _read(path, size, turns)[0]


def _read(path: Path, size: int, turns: int) -> tuple[Tensor, int]:
    if not path.exists():
        return torch.zeros(size, turns), 0
    from safetensors import safe_open

    with readable(path, "Remove it, and it is computed again."), safe_open(str(path), "pt") as file:
        table, facts = file.get_tensor("logps"), json.loads(file.metadata()["facts"])
    if table.shape != (size, turns):
        raise DataError(f"{path}: holds {tuple(table.shape)} numbers, expected {(size, turns)}. Remove it.")
    return table, facts["groups"]


def _write(path: Path, table: Tensor, groups: int) -> None:
    from safetensors.torch import save

    with atomic_open(path, "wb") as handle:
        handle.write(save({"logps": table}, {"facts": json.dumps({"groups": groups})}))
