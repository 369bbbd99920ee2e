"""Markers in the task text: how NAT tells a model which episodes are good, and asks it for the good kind.

The marker goes into the message that states the task, never into the instructions or the agent's own turns. A
checkpoint trained with markers keeps them in its record, so that whoever loads it as a policy asks for the best class,
and so does whatever is trained from it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from icto_gym.dialogue import SEEN, Message, trajectory_messages
from icto_gym.errors import ConfigError, DataError, check_name
from icto_gym.trajectory import Trajectory
from trainers.models.config import ModelConfig

KEY = "marker"
"""Under this name a trajectory's ``extra`` holds the marker that it is trained with."""
_FIRST = 2
"""The first message that can state the task: before it are the instructions and their acknowledgement."""


@dataclass(frozen=True)
class Marker:
    """A text in front of or behind the task."""

    text: str
    place: Literal["prefix", "suffix"] = "suffix"

    def apply(self, messages: Sequence[Message], instruction: str) -> list[Message]:
        """The conversation with the marker in the message that states ``instruction``.

        Raises:
            DataError: no message states it.
        """
        stating = [
            number
            for number, message in enumerate(messages)
            if number >= _FIRST and message.role == "user" and instruction.strip() in message.content
        ]
        # what is seen later may repeat the task; a worked example before it may be of the same task
        tasks = [number for number in stating if not messages[number].content.startswith(SEEN)] or stating[:1]
        if tasks:
            place = tasks[-1]
            return [*messages[:place], self._marked(messages[place]), *messages[place + 1 :]]
        raise DataError(
            f"No message states the task {instruction!r:.80}, so the marker {self.text!r:.40} has no place in it."
        )

    def apply_to_prompt(self, prompt: Sequence[Message]) -> list[Message]:
        """The prompt of a pair, which does not say its instruction, with the marker in the message behind the opening.

        Raises:
            DataError: it does not begin with the instructions, their acknowledgement and a task.
        """
        if [message.role for message in prompt[: _FIRST + 1]] != ["user", "assistant", "user"]:
            raise DataError(
                f"The model was trained with markers, and a prompt with the roles {[m.role for m in prompt]!r:.80} has "
                f"no place for {self.text!r:.40}. Give prompts that begin with instructions, OK and the task."
            )
        return [*prompt[:_FIRST], self._marked(prompt[_FIRST]), *prompt[_FIRST + 1 :]]

    def _marked(self, message: Message) -> Message:
        parts = (self.text, message.content) if self.place == "prefix" else (message.content, self.text)
        return message._replace(content=" ".join(part.strip() for part in parts))


@dataclass(frozen=True)
class MarkerConfig:
    """Classes of episodes by score, best first, and the marker of each (Wang et al., 2024)."""

    place: Literal["prefix", "suffix"] = "prefix"
    """Where the marker stands in the task's message."""
    cuts: tuple[float, ...] = (1.0, 0.4, 0.0)
    """Lowest score of each class but the last; 0 means any score above 0."""
    markers: tuple[str, ...] = ("[Correct]", "[Mostly Correct]", "[Mostly Incorrect]", "[Totally Incorrect]")
    """One per class. The defaults are the four classes of the released model; see the preset ``nat-two-classes``."""

    def __post_init__(self) -> None:
        check_name(self.place, ("prefix", "suffix"), "markers.place")
        if len(self.markers) != len(self.cuts) + 1 or len(set(self.markers)) < len(self.markers):
            raise ConfigError(
                f"{len(self.cuts)} cuts make {len(self.cuts) + 1} classes, each with a marker of its own; got "
                f"{list(self.markers)!r}."
            )
        if not all(marker.strip() for marker in self.markers):
            raise ConfigError(f"Every class needs a text as marker; got {list(self.markers)!r}.")
        if list(self.cuts) != sorted(set(self.cuts), reverse=True) or not all(0 <= cut <= 1 for cut in self.cuts):
            raise ConfigError(f"cuts are scores in [0, 1] that fall from class to class; got {list(self.cuts)!r}.")

    @property
    def best(self) -> Marker:
        """What is asked for when acting."""
        return Marker(self.markers[0], self.place)

    def of(self, score: float) -> Marker:
        """The marker of an episode's class."""
        for cut, text in zip(self.cuts, self.markers, strict=False):
            if score > 0 if cut == 0 else score >= cut - 1e-9:
                return Marker(text, self.place)
        return Marker(self.markers[-1], self.place)

    def to_dict(self) -> dict[str, Any]:
        """JSON values, for checkpoints."""
        return asdict(self)


def recorded_markers(checkpoint: Mapping[str, Any]) -> MarkerConfig | None:
    """The markers in a checkpoint's record, or None.

    Raises:
        DataError: they are there and cannot be read.
    """
    found = checkpoint.get("markers")
    if found is None:
        return None
    try:
        return MarkerConfig(str(found["place"]), tuple(found["cuts"]), tuple(found["markers"]))  # type: ignore[arg-type]
    except (KeyError, TypeError, ConfigError) as error:
        raise DataError(f"The checkpoint's markers {found!r:.120} cannot be read: {error}.") from error


def start_markers(start: ModelConfig | str | os.PathLike[str]) -> MarkerConfig | None:
    """The markers that a model was trained with, as its checkpoint says; None of any other model.

    Raises:
        DataError: the checkpoint's record cannot be read.
    """
    from trainers.models.loading import CHECKPOINT_FILE, read_checkpoint

    folder = Path(start.name if isinstance(start, ModelConfig) else start)
    return recorded_markers(read_checkpoint(folder)) if (folder / CHECKPOINT_FILE).exists() else None


def check_markers(trajectories: Iterable[Trajectory], markers: MarkerConfig | None) -> None:
    """Refuse episodes with markers where the checkpoint would not remember which one to ask for.

    Raises:
        DataError: naming the first.
    """
    for item in trajectories:
        if markers is None and (found := (item.extra or {}).get(KEY)):
            raise DataError(
                f"{item.trajectory_id!r} carries the marker {found.get('text')!r:.40}, and no markers are known that "
                "the checkpoint could keep. Train with `icto run nat`, start from a checkpoint that it made, or call "
                "`trainers.training.sft.train_sft` with markers."
            )


def training_messages(trajectory: Trajectory, otherwise: Marker | None = None) -> list[Message]:
    """The conversation of an episode as it is trained: with its marker, or with ``otherwise`` if it has none."""
    messages, found = trajectory_messages(trajectory), (trajectory.extra or {}).get(KEY)
    marker = Marker(found["text"], found["place"]) if found else otherwise
    return messages if marker is None else marker.apply(messages, trajectory.instruction)
