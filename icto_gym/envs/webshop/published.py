"""Published conversations of WebShop: ETO's ``id`` is the goal's place in the original's shuffled order."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from icto_gym.errors import ConfigError

_GOAL = re.compile(r"Instruction: \[SEP\] (.+?) \[SEP\]", re.DOTALL)


def task_id(record: Mapping[str, Any], split: str) -> str | None:
    """``webshop/<id>``; AgentGym's ``item_id`` counts goals of another catalogue and is not taken for it."""
    number = record.get("id")
    if isinstance(number, bool) or not str(number).isdecimal():
        return None
    return f"webshop/{int(str(number))}"


def goal(text: str) -> str:
    """The instruction between its two separators."""
    found = _GOAL.search(text)
    return found[1] if found else ""


def translate(texts: Sequence[str], grammar: str) -> list[str]:
    """There is one wording only."""
    raise ConfigError(f"WebShop has one wording; --action-grammar {grammar} is for another benchmark.")
