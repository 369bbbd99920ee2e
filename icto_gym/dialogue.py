"""The one way a conversation is written, for acting and for training alike.

Layout of the ETO line of work (Song et al., 2024, and their successors): the instruction of the
benchmark, the literal reply ``OK``, optionally a worked example, the task with its first observation,
then responses and observations in turn.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from icto_gym.trajectory import Step, Trajectory

ACKNOWLEDGEMENT = "OK"
SEEN = "Observation:"
"""What every message begins with that tells what followed an action."""
OMITTED = f"{SEEN} [omitted]"


class Message(NamedTuple):
    """One chat message; ``role`` is ``"user"`` or ``"assistant"``."""

    role: str
    content: str

    def as_dict(self) -> dict[str, str]:
        """The form that chat templates and endpoints take."""
        return {"role": self.role, "content": self.content}


def task_message(instruction: str, first_observation: str) -> str:
    """The goal and what is seen first; the goal is not repeated where the observation shows it."""
    if instruction in first_observation:
        return first_observation.strip()
    return f"{instruction}\n{first_observation}".strip()


def observation_message(observation: str) -> str:
    """What the agent reads after an action."""
    return f"{SEEN} {observation}".strip()


def to_messages(
    system_prompt: str,
    instruction: str,
    steps: Sequence[Step],
    observation: str | None = None,
    *,
    example: Iterable[Message] = (),
    window: int | None = None,
) -> list[Message]:
    """Write an episode so far as chat messages.

    Args:
        system_prompt: how to act.
        instruction: the goal.
        steps: what has been done.
        observation: what is seen now; None leaves the conversation ending with the last response,
            as training wants it.
        example: messages of a worked example, shown when acting and never trained on.
        window: how many of the latest observations stay in full; older ones (never the first, which
            holds the task) become ``Observation: [omitted]``. None: all stay.
    """
    observations = [step.observation for step in steps] + ([] if observation is None else [observation])
    messages = [Message("user", system_prompt.strip()), Message("assistant", ACKNOWLEDGEMENT), *example]
    for number, text in enumerate(observations):
        if number == 0:
            content = task_message(instruction, text)
        elif window is not None and number < len(observations) - window:
            content = OMITTED
        else:
            content = observation_message(text)
        messages.append(Message("user", content))
        if number < len(steps):
            messages.append(Message("assistant", steps[number].response.strip()))
    return messages


def trajectory_messages(trajectory: Trajectory) -> list[Message]:
    """The conversation of a whole episode, ending with the agent's last response."""
    return to_messages(trajectory.system_prompt, trajectory.instruction, trajectory.steps)
