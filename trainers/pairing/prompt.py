"""Pairs by contrasting instructions: careful against careless (RLCD, Yang et al., 2023).

Nobody scores anything: the response under the positive instruction is chosen by construction. How often that label
agrees with the outcome is a diagnostic, not a filter.
"""

from __future__ import annotations

import json
import logging
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

from icto_gym.dialogue import Message, trajectory_messages
from icto_gym.errors import ConfigError, DataError, check_name
from icto_gym.trajectory import Trajectory
from icto_gym.wrappers.react import parse_response
from trainers.pairing.balance import describe_balance
from trainers.pairing.build import PairingResult
from trainers.pairing.trajectory import Unpaired, divergence
from trainers.pairing.whole import OPENING, usable, whole_pair
from trainers.records import PreferencePair, steps_at_limit

logger = logging.getLogger(__name__)

SENTENCES = (
    ("Work carefully: read each observation and finish the task.",
     "Work carelessly: ignore each observation and fail the task."),
    ("Choose only actions that are valid now and lead to the goal.",
     "Choose actions that are invalid now or lead away from the goal."),
    ("Check what you see against the goal before you act.",
     "Act without checking what you see against the goal."),
    ("Be an expert who completes the task in few steps.",
     "Be a beginner who makes mistakes and does not complete the task."),
)  # fmt: skip
"""Positive and negative instructions, in pairs of about the same length."""
NOTE = (
    "There is no authoritative version of RLCD for agents: the instructions, the unit and the objective are this "
    "project's choices."
)
"""Stands beside what pairing recorded."""


@dataclass(frozen=True)
class PromptPairingConfig:
    """How the two responses come about."""

    sentences: tuple[tuple[str, str], ...] = SENTENCES
    """At least four (positive, negative) instructions; one is drawn for each episode and added to how to act."""
    unit: Literal["turn", "trajectory"] = "turn"
    """What is contrasted: one response after a history that the policy played, or whole episodes under either prompt
    (they part after the first step and are noisier)."""
    temperature: float = 1.0
    """Sampling temperature of both sides."""
    max_turns: int | None = None
    """At most so many turns of one episode, drawn; None: all."""
    agreement_pairs: int = 32
    """For turns: so many pairs are played on to the end from either response, to see how often the label agrees with
    the outcome; 0: none."""
    seed: int = 0
    """Draws sentences and turns."""

    def __post_init__(self) -> None:
        check_name(self.unit, ("turn", "trajectory"), "pairing unit")
        if len(self.sentences) < 4 or not all(one.strip() and other.strip() for one, other in self.sentences):
            raise ConfigError(
                f"pairing sentences are {len(self.sentences)} pairs; give at least 4, none of them empty."
            )
        if (self.max_turns is not None and self.max_turns < 1) or self.agreement_pairs < 0 or self.temperature <= 0:
            raise ConfigError("pairing wants max_turns >= 1 or None, agreement_pairs >= 0 and a temperature above 0.")


@dataclass(frozen=True, slots=True)
class PromptContrast:
    """Two responses to one history, sampled under contrasting instructions."""

    trajectory_id: str
    step: int
    """The history is the episode's first so many steps."""
    sentence: int
    """Which pair of instructions."""
    positive: str
    negative: str
    prompt_tokens: int = 0
    """Read for all answers to either; 0 where the policy does not count, and in records of before tokens were kept."""
    response_tokens: int = 0
    """Written in all answers to either, usable or not."""
    positive_complete: bool = True
    """It says something, and ended before the longest length; so taken too in records of before this was noted."""
    negative_complete: bool = True
    asked_again: int = 0
    """So many further answers were sampled, since those before them were not complete."""

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> PromptContrast:
        """Build from a decoded line."""
        try:
            found = cls(**record)
        except TypeError as error:
            raise DataError(str(error)) from error
        kinds = (str, int, int, str, str, int, int, bool, bool, int)
        for name, kind in zip(cls.__slots__, kinds, strict=True):
            if type(getattr(found, name)) is not kind:
                raise DataError(f"field {name} is {getattr(found, name)!r:.80}, expected {kind.__name__}")
        return found


class Question(NamedTuple):
    """One history to be answered twice."""

    trajectory: Trajectory
    step: int
    sentence: int


def questions(trajectories: Iterable[Trajectory], config: PromptPairingConfig) -> list[Question]:
    """The turns to sample: one pair of instructions per episode, so that its history is read once per side.

    Broken episodes are left out.
    """
    found = []
    for trajectory in trajectories:
        if trajectory.error is not None:
            continue
        draw = random.Random(f"{config.seed} {trajectory.trajectory_id}")
        sentence, steps = draw.randrange(len(config.sentences)), list(range(len(trajectory.steps)))
        if config.max_turns is not None and len(steps) > config.max_turns:
            steps = sorted(draw.sample(steps, config.max_turns))
        found += [Question(trajectory, step, sentence) for step in steps]
    return found


def prompted(messages: Sequence[Message], sentence: str) -> list[Message]:
    """The conversation with one more sentence at the end of how to act."""
    first = messages[0]
    return [first._replace(content=f"{first.content}\n{sentence}"), *messages[1:]]


def turn_pairs(
    trajectories: Iterable[Trajectory], contrasts: Iterable[PromptContrast], expert_ids: Iterable[str] = ()
) -> PairingResult:
    """Pairs of single responses under the plain prompt; both must have ended and parse, and their commands must differ.

    Counts: ``pairs``, ``unfinished`` (empty, or cut at the longest length), ``malformed``, ``identical``.
    """
    episodes = {item.trajectory_id: item for item in trajectories}
    counts: Counter[str] = Counter(pairs=0)
    pairs = []
    for item in contrasts:
        reason = unusable(item)
        if reason:
            counts[reason] += 1
            continue
        pairs.append(_turn_pair(episodes[item.trajectory_id], item))
    counts["pairs"] = len(pairs)
    logger.info("paired turns under contrasting instructions: %s", dict(counts))
    return PairingResult(tuple(pairs), dict(sorted(counts.items())), describe_balance(pairs, expert_ids))


def unusable(item: PromptContrast) -> str:
    """Why two responses make no pair, or ``""``.

    One that was cut may hold a command, and a wrong one: half of what it was going to be. Training would end it there.
    """
    complete = item.positive_complete and item.negative_complete
    if not complete or not item.positive.strip() or not item.negative.strip():
        return "unfinished"
    positive, negative = parse_response(item.positive), parse_response(item.negative)
    if positive.problem or negative.problem:
        return "malformed"
    same = positive.action.strip().lower() == negative.action.strip().lower()
    return "identical" if same else ""


def _turn_pair(trajectory: Trajectory, item: PromptContrast) -> PreferencePair:
    name = f"{trajectory.trajectory_id}:{item.step}"
    return PreferencePair(
        task_id=trajectory.task_id,
        prompt=tuple(trajectory_messages(trajectory)[: OPENING + 2 * item.step]),
        chosen=(Message("assistant", item.positive.strip()),),
        rejected=(Message("assistant", item.negative.strip()),),
        margin=1.0,  # the label is all there is: no score stands behind it
        granularity="step",
        chosen_id=f"{name}+",
        rejected_id=f"{name}-",
        step_weights=(1.0,),
    )


def trajectory_pairs(positive: Iterable[Trajectory], negative: Iterable[Trajectory]) -> PairingResult:
    """Whole episodes of the same task and attempt, labelled by the instruction that they were played under.

    An episode with a response that is empty or was cut is no side of a pair (``unfinished``).
    """
    others = {_key(item): item for item in negative}
    counts: Counter[str] = Counter(pairs=0)
    pairs = []
    for chosen in positive:
        rejected = others.get(_key(chosen))
        reason = "broken" if rejected is None or chosen.error or rejected.error else _same(chosen, rejected)
        if reason or rejected is None:
            counts[reason] += 1
        else:
            pairs.append(whole_pair(chosen, rejected, 1.0))
    counts["pairs"] = len(pairs)
    return PairingResult(tuple(pairs), dict(sorted(counts.items())), describe_balance(pairs))


def _same(chosen: Trajectory, rejected: Trajectory) -> str:
    if _unfinished(chosen) or _unfinished(rejected):
        return "unfinished"
    try:
        divergence(chosen, rejected)
    except Unpaired as reason:
        if str(reason) != "nothing trainable":
            return str(reason)
    return "" if usable(chosen) and usable(rejected) else "nothing trainable"


def _unfinished(trajectory: Trajectory) -> bool:
    return bool(steps_at_limit(trajectory, "cut")) or not all(step.response.strip() for step in trajectory.steps)


def _key(trajectory: Trajectory) -> tuple[str, str]:
    return trajectory.task_id, trajectory.trajectory_id.rpartition("#")[2]


def label_agreement(outcomes: Iterable[tuple[float, float]]) -> dict[str, float | int | None]:
    """How often the chosen side ended better: shares over pairs of (chosen, rejected) outcomes."""
    found = list(outcomes)
    better = sum(chosen > rejected for chosen, rejected in found)
    worse = sum(chosen < rejected for chosen, rejected in found)
    return {
        "pairs": len(found),
        "agrees": better,
        "disagrees": worse,
        "ties": len(found) - better - worse,
        "agreement": round(better / (better + worse), 4) if better + worse else None,
    }
