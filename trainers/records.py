"""What the stages after play hand to each other, and how it is written: one JSON object per line."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar, cast

from icto_gym.dialogue import Message
from icto_gym.errors import DataError
from icto_gym.files import atomic_open
from icto_gym.store import TrajectoryStore, whole_lines
from icto_gym.trajectory import Trajectory, other_kind

Granularity = Literal["trajectory", "step"]
GRANULARITIES: tuple[Granularity, ...] = ("trajectory", "step")


WORTH_CONTRASTING = 0.01
"""Least quality of an episode that may stand on the rejected side, however bad it is: 0 would leave it out."""


_JUDGING = ("prompt_tokens", "response_tokens")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one judge decided about one trajectory."""

    trajectory_id: str
    accepted: bool
    """May be imitated: usable as the chosen side of a pair or as a demonstration."""
    score: float
    """Quality in [0, 1]; 0: nothing to learn from, not even as a failure."""
    reason: str
    """Why, in words; never empty."""
    judge: str
    """Who decided."""
    prompt_tokens: int = 0
    """Read by a judge that is a language model, over all its asks; 0: it reads none, or does not count."""
    response_tokens: int = 0
    """Written by it."""

    def __post_init__(self) -> None:
        _check_text(self, "trajectory_id", "reason", "judge")
        _check_counts(self, *_JUDGING)
        if not isinstance(self.accepted, bool):
            raise DataError(f"field accepted is {self.accepted!r:.80}, expected true or false")
        _check_number("score", self.score)
        if not 0.0 <= self.score <= 1.0:
            raise DataError(f"field score is {self.score!r}, expected a number from 0 to 1")

    def to_json(self) -> str:
        """One line of JSON; tokens where there are any."""
        return _dump({name: value for name, value in asdict(self).items() if name not in _JUDGING or value})

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> Verdict:
        """Check a decoded line and build the verdict."""
        return cls(**_known_fields(cls, record, optional=_JUDGING))


@dataclass(frozen=True, slots=True)
class StepRewards:
    """One reward per step of one trajectory, in units of score."""

    trajectory_id: str
    rewards: tuple[float, ...]
    source: str
    """Where they come from: ``"recorded"``, ``"return-to-go"``, ``"learned:increment"``, ..."""

    def __post_init__(self) -> None:
        _check_text(self, "trajectory_id", "source")
        object.__setattr__(self, "rewards", _numbers("rewards", self.rewards))

    def check(self, trajectory: Trajectory) -> StepRewards:
        """Return self if it belongs to `trajectory` and has one reward per step.

        Raises:
            DataError: naming both ids or both lengths.
        """
        if self.trajectory_id != trajectory.trajectory_id:
            raise DataError(f"step rewards of {self.trajectory_id!r} do not belong to {trajectory.trajectory_id!r}.")
        if len(self.rewards) != len(trajectory.steps):
            raise DataError(
                f"{self.trajectory_id!r} has {len(trajectory.steps)} steps and {len(self.rewards)} step rewards "
                f"({self.source}). Score the steps of this very trajectory again."
            )
        return self

    def to_json(self) -> str:
        """One line of JSON."""
        return _dump(asdict(self))

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> StepRewards:
        """Check a decoded line and build the step rewards."""
        return cls(**_known_fields(cls, record))


@dataclass(frozen=True, slots=True)
class Likelihoods:
    """How likely one policy finds the responses of one trajectory; log-probabilities in nats, at most one per step.

    A conversation that the model cannot read to its end has fewer numbers than steps.
    """

    trajectory_id: str
    policy: str
    """Who rated: a training folder of the run such as ``iteration-01/dpo``, or ``base``."""
    weights: str
    """Digest of its weights or of the model's settings: numbers of other weights are not these."""
    content: str
    """Digest of the trajectory that was read."""
    responses: tuple[float, ...]
    """Sum over all tokens of each response, as the losses see it."""
    commands: tuple[float, ...]
    """Sum over the tokens of its command alone, given the thought before it."""

    def __post_init__(self) -> None:
        _check_text(self, "trajectory_id", "policy", "weights", "content")
        for name in ("responses", "commands"):
            object.__setattr__(self, name, _numbers(name, getattr(self, name)))
        if len(self.responses) != len(self.commands):
            raise DataError(f"field responses has {len(self.responses)} entries and commands {len(self.commands)}")

    def to_json(self) -> str:
        """One line of JSON."""
        return _dump(asdict(self))

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> Likelihoods:
        """Check a decoded line and build the likelihoods."""
        return cls(**_known_fields(cls, record))


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """Two continuations of one conversation, of which one is preferred.

    ``prompt`` ends with a user message and is not trained; ``chosen`` and ``rejected`` alternate from
    an assistant message to an assistant message, the user messages between them being observations.
    """

    task_id: str
    prompt: tuple[Message, ...]
    chosen: tuple[Message, ...]
    rejected: tuple[Message, ...]
    margin: float
    """Score of the chosen episode minus score of the rejected one, > 0."""
    granularity: Granularity
    """``"trajectory"``: one contrast over all messages; ``"step"``: message t against message t."""
    chosen_id: str
    rejected_id: str
    step_weights: tuple[float, ...] = ()
    """The weight ``max(R_t, 0)`` of each pair of assistant messages; may be absent for ``"trajectory"``."""

    def __post_init__(self) -> None:
        _check_text(self, "task_id", "chosen_id", "rejected_id")
        for name in ("prompt", "chosen", "rejected"):
            object.__setattr__(self, name, _messages(name, getattr(self, name)))
        object.__setattr__(self, "step_weights", _numbers("step_weights", self.step_weights))
        _check_number("margin", self.margin)
        self._check_shape()

    def _check_shape(self) -> None:
        if self.granularity not in GRANULARITIES:
            raise DataError(f"field granularity is {self.granularity!r}, expected one of {', '.join(GRANULARITIES)}")
        if self.margin <= 0:
            raise DataError(f"field margin is {self.margin!r}, expected a number above 0")
        if not self.prompt or self.prompt[-1].role != "user":
            raise DataError("field prompt does not end with a user message")
        for name in ("chosen", "rejected"):
            roles = [message.role for message in getattr(self, name)]
            if not roles or len(roles) % 2 == 0 or roles != ["assistant", "user"] * (len(roles) // 2) + ["assistant"]:
                raise DataError(f"field {name} has the roles {roles!r:.120}, expected assistant, user, ..., assistant")
        if self.chosen == self.rejected:
            raise DataError("chosen and rejected are the same text, so the pair teaches nothing")
        needed = self.granularity == "step" or self.step_weights
        if needed and len(self.step_weights) != self.paired_steps:
            raise DataError(
                f"field step_weights has {len(self.step_weights)} entries, expected {self.paired_steps}, "
                "one per pair of assistant messages"
            )
        if min(self.step_weights, default=0.0) < 0:
            raise DataError(
                f"field step_weights holds {min(self.step_weights)!r}; a weight below 0 would prefer the rejected "
                "side, without bound"
            )

    @property
    def paired_steps(self) -> int:
        """How many assistant messages stand on both sides."""
        return (min(len(self.chosen), len(self.rejected)) + 1) // 2

    def to_json(self) -> str:
        """One line of JSON; messages as ``{"role", "content"}``, the form of chat templates."""
        record: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        for name in ("prompt", "chosen", "rejected"):
            record[name] = [message.as_dict() for message in record[name]]
        return _dump(record)

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> PreferencePair:
        """Check a decoded line and build the pair."""
        return cls(**_known_fields(cls, record, optional=("step_weights",)))


class Record(Protocol):
    """Anything that is written as one line of JSON and read back from it."""

    def to_json(self) -> str: ...

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> Any: ...


R = TypeVar("R", bound=Record)


def read_records(path: str | os.PathLike[str], cls: type[R]) -> list[R]:
    """Read all records of one kind from a file of JSON lines.

    A torn last line (the writer died within it) is skipped and reported.

    Raises:
        DataError: naming file, line and field of a line that is whole but wrong.
        FileNotFoundError: there is no such file.
    """
    found: list[R] = []
    with open(path, "rb") as handle:
        for number, line in whole_lines(handle, path):
            try:
                found.append(_decode(line, cls))
            except DataError as error:
                raise DataError(f"{path} line {number}: {error}.") from error
    return found


def read_episodes(path: str | os.PathLike[str]) -> list[Trajectory]:
    """Read a file of trajectories whose ids and scores others go by.

    Raises:
        DataError: as `TrajectoryStore`; also where an id stands twice, or a score is outside of 0 to 1.
    """
    episodes, seen = list(TrajectoryStore(path)), set[str]()
    for item in episodes:
        if item.trajectory_id in seen:
            raise DataError(f"{path} holds {item.trajectory_id!r} more than once. Remove the copies.")
        if not -1e-9 <= item.score <= 1 + 1e-9:
            raise DataError(
                f"{path}: the score of {item.trajectory_id!r} is {item.score:g}, outside of 0 to 1. Divide by the "
                "highest score there is."
            )
        seen.add(item.trajectory_id)
    return episodes


def append_record(path: str | os.PathLike[str], item: Record) -> None:
    """Add one record to a file, synced to disk before returning; a torn last line is set aside."""
    # The store writes anything that has `to_json`; its care for torn lines and full disks is wanted here too.
    TrajectoryStore(path).append(cast(Trajectory, item))


def write_records(path: str | os.PathLike[str], items: Iterable[Record]) -> Path:
    """Write a whole file of records; it appears under its name only when it is complete."""
    with atomic_open(path) as handle:
        for item in items:
            handle.write(item.to_json() + "\n")
    return Path(path)


def _decode(line: bytes, cls: type[R]) -> R:
    try:
        record = json.loads(line.decode("utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"not valid JSON ({error})") from error
    if not isinstance(record, dict):
        raise DataError(f"record is {type(record).__name__}, expected an object")
    return cast(R, cls.from_dict(record))


def _dump(record: dict[str, Any]) -> str:
    """ASCII only, so that any text survives, lone surrogates too."""
    return json.dumps(record, ensure_ascii=True, sort_keys=True, allow_nan=False)


def _known_fields(cls: type, record: dict[str, Any], optional: Sequence[str] = ()) -> dict[str, Any]:
    known = [field.name for field in fields(cls)]
    for name in record:
        if name not in known:
            raise DataError(f"field {name!s:.80} is unknown{other_kind(record, cls.__name__)}")
    for name in known:
        if name not in record and name not in optional:
            raise DataError(f"field {name} is missing")
    return record


def _check_text(record: Any, *names: str) -> None:
    for name in names:
        value = getattr(record, name)
        if not isinstance(value, str) or not value:
            raise DataError(f"field {name} is {value!r:.80}, expected a text that is not empty")


def _check_number(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise DataError(f"field {name} is {value!r:.80}, expected a finite number")


def _check_counts(record: Any, *names: str) -> None:
    for name in names:
        value = getattr(record, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise DataError(f"field {name} is {value!r:.80}, expected a whole number from 0")


def _numbers(name: str, values: Any) -> tuple[float, ...]:
    if not isinstance(values, (list, tuple)):
        raise DataError(f"field {name} is {values!r:.80}, expected a list of numbers")
    for position, value in enumerate(values):
        _check_number(f"{name}[{position}]", value)
    return tuple(float(value) for value in values)


def _messages(name: str, values: Any) -> tuple[Message, ...]:
    if not isinstance(values, (list, tuple)):
        raise DataError(f"field {name} is {values!r:.80}, expected a list of messages")
    return tuple(_message(f"{name}[{position}]", value) for position, value in enumerate(values))


def _message(where: str, value: Any) -> Message:
    if isinstance(value, dict):
        if set(value) != {"role", "content"}:
            raise DataError(f"field {where} has the keys {sorted(value)!r:.80}, expected role and content")
        value = (value["role"], value["content"])
    if not isinstance(value, (list, tuple)) or len(value) != 2 or not all(isinstance(part, str) for part in value):
        raise DataError(f"field {where} is {value!r:.80}, expected a role and a text")
    if value[0] not in ("user", "assistant", "system"):
        raise DataError(f"field {where}.role is {value[0]!r:.80}, expected user or assistant")
    return Message(*value)


def prefix_steps(trajectory: Trajectory) -> int:
    """How many leading steps were given to the policy, not taken by it."""
    return int((trajectory.extra or {}).get("prefix_steps") or 0)


def random_steps(trajectory: Trajectory) -> tuple[int, ...]:
    """The steps, from 0, whose commands exploration drew at random in the policy's place."""
    return tuple((trajectory.extra or {}).get("random_steps") or ())


def steps_at_limit(trajectory: Trajectory, limit: str) -> tuple[int, ...]:
    """The steps, from 0, whose response was ``cut``, or whose conversation was ``shortened`` or had ``overflowed``.

    None where nobody noted it, as in records of before it was.
    """
    return tuple((trajectory.extra or {}).get(f"{limit}_steps") or ())


def retried_step(trajectory: Trajectory) -> int | None:
    """The step, from 0, from which an episode was taken up again; None for one that began at its beginning."""
    found = (trajectory.extra or {}).get("retried_step")
    return None if found is None else int(found)
