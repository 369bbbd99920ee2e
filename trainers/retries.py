"""Guided exploration: episodes are taken up again from a single step, with other words to begin with.

A sampled attempt and a success of the same task mostly part at an early choice, such as which product to open, and
seldom at the very step that was a mistake; and what would have been right there may be too unlikely to be sampled at
all. So at such a step the policy is asked again and again, each time with the next likeliest first word of its thought
(CoT-decoding: Wang and Zhou, 2024, arXiv 2402.10200), and every command that is new there is followed to the end. What
comes of it shares everything with the episode but this decision, so that a pair of the two teaches nothing else.
"""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

from icto_gym.dialogue import to_messages
from icto_gym.errors import ConfigError, DataError
from icto_gym.trajectory import Trajectory
from icto_gym.wrappers.react import parse_response
from trainers.config import at_least
from trainers.feedback.outcome import find_loop, is_malformed
from trainers.policies.base import Policy, Turn, Usage, ask, derive_seed
from trainers.policies.prompted import Shown
from trainers.records import prefix_steps, random_steps
from trainers.sampling import Job

TOGETHER = 4
"""Places that are answered together."""


@dataclass(frozen=True)
class RetryConfig:
    """How episodes are taken up again."""

    branches: int = 0
    """Responses asked for at each place, each with another first word; 0: nothing is taken up again. What comes of it
    is judged and paired as explored episodes are; `imitate_retries` imitates its successes as well."""
    others: float = 0.0
    """Besides all episodes that visibly went wrong, this share of the others, each from a step drawn at random: where
    the policy was right, its pairs say so, and what is learned at mistakes is not done everywhere."""

    def __post_init__(self) -> None:
        at_least("retries.branches", self.branches, 0)
        if not 0.0 <= self.others <= 1.0:
            raise ConfigError(f"retries.others is {self.others!r}; give a share from 0 to 1.")
        if self.others and not self.branches:
            raise ConfigError(
                f"retries.others is {self.others!r}, but retries.branches is 0, so nothing is taken up again. Give "
                "retries.branches, such as 8, or set retries.others to 0."
            )


class Place(NamedTuple):
    """A step of an episode that is taken up again."""

    trajectory: Trajectory
    step: int
    """Counted from 0."""

    @property
    def key(self) -> tuple[str, int]:
        """Names it among records."""
        return self.trajectory.trajectory_id, self.step


@dataclass(frozen=True, slots=True)
class Branches:
    """What a policy would say at one step, the likeliest first word first."""

    trajectory_id: str
    step: int
    """The history is the episode's first so many steps."""
    responses: tuple[str, ...]
    prompt_tokens: int
    """Read for all of them; 0 where the policy does not count."""
    response_tokens: int

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> Branches:
        """Build from a decoded line.

        Raises:
            DataError: naming the field that is missing, unknown or of the wrong type.
        """
        given = record.get("responses")
        if not isinstance(given, list) or not all(isinstance(text, str) for text in given):
            raise DataError(f"field responses is {given!r:.80}, expected a list of texts")
        try:
            found = cls(**{**record, "responses": tuple(given)})
        except TypeError as error:
            raise DataError(str(error)) from error
        for name, kind in zip(cls.__slots__, (str, int, tuple, int, int), strict=True):
            if type(getattr(found, name)) is not kind:
                raise DataError(f"field {name} is {getattr(found, name)!r:.80}, expected {kind.__name__}")
        return found


def went_wrong(trajectory: Trajectory) -> int | None:
    """The first step of an unsuccessful episode that its policy should have known better, counted from 0.

    That is the first response without a command, command that was not understood, or command of a loop that is given
    again; steps that the policy did not take itself do not count. None for successes, broken episodes, and those that
    fail by less visible mistakes.
    """
    if trajectory.success or trajectory.error is not None:
        return None
    loop = find_loop(trajectory)

    def wrong(t: int) -> bool:
        step = trajectory.steps[t]
        again = loop is not None and t > loop.first_step and step.action == loop.action
        return again or not step.valid or is_malformed(step)

    return next(filter(wrong, _own_steps(trajectory)), None)


def _own_steps(trajectory: Trajectory) -> list[int]:
    """Those that the policy took itself."""
    drawn = random_steps(trajectory)
    return [t for t in range(prefix_steps(trajectory), len(trajectory.steps)) if t not in drawn]


def choose_places(trajectories: Iterable[Trajectory], config: RetryConfig, seed: int) -> list[Place]:
    """Where to take up again; episodes of a task that gave the same commands up to there share one place.

    Steps that the policy did not take itself are no such places.
    """
    found: dict[tuple[str, tuple[str, ...]], Place] = {}
    for item in trajectories:
        step = went_wrong(item)
        draw = random.Random(derive_seed(seed, "retry", item.trajectory_id))
        if step is None and item.error is None and draw.random() < config.others:
            step = draw.choice(_own_steps(item) or [None])
        if step is not None:
            found.setdefault((item.task_id, item.actions[:step]), Place(item, step))
    return list(found.values())


def ask_branches(policy: Policy, places: Sequence[Place], count: int, shown: Shown) -> Iterator[Branches]:
    """The policy's responses at each place, the likeliest first word first.

    Raises:
        ConfigError: the policy cannot begin a response with another word.
    """
    if not getattr(policy, "branches", False):
        raise ConfigError(f"Policy {policy.name!r} cannot branch, so nothing is retried. Set retries.branches to 0.")
    for first in range(0, len(places), TOGETHER):
        group = places[first : first + TOGETHER]
        turns = [_turn(place, branch, shown) for place in group for branch in range(count)]
        answers = ask(policy, turns)
        for turn in turns:
            getattr(policy, "forget", lambda name: None)(turn.episode)
        for number, place in enumerate(group):
            own = answers[number * count : (number + 1) * count]
            usages = [answer.usage or Usage(0, 0) for answer in own]
            yield Branches(
                *place.key, tuple(answer.text for answer in own),
                prompt_tokens=sum(usage.prompt_tokens for usage in usages),
                response_tokens=sum(usage.response_tokens for usage in usages),
            )  # fmt: skip


def _turn(place: Place, branch: int, shown: Shown) -> Turn:
    item, step = place
    messages = to_messages(
        item.system_prompt, item.instruction, item.steps[:step], item.steps[step].observation,
        example=shown.example, window=shown.window,
    )  # fmt: skip
    info = {"task_id": item.task_id, "instruction": item.instruction}
    return Turn(messages, info, f"{item.trajectory_id}:{step}:{branch}", branch=branch)


def retry_jobs(
    places: Iterable[Place], branches: Iterable[Branches], explored: Iterable[Trajectory]
) -> list[tuple[Place, Job]]:
    """The episodes to play: each branch with a command that no episode gave at its place, then the likeliest response
    at every step. Of branches with one command the first counts.

    Args:
        places: where to take up again.
        branches: the responses there.
        explored: all episodes; attempts are numbered behind theirs.

    Returns:
        Jobs with their places. Each has the seed of the episode that it takes up, so that its environment draws alike.
    """
    given: dict[tuple[str, tuple[str, ...]], set[str]] = defaultdict(set)
    attempts: dict[str, int] = defaultdict(int)
    for item in explored:
        attempts[item.task_id] = max(attempts[item.task_id], _attempt(item) + 1)
        for step in range(len(item.steps)):
            given[item.task_id, item.actions[:step]].add(item.actions[step])
    responses = {(item.trajectory_id, item.step): item.responses for item in branches}
    jobs = []
    for place in places:
        item, task_id = place.trajectory, place.trajectory.task_id
        said = given[task_id, item.actions[: place.step]]
        for response in responses[place.key]:
            parsed = parse_response(response)
            if parsed.problem or parsed.action in said:
                continue
            said.add(parsed.action)
            prefix = (*(step.response for step in item.steps[: place.step]), response)
            jobs.append((place, Job(task_id, attempts[task_id], item.seed, prefix=prefix)))
            attempts[task_id] += 1
    return jobs


def _attempt(trajectory: Trajectory) -> int:
    number = trajectory.trajectory_id.rpartition("#")[2]
    return int(number) if number.isdecimal() else 0


def as_own(trajectory: Trajectory, place: Place) -> Trajectory:
    """A retry with all its steps to the policy's account, but for those that were not even in the episode it is of."""
    source, step = place
    facts = {
        "prefix_steps": prefix_steps(source),
        "random_steps": [number for number in random_steps(source) if number < step],
        "retried_step": step,
    }
    return replace(trajectory, extra={**(trajectory.extra or {}), **facts})
