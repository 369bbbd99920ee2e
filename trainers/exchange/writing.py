"""One record to one row of each format; what the format has no place for stands in further columns."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from icto_gym.dialogue import Message, observation_message, to_messages, trajectory_messages
from icto_gym.trajectory import Trajectory
from trainers.records import PreferencePair, StepRewards

_FACTS = {
    "trajectory_id": "text", "env_id": "text", "task_id": "text", "instruction": "text", "final_observation": "text",
    "score": "number", "success": "bool", "terminated": "bool", "truncated": "bool", "policy": "text",
    "seed": "whole", "error": "text", "extra": "text", "step_rewards": "numbers", "step_valid": "bools",
}  # fmt: skip
_PAIR_FACTS = {
    "task_id": "text", "score_margin": "number", "granularity": "text", "chosen_id": "text", "rejected_id": "text",
    "step_weights": "numbers",
}  # fmt: skip
COLUMNS: dict[str, dict[str, str]] = {
    "trl-sft": {"messages": "messages", **_FACTS},
    "trl-unpaired": {"prompt": "messages", "completion": "messages", "label": "bool", **_FACTS},
    "trl-stepwise": {"prompt": "text", "completions": "texts", "labels": "bools", "response_starts": "wholes",
                     "task_start": "whole"} | _FACTS,
    "trl-preference": {"prompt": "messages", "chosen": "messages", "rejected": "messages", **_PAIR_FACTS},
    "sharegpt": {"id": "text", "conversations": "turns", "reward": "number", **_FACTS},
    "sharegpt-preference": {"id": "text", "prompt": "turns", "chosen": "turns", "rejected": "turns", **_PAIR_FACTS},
    "trajectories": {
        **{name: kind for name, kind in _FACTS.items() if name not in ("step_rewards", "step_valid")},
        "system_prompt": "text", "steps": "steps", "format_version": "whole",
    },
}  # fmt: skip
"""The columns of each format and what they hold (see `rows.write_rows`)."""
_SPEAKER = {"user": "human", "assistant": "gpt", "system": "system"}


def write_row(
    record: Any, format_name: str, *, label: bool | None = None, rewards: StepRewards | None = None,
    threshold: float = 0.0,
) -> dict[str, Any]:  # fmt: skip
    """The row of a trajectory or pair, with exactly the columns of `COLUMNS`.

    Args:
        record: a `Trajectory`, or a `PreferencePair` for the preference formats.
        format_name: a key of `COLUMNS`.
        label: of trl-unpaired; None: the episode's success.
        rewards: behind the labels of trl-stepwise; None: as recorded.
        threshold: a step's label is whether its reward is above this.
    """
    if isinstance(record, PreferencePair):
        return _pair(record, format_name)
    if format_name == "trajectories":
        values = asdict(record)
        values["steps"] = [asdict(step) for step in record.steps]
        return {**values, "extra": _json(record.extra)}
    facts = _facts(record)
    if format_name == "sharegpt":
        return {
            "id": record.task_id,
            "conversations": _turns(trajectory_messages(record)),
            "reward": record.score,
        } | facts
    if format_name == "trl-sft":
        return {"messages": _dicts(trajectory_messages(record)), **facts}
    messages = trajectory_messages(record)
    opening = _dicts(messages[:3])
    if format_name == "trl-unpaired":
        label = record.success if label is None else label
        return {"prompt": opening, "completion": _dicts(messages[3:]), "label": label, **facts}
    return _stepwise(record, rewards, threshold) | facts


def _facts(record: Trajectory) -> dict[str, Any]:
    facts = {name: getattr(record, name) for name in _FACTS if name not in ("extra", "step_rewards", "step_valid")}
    return {
        **facts,
        "extra": _json(record.extra),
        "step_rewards": [float(step.reward) for step in record.steps],
        "step_valid": [step.valid for step in record.steps],
    }


def _stepwise(record: Trajectory, rewards: StepRewards | None, threshold: float) -> dict[str, Any]:
    """Each completion is a response, led by the observation it answers; the first observation is in the prompt."""
    first = record.steps[0].observation if record.steps else record.final_observation
    opening = to_messages(record.system_prompt, record.instruction, (), first)
    how, task = opening[0], opening[2]
    completions, starts = [], []
    for number, step in enumerate(record.steps):
        seen = f"{observation_message(step.observation)}\n" if number else ""
        completions.append(seen + step.response.strip())
        starts.append(len(seen))
    values = rewards.rewards if rewards else [step.reward for step in record.steps]
    return {
        "prompt": f"{how.content}\n\n{task.content}", "completions": completions,
        "labels": [value > threshold for value in values], "response_starts": starts,
        "task_start": len(how.content) + 2,
    }  # fmt: skip


def _pair(pair: PreferencePair, format_name: str) -> dict[str, Any]:
    facts = {
        "task_id": pair.task_id, "score_margin": float(pair.margin), "granularity": pair.granularity,
        "chosen_id": pair.chosen_id, "rejected_id": pair.rejected_id, "step_weights": list(pair.step_weights),
    }  # fmt: skip
    write = _dicts if format_name == "trl-preference" else _turns
    sides = {name: write(getattr(pair, name)) for name in ("prompt", "chosen", "rejected")}
    return ({} if format_name == "trl-preference" else {"id": pair.task_id}) | sides | facts


def _dicts(messages: Iterable[Message]) -> list[dict[str, str]]:
    return [message.as_dict() for message in messages]


def _turns(messages: Iterable[Message]) -> list[dict[str, str]]:
    return [{"from": _SPEAKER[message.role], "value": message.content} for message in messages]


def _json(extra: Any) -> str | None:
    return None if extra is None else json.dumps(extra, sort_keys=True)
