"""Published conversations of ScienceWorld: ETO's ``id`` is ``<task's number>_<variation>``; others are not guessed.

So ETO's loader makes them (``eval_agent/tasks/sciworld.py``), with the numbers of its ``taskname2id.json``: the places
of the tasks in the alphabet of their old names (``task-1-boil``, ``task-1-change-...``, ..., ``task-9-...``). Its
experts carry the same ids, for ``construct_preference.py`` finds an attempt's expert by them. The package 1.0.1 lists
its tasks in this very order, and its variations are those of 1.2.3 (426 descriptions compared: only wording differs).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from icto_gym.envs.scienceworld.tasks import BY_NAME, TaskType
from icto_gym.errors import ConfigError

_LABEL = "Task Description:"
_ETO_ID = re.compile(r"(\d{1,2})_(\d{1,4})", re.ASCII)
_ETO_NUMBERS = (
    "boil", "change-the-state-of-matter-of", "freeze", "melt", "measure-melting-point-known-substance", None,
    "use-thermometer", "power-component", "power-component-renewable-vs-nonrenewable-energy", "test-conductivity",
    "test-conductivity-of-unknown-substances", "find-animal", "find-living-thing", "find-non-living-thing",
    "find-plant", "grow-fruit", "grow-plant", "chemistry-mix", "chemistry-mix-paint-secondary-color",
    "chemistry-mix-paint-tertiary-color", "lifespan-longest-lived", "lifespan-longest-lived-then-shortest-lived",
    "lifespan-shortest-lived", "identify-life-stages-1", "identify-life-stages-2", "inclined-plane-determine-angle",
    "inclined-plane-friction-named-surfaces", "inclined-plane-friction-unnamed-surfaces",
    "mendelian-genetics-known-plant", "mendelian-genetics-unknown-plant",
)  # fmt: skip
"""Names of the package 1.2.3 by ETO's numbers; it has no task of number 5 (2-3 of the package)."""


def task_id(record: Mapping[str, Any], split: str) -> str | None:
    """``scienceworld/<name>/<variation>`` of an ``id`` such as ``"9_412"``; None for others and beyond the last one.

    The record says the variation, so ``split`` does not matter.
    """
    found = _ETO_ID.fullmatch(str(record.get("id", "")))
    if found is None or int(found[1]) >= len(_ETO_NUMBERS):
        return None
    kind, variation = BY_NAME.get(_ETO_NUMBERS[int(found[1])] or ""), int(found[2])
    return f"scienceworld/{kind.name}/{variation}" if kind and variation < _variations(kind) else None


def _variations(kind: TaskType) -> int:
    return kind.train + kind.dev + kind.test


def goal(text: str) -> str:
    """The line that tells the task."""
    lines = text.removeprefix(_LABEL).strip().splitlines()
    return next((line.strip() for line in lines if "task is to" in line), "")


def translate(texts: Sequence[str], grammar: str) -> list[str]:
    """There is one wording only."""
    raise ConfigError(f"ScienceWorld has one wording; --action-grammar {grammar} is for another benchmark.")
