"""Published conversations of ScienceWorld: what their ids mean is not documented, so none is guessed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from icto_gym.errors import ConfigError

_LABEL = "Task Description:"


def task_id(record: Mapping[str, Any], split: str) -> str | None:
    """Unknown: give the ids with ``--task-id``."""
    return None


def goal(text: str) -> str:
    """The line that tells the task."""
    lines = text.removeprefix(_LABEL).strip().splitlines()
    return next((line.strip() for line in lines if "task is to" in line), "")


def translate(texts: Sequence[str], grammar: str) -> list[str]:
    """There is one wording only."""
    raise ConfigError(f"ScienceWorld has one wording; --action-grammar {grammar} is for another benchmark.")
