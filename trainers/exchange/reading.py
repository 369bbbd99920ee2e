"""What an import knows while it goes on, and how a record's task is named."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from icto_gym.envs.published import published
from trainers.exchange.options import BadField, ImportOptions


@dataclass
class Reading:
    """An import under way."""

    format_name: str
    options: ImportOptions
    notes: Counter[str] = field(default_factory=Counter)
    """What was changed or is unknown, counted."""
    attempts: Counter[str] = field(default_factory=Counter)
    """How many records of each task were read; published files repeat some."""
    beside: dict[str, Any] = field(default_factory=dict)
    """What the last record gave besides itself: ``step_rewards``, ``verdicts``."""


def name_task(row: Mapping[str, Any], reading: Reading) -> str:
    """The task id: by ``--task-id``, as the record has it, as the benchmark recognises it, or ``imported/<id>``."""
    options = reading.options
    if options.task_id:
        try:
            return options.task_id.format_map({key: value for key, value in row.items() if _plain(value)})
        except (KeyError, IndexError, ValueError, AttributeError) as error:
            plain = ", ".join(key for key, value in row.items() if _plain(value))
            raise BadField(
                f"--task-id {options.task_id!r} does not fit ({error}); the record's fields are {plain}"
            ) from error
    if isinstance(row.get("task_id"), str) and row["task_id"]:
        return row["task_id"]
    knowledge = published(options.env_id)
    known = knowledge.task_id(row, options.split) if knowledge else None
    if known:
        return known
    named = next((row[name] for name in ("item_id", "id") if _plain(row.get(name))), None)
    if named is None:
        named = sum(reading.attempts.values())
        reading.notes["records without an id (they are counted)"] += 1
    reading.notes["tasks that are not the benchmark's own ids (imported/...)"] += 1
    return f"imported/{named}"


def is_number(value: Any) -> bool:
    """Whether a field holds a number that a float can hold; JSON's whole numbers have no limit."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _plain(value: Any) -> bool:
    return isinstance(value, (str, int)) and not isinstance(value, bool)
