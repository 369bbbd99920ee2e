"""One row of a conversation format to one trajectory: what the row says, what the options say, and no guess."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from icto_gym.dialogue import ACKNOWLEDGEMENT, Message
from icto_gym.errors import DataError
from icto_gym.trajectory import Trajectory
from trainers.exchange.conversation import Episode, read_episode, read_messages
from trainers.exchange.options import BadField, ImportOptions
from trainers.exchange.reading import Reading, is_number, name_task
from trainers.records import WORTH_CONTRASTING, StepRewards, Verdict

_CONVERSATION = ("conversations", "messages", "prompt", "completion", "completions", "response_starts", "task_start")
_KNOWN = (
    "trajectory_id", "env_id", "task_id", "instruction", "final_observation", "score", "success", "terminated",
    "truncated", "policy", "seed", "error", "extra", "step_rewards", "step_valid", "reward", "label", "labels",
)  # fmt: skip


def read_trajectory(row: Mapping[str, Any], reading: Reading) -> Trajectory:
    """Build a trajectory.

    Raises:
        BadField: naming the field and the mend.
    """
    if reading.format_name == "trajectories":
        return _own(row)
    messages, where = _conversation(row, reading)
    given = row.get("instruction")
    episode = read_episode(messages, where, reading.options, reading.notes, given if isinstance(given, str) else None)
    trajectory = _assembled(row, episode, reading)
    _labels(row, trajectory, reading)
    return trajectory


def _own(row: Mapping[str, Any]) -> Trajectory:
    try:
        return Trajectory.from_dict({**row, "extra": _extra(row)})
    except DataError as error:
        raise BadField(str(error)) from error


def _extra(row: Mapping[str, Any]) -> Any:
    extra = row.get("extra")
    if not isinstance(extra, str):
        return extra
    try:
        return json.loads(extra)
    except ValueError as error:
        raise BadField(f"field extra is no JSON ({error})") from error


# ---- the conversation -------------------------------------------------------------------------
def _conversation(row: Mapping[str, Any], reading: Reading) -> tuple[list[Message], str]:
    notes = reading.notes
    if reading.format_name in ("sharegpt", "trl-sft"):
        name = "conversations" if reading.format_name == "sharegpt" else "messages"
        if row.get(name) is None and "prompt" in row and "completion" in row:  # TRL's prompt-completion type
            return _prompt(row, notes) + read_messages(row["completion"], "completion", notes), "completion"
        return read_messages(row.get(name), name, notes), name
    if reading.format_name == "trl-unpaired":
        completion = row.get("completion")
        if isinstance(completion, str):
            completion = [{"role": "assistant", "content": completion}]
        return _prompt(row, notes) + read_messages(completion, "completion", notes), "completion"
    return _prompt(row, notes) + _stepwise(row), "completions"


def _prompt(row: Mapping[str, Any], notes: Counter[str]) -> list[Message]:
    prompt, start = row.get("prompt"), row.get("task_start")
    if isinstance(prompt, str):
        if isinstance(start, bool) or not isinstance(start, (int, type(None))):
            raise BadField(f"field task_start is {start!r:.40}, expected the task's place in the prompt")
        if start is None:
            return [Message("user", prompt)]
        how = Message("user", prompt[:start].removesuffix("\n\n"))
        return [how, Message("assistant", ACKNOWLEDGEMENT), Message("user", prompt[start:])]
    return read_messages(prompt, "prompt", notes)


def _stepwise(row: Mapping[str, Any]) -> list[Message]:
    """Completions as messages; where a response begins in its completion stands in ``response_starts``."""
    completions = row.get("completions")
    if not isinstance(completions, list) or not completions or not all(isinstance(text, str) for text in completions):
        raise BadField(f"field completions is {completions!r:.60}, expected a list of texts")
    starts = row.get("response_starts")
    if starts is None:
        starts = [0] * len(completions)
    if not isinstance(starts, list) or len(starts) != len(completions):
        raise BadField(f"field response_starts is {starts!r:.60}, expected one number per completion")
    messages: list[Message] = []
    for text, start in zip(completions, starts, strict=True):
        if isinstance(start, bool) or not isinstance(start, int) or not 0 <= start <= len(text):
            raise BadField(f"field response_starts holds {start!r:.40}, expected a place in the completion")
        if messages:
            messages.append(Message("user", text[:start].removesuffix("\n") or "Observation:"))
        messages.append(Message("assistant", text[start:]))
    return messages


# ---- the facts --------------------------------------------------------------------------------
def _assembled(row: Mapping[str, Any], episode: Episode, reading: Reading) -> Trajectory:
    options, unknown = reading.options, [] if "step_rewards" in row else ["rewards of single steps"]
    env_id, policy = row.get("env_id") or options.env_id, row.get("policy") or options.policy
    if not isinstance(env_id, str) or not env_id:
        raise BadField("the environment is not named. Give it with --env-id, such as icto/WebShop-v0")
    task_id = name_task(row, reading)
    score = _score(row, reading)
    steps = tuple(
        replace(step, reward=reward, valid=valid)
        for step, reward, valid in zip(
            episode.steps, _step_rewards(row, len(episode.steps), score, options),
            _per_step(row, "step_valid", _is_flag, [step.valid for step in episode.steps]), strict=True,
        )
    )  # fmt: skip
    number = reading.attempts[task_id]
    reading.attempts[task_id] += 1
    final = row.get("final_observation", episode.final_observation)
    unknown += ["final observation"] if final is None else []
    unknown += [name for name in ("terminated", "truncated", "seed") if name not in row]
    facts = {
        "trajectory_id": row.get("trajectory_id") or f"{task_id}@{policy}#{number}", "env_id": env_id,
        "task_id": task_id, "system_prompt": episode.system_prompt, "instruction": episode.instruction,
        "steps": [], "final_observation": final or "", "score": score, "success": _success(row, score),
        "terminated": row.get("terminated", True), "truncated": row.get("truncated", False), "policy": policy,
        "seed": row.get("seed", 0), "error": row.get("error"), "extra": _kept(row, episode, unknown, reading),
    }  # fmt: skip
    try:
        return replace(Trajectory.from_dict(facts), steps=steps)
    except DataError as error:
        raise BadField(str(error)) from error


def _score(row: Mapping[str, Any], reading: Reading) -> float:
    """``score`` as it stands, or a ``reward`` by its scale, or what the options say."""
    options, meta = reading.options, row.get("meta")
    value, name, scale = row.get("score"), "score", 1.0
    if value is None:
        value, name, scale = row.get("reward"), "reward", options.reward_scale
    if value is None and isinstance(meta, Mapping):  # what ETO's own rollouts leave
        value, name = meta.get("reward"), "meta.reward"
    if value is None:
        if options.score is None:
            raise BadField(
                "there is neither score nor reward. Say what such records are worth with --score, from 0 to 1"
            )
        reading.notes["scores given by --score"] += 1
        return options.score
    if not is_number(value):
        raise BadField(f"field {name} is {value!r:.40}, expected a number")
    score = float(value) / scale
    if score < 0:
        reading.notes["negative rewards, counted as 0"] += 1
        score = 0.0
    if score > 1:
        raise BadField(f"field {name} is {value!r:.40}, more than 1. Give the highest reward with --reward-scale")
    return score


def _success(row: Mapping[str, Any], score: float) -> bool:
    """As the record says (true, false, 1, 0), else the full score: the rule of all three benchmarks."""
    success = row.get("success")
    if success is None:
        return score == 1.0
    if success not in (0, 1):
        raise BadField(f"field success is {success!r:.40}, expected true or false")
    return bool(success)


def _step_rewards(row: Mapping[str, Any], steps: int, score: float, options: ImportOptions) -> list[float]:
    """As the record says, on the scale of its reward; where it is silent the whole score stands at the last step."""
    if row.get("step_rewards") is None:
        return [0.0] * (steps - 1) + [score]
    scale = options.reward_scale if row.get("score") is None else 1.0  # beside a score they are on its scale already
    return [float(value) / scale for value in _per_step(row, "step_rewards", is_number, [0.0] * steps)]


def _per_step(row: Mapping[str, Any], name: str, fits: Callable[[Any], bool], default: list[Any]) -> list[Any]:
    """A column with one entry per step."""
    values = row.get(name)
    if values is None:
        return default
    if not isinstance(values, list) or len(values) != len(default) or not all(map(fits, values)):
        raise BadField(f"field {name} is {values!r:.60}, expected {len(default)} entries, one per response")
    return values


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _kept(row: Mapping[str, Any], episode: Episode, unknown: list[str], reading: Reading) -> dict[str, Any] | None:
    """The record's own extra, its further fields, and the names of what nobody said."""
    extra = dict(_extra(row) or {})
    imported: dict[str, Any] = {}
    known = {*_KNOWN, *_CONVERSATION, *(["id"] if "trajectory_id" in row else [])}  # our own rows: id is the task's
    further = {key: value for key, value in row.items() if key not in known and value is not None}
    if further:
        imported["record"] = further
    if episode.acknowledgement != ACKNOWLEDGEMENT:
        imported["acknowledgement"] = episode.acknowledgement
    if unknown:
        imported["unknown"] = unknown
        for name in unknown:
            reading.notes[f"unknown: {name}"] += 1
    if imported:
        extra["imported"] = imported
    try:
        json.dumps(extra, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise BadField(f"a further field of the record is no JSON value ({error})") from error
    return extra if imported or _extra(row) is not None else None


def _labels(row: Mapping[str, Any], trajectory: Trajectory, reading: Reading) -> None:
    if reading.format_name == "trl-unpaired":
        label = row.get("label")
        if not isinstance(label, bool):
            raise BadField(f"field label is {label!r:.40}, expected true or false")
        reading.beside["verdicts"] = Verdict(
            trajectory.trajectory_id, label, 1.0 if label else WORTH_CONTRASTING, "label: of the imported record",
            "imported",
        )  # fmt: skip
    if reading.format_name == "trl-stepwise":
        labels = row.get("labels")
        good = isinstance(labels, list) and len(labels) == len(trajectory.steps)
        if not good or not all(isinstance(label, bool) for label in labels or ()):
            raise BadField(f"field labels is {labels!r:.60}, expected true or false for each of the completions")
        reading.beside["step_rewards"] = StepRewards(
            trajectory.trajectory_id, tuple(float(label) for label in labels or ()), "imported labels"
        )
