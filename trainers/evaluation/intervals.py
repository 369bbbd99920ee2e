"""How sure a mean over tasks is: percentile bootstrap, and what to say where the bootstrap is blind.

The bootstrap knows only the values it has seen. Where all n tasks have the same value it would give an
interval of no width, as if nothing else could ever happen. For a number that lies between known bounds the
rule of three's exact form is used there instead: if a share p of all tasks has the value c, seeing c n times
running has the chance p^n; the smallest p that is not refuted at 2.5 % is 0.025^(1/n), and the rest of the
tasks may lie anywhere within the bounds. A number without bounds keeps its width of 0, and a comparison on it
falls back on the signs (see `trainers.evaluation.compare`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from icto_gym.errors import ConfigError, DataError

RESAMPLES = 2000
CONFIDENCE = 0.95
POWER = 0.8
"""Chance of showing a difference that is there, for the number of tasks that would be needed."""

Bounds = tuple[float, float]


class Estimate(NamedTuple):
    """A mean over tasks and its 95 % interval."""

    value: float
    low: float
    high: float
    n: int
    """Number of tasks that have this number."""

    def as_dict(self) -> dict[str, float | int]:
        """The form kept in ``metrics.json``."""
        return {"value": self.value, "low": self.low, "high": self.high, "n": self.n}


def bootstrap_means(values: Sequence[float] | np.ndarray, *, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """Means of resampled tasks, shape (resamples,); the same seed and length draw the same tasks."""
    array = np.asarray(values, dtype=np.float64)
    generator = np.random.default_rng(seed)
    rows = max(1, 4_000_000 // max(1, len(array)))  # at most 32 MB of indices at a time
    means = [
        array[generator.integers(0, len(array), size=(min(rows, resamples - done), len(array)))].mean(axis=1)
        for done in range(0, resamples, rows)
    ]
    return np.concatenate(means)


def estimate(
    values: Sequence[float], *, seed: int = 0, resamples: int = RESAMPLES, bounds: Bounds | None = None
) -> Estimate:
    """Mean of the tasks' values and its interval.

    Args:
        values: one per task.
        seed: of the bootstrap.
        resamples: how many sets of tasks are drawn.
        bounds: what no value can be below and above, where that is known; used where all values are equal.

    Raises:
        DataError: there are no values, or one is not a finite number.
    """
    array = np.asarray(values, dtype=np.float64)
    if not len(array):
        raise DataError("there are no values to average.")
    if not np.isfinite(array).all():
        raise DataError(f"{array[~np.isfinite(array)][0]} is among the values; only finite numbers can be averaged.")
    if bounds is not None and array.min() == array.max():
        return _of_equal_values(float(array[0]), len(array), bounds)
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(bootstrap_means(array, resamples=resamples, seed=seed), [tail, 100 - tail])
    return Estimate(float(array.mean()), float(low), float(high), len(array))


def _of_equal_values(value: float, n: int, bounds: Bounds) -> Estimate:
    """What n equal values leave open (see the top of this file)."""
    share = ((1 - CONFIDENCE) / 2) ** (1 / n)
    low, high = (share * value + (1 - share) * bound for bound in bounds)
    return Estimate(value, min(low, value), max(high, value), n)


def deviation(values: Sequence[float]) -> float | None:
    """Sample standard deviation (n - 1); None for fewer than two values."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def tasks_needed(differences: Sequence[float], wanted: float) -> int | None:
    """About how many tasks would show a true difference of ``wanted`` with a chance of 80 %.

    n = ((z_0.975 + z_0.8) s / wanted)^2, with the standard deviation s of the paired differences.

    Args:
        differences: one per task.
        wanted: above 0, in the metric's unit.

    Returns:
        None where the differences do not vary, so that nothing can be told.

    Raises:
        ConfigError: ``wanted`` is not above 0.
    """
    if not (math.isfinite(wanted) and wanted > 0):
        raise ConfigError(f"The difference to be seen is {wanted!r}; give a number above 0.")
    spread = deviation(differences)
    if not spread:
        return None
    normal = NormalDist()
    return math.ceil(((normal.inv_cdf((1 + CONFIDENCE) / 2) + normal.inv_cdf(POWER)) * spread / wanted) ** 2)
