"""Published conversations of ALFWorld: ETO's experts name the game's file, AgentGym's its two folders."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from icto_gym.envs.alfworld.tasks import SPLITS
from icto_gym.envs.alfworld.trajectories import translate_trajectory

_GOAL = re.compile(r"Your task is to: *([^\n]+?)\.?[ \t]*(?:\n|$)")
_FOLDERS = re.compile(r"(?P<kind>[\w-]+-\d+)_(?P<trial>trial_T\d+_\d+_\d+)")


def task_id(record: Mapping[str, Any], split: str) -> str | None:
    """``alfworld/<split>/<folder>/<trial>`` of ``game_file`` or ``item_id``; the latter has no split."""
    path = record.get("game_file")
    if isinstance(path, str):
        parts = [part for part in PurePosixPath(path).parts if part != "game.tw-pddl"]
        known = [place for place, part in enumerate(parts) if part in SPLITS]
        if known and len(parts) >= known[-1] + 3:
            return "/".join(("alfworld", *parts[known[-1] : known[-1] + 3]))
        return None
    found = _FOLDERS.fullmatch(str(record.get("item_id", "")))
    return f"alfworld/{split}/{found['kind']}/{found['trial']}" if found else None


def goal(text: str) -> str:
    """The sentence behind ``Your task is to:``, without its full stop."""
    found = _GOAL.search(text)
    return found[1] if found else ""


def translate(texts: Sequence[str], grammar: str) -> list[str]:
    """Messages in the wording ``"move"`` (since 0.4) or ``"put"`` (before)."""
    return translate_trajectory(texts, grammar)
