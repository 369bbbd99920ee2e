"""Human goals and prices of the default seed, drawn once while the catalogue is built.

Drawing and digesting some 12,000 goals takes a second or two, because each needs its product; opening reads them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from icto_gym.envs.webshop.catalog import Catalog, Goal
from icto_gym.envs.webshop.store_manifest import GOALS, PRICES
from icto_gym.errors import DataError
from icto_gym.files import atomic_open

READY = ("human", 0)
"""The kind of goals and the ``catalog_seed`` that are kept ready; others are drawn when asked for."""


def write_ready(folder: Path, catalog: Catalog, drawn: np.ndarray) -> None:
    """Keep the goals of a catalogue with their tasks' digests, and all its prices.

    Args:
        folder: of the catalogue.
        catalog: drawn as `READY` says.
        drawn: prices in dollars, in catalogue order.
    """
    rows = [_row(goal, catalog.task_digest(goal)) for goal in catalog.goals]
    with atomic_open(folder / GOALS) as handle:
        handle.write("[" + ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows) + "]\n")
    with atomic_open(folder / PRICES, "wb") as handle:
        drawn.astype(np.float64).tofile(handle)


def _row(goal: Goal, digest: str) -> list[Any]:
    return [
        goal.asin, goal.category, goal.query, goal.name, goal.product_category, goal.instruction, goal.attributes,
        goal.price_upper, goal.options, goal.weight, goal.key, digest,
    ]  # fmt: skip


def ready_goals(folder: Path) -> tuple[list[Goal], dict[str, str]]:
    """Goals in shuffled order, and goal key -> digest of its task.

    Raises:
        DataError: the file is damaged.
    """
    goals, digests = [], {}
    try:
        rows = json.loads((folder / GOALS).read_bytes())
        for asin, category, query, name, levels, text, attributes, upper, options, weight, key, digest in rows:
            goals.append(Goal(
                asin, category, query, name, levels, text, tuple(attributes), upper, tuple(options), False, weight, key
            ))  # fmt: skip
            digests[key] = digest
    except (ValueError, TypeError, RecursionError) as error:
        what = f"{folder / GOALS}: {error}"
        raise DataError(f"{what}. Build the catalogue again with: icto data webshop") from error
    return goals, digests


def ready_prices(folder: Path) -> np.ndarray:
    """Prices in dollars, in catalogue order, mapped: all processes share them."""
    path = folder / PRICES
    if not path.stat().st_size:
        return np.empty(0)  # which cannot be mapped
    return np.memmap(path, dtype=np.float64, mode="r")
