"""What crosses the wall between environments and trainers: the record of one episode."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from icto_gym.errors import DataError

FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True)
class Step:
    """One action and what led to it."""

    observation: str
    """What the agent saw before acting."""
    response: str
    """Everything the policy wrote."""
    thought: str
    """The reasoning part of the response, ``""`` if none."""
    action: str
    """The command sent to the simulator."""
    reward: float
    """Change of score caused by this action."""
    valid: bool
    """The simulator understood the action."""


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One episode from reset to end."""

    trajectory_id: str
    """``"<task_id>@<policy>#<attempt>"``."""
    env_id: str
    task_id: str
    system_prompt: str
    """How to act: grammar and format. Training needs no benchmark because it stands here."""
    instruction: str
    """The goal in the benchmark's words."""
    steps: tuple[Step, ...]
    final_observation: str
    score: float
    """Final score in [0, 1]."""
    success: bool
    """The benchmark's own criterion."""
    terminated: bool
    """The task ended itself."""
    truncated: bool
    """A limit ended it."""
    policy: str
    """Who acted."""
    seed: int
    """Derived from run seed, task and attempt."""
    error: str | None = None
    """What broke the episode, if anything did."""
    extra: Mapping[str, Any] | None = None
    """Benchmark facts worth keeping (JSON values), such as the best score or sub-goals done."""
    format_version: int = FORMAT_VERSION

    @property
    def episode_return(self) -> float:
        """Sum of step rewards; equals `score` up to rounding."""
        return sum(step.reward for step in self.steps)

    @property
    def actions(self) -> tuple[str, ...]:
        """The commands, in order."""
        return tuple(step.action for step in self.steps)

    def to_json(self) -> str:
        """One line of JSON, ASCII only, so that any text survives (lone surrogates too)."""
        record = {**_values(self), "steps": [_values(step) for step in self.steps]}
        return json.dumps(record, ensure_ascii=True, sort_keys=True, allow_nan=False)

    @classmethod
    def from_json(cls, line: str) -> Trajectory:
        """Read what `to_json` wrote.

        Raises:
            DataError: naming the field that is missing, unknown or of the wrong type.
        """
        try:
            record = json.loads(line, parse_constant=_refuse)
        except (json.JSONDecodeError, RecursionError) as error:
            raise DataError(f"not valid JSON ({error})") from error
        return cls.from_dict(record)

    @classmethod
    def from_dict(cls, record: Any) -> Trajectory:
        """Check a decoded record field by field and build the trajectory (see `from_json`)."""
        values = _checked(cls, record, "")
        if values.get("format_version", FORMAT_VERSION) != FORMAT_VERSION:
            raise DataError(f"format_version is {values['format_version']!r}; this version reads {FORMAT_VERSION}")
        values["steps"] = tuple(
            Step(**_checked(Step, step, f"steps[{number}].")) for number, step in enumerate(values["steps"])
        )
        return cls(**values)


def _values(item: Step | Trajectory) -> dict[str, Any]:
    """The fields, not copied as `dataclasses.asdict` would: that takes twice the time, and a rollout writes many."""
    return {name: getattr(item, name) for name in item.__slots__}


_TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,), "float": (float, int), "bool": (bool,), "int": (int,),
    "str | None": (str, type(None)), "tuple[Step, ...]": (list, tuple),
    "Mapping[str, Any] | None": (dict, type(None)),
}  # fmt: skip


def _refuse(name: str) -> None:
    """NaN and infinities are no JSON and no reward; `to_json` never writes them."""
    raise DataError(f"not valid JSON ({name} is no number)")


_OPTIONAL = {"error", "extra", "format_version"}


def _checked(cls: type, record: Any, where: str) -> dict[str, Any]:
    if not isinstance(record, dict):
        raise DataError(f"{where or 'record'} is {type(record).__name__}, expected an object")
    known = {field.name: str(field.type) for field in fields(cls)}
    for name in record:
        if name not in known:
            raise DataError(f"field {where}{name!s:.80} is unknown{'' if where else other_kind(record, cls.__name__)}")
    for name, kind in known.items():
        if name not in record:
            if name in _OPTIONAL:
                continue
            raise DataError(f"field {where}{name} is missing")
        value, accepted = record[name], _TYPES[kind]
        if not isinstance(value, accepted) or (isinstance(value, bool) and bool not in accepted):
            raise DataError(f"field {where}{name} is {value!r:.80}, expected {kind}")
        if isinstance(value, float) and not math.isfinite(value):
            raise DataError(f"field {where}{name} is {value!r}, expected a finite number")
    return dict(record)


_KINDS = {
    "Trajectory": ("a trajectory", {"steps", "final_observation"}),
    "Verdict": ("a verdict", {"accepted", "judge"}),
    "StepRewards": ("step rewards", {"rewards", "source"}),
    "PreferencePair": ("a pair", {"chosen", "rejected", "prompt"}),
}
"""What JSON lines of this project hold, by what no other kind has."""


def other_kind(record: Mapping[str, Any], expected: str) -> str:
    """What a record that is not ``expected`` (a class) looks like, as the end of a message; "" if that is unknown."""
    wanted = _KINDS.get(expected, ("",))[0]
    for name, (kind, telling) in _KINDS.items():
        if name != expected and telling <= set(record):
            return f": this is {kind}" + (f", and {wanted} is expected" if wanted else "")
    if "conversations" in record or "messages" in record:
        return ": a conversation of another project becomes a trajectory with `icto import`"
    return ""
