"""The formats, and what a file of others leaves open and its reader must say."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from icto_gym.errors import ConfigError, DataError

FORMATS: dict[str, str] = {
    "trl-sft": "TRL language modelling, conversational: {messages}",
    "trl-preference": "TRL preference, conversational: {prompt, chosen, rejected}",
    "trl-unpaired": "TRL unpaired preference, conversational: {prompt, completion, label}",
    "trl-stepwise": "TRL stepwise supervision: {prompt, completions, labels}",
    "sharegpt": "ShareGPT as ETO and AgentGym write it: {id or item_id, conversations: [{from, value}], ...}",
    "sharegpt-preference": "ETO's preference files: {id, prompt, chosen, rejected} of {from, value}",
    "trajectories": "our own fields, one column each (lossless)",
    "minari": "a Minari dataset of text observations and actions (export only)",
}
PAIRS = ("trl-preference", "sharegpt-preference")
"""The formats whose records are preference pairs; the others hold trajectories."""


LABELLED = {"verdicts": "trl-unpaired", "step_rewards": "trl-stepwise"}
"""The one format that has a place for each kind of label."""


def check_labels(format_name: str, **files: Path | None) -> None:
    """Refuse a file of labels that the format has no place for.

    Raises:
        ConfigError: naming its flag and the format that has.
    """
    for name, path in files.items():
        if path is not None and format_name != LABELLED[name]:
            flag = name.replace("_", "-")
            raise ConfigError(f"--{flag} is for {LABELLED[name]}; {format_name} has no place for it. Leave it out.")


class BadField(DataError):
    """A field of a record that cannot be used; whoever reads the file adds file and number."""


@dataclass(frozen=True)
class ImportOptions:
    """What the records themselves do not say. Nothing is guessed: what is needed and missing is an error."""

    env_id: str = ""
    """Environment that the records were played in, such as icto/ALFWorld-v0."""
    policy: str = "imported"
    """Who acted, such as expert."""
    score: float | None = None
    """Score in [0, 1] of records that have none (ETO counts its ALFWorld and ScienceWorld experts as 1)."""
    reward_scale: float = 1.0
    """The records' rewards are divided by this (100 for rewards in points)."""
    margin: float | None = None
    """Difference in score of pairs that have none, above 0."""
    task_id: str = ""
    """Task id made of the record's own fields, such as webshop/{id}; left out: as the benchmark recognises it."""
    split: str = "train"
    """Split of tasks that are named without one."""
    action_grammar: Literal["as-is", "move", "put"] = "as-is"
    """Write ALFWorld's commands and answers in today's wording (move) or the one before 2025 (put)."""
    system_prompt: str = ""
    """How to act: for conversations that begin with the task, and in place of other instructions."""
    example_messages: int = 0
    """Messages of a worked example behind the first two, dropped (ETO's rollouts: 8, 14 or 10)."""
    skip_malformed: bool = False
    """Leave malformed records out, each named in the log; otherwise the first one ends the import."""
