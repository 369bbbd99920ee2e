"""The judge by rules: deterministic, and every verdict says which rule decided."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from icto_gym.errors import ConfigError
from icto_gym.trajectory import Step, Trajectory
from icto_gym.wrappers.react import parse_response
from trainers.records import WORTH_CONTRASTING, Verdict


@dataclass(frozen=True)
class RuleConfig:
    """What the judge by rules asks for; each rule can be switched off."""

    min_parse_rate: float = 0.9
    """Share of responses with a command in them, below which an episode is malformed. 0: off."""
    max_invalid_share: float = 0.5
    """Share of commands that were not understood, above which an episode is of low quality. 1: off."""
    loop_repeats: int = 3
    """The same command with the same observation this many times is a loop. 0: off."""
    reject_truncated: bool = True
    """An episode that a limit ended without success is incomplete."""
    reject_duplicates: bool = True
    """Of the episodes of one task with the same commands only the first is kept (needs the whole set)."""

    def __post_init__(self) -> None:
        for name in ("min_parse_rate", "max_invalid_share"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"judge {name} is {getattr(self, name)!r}; give a share from 0 to 1.")
        if self.loop_repeats == 1 or self.loop_repeats < 0:
            raise ConfigError(f"judge loop_repeats is {self.loop_repeats!r}; give 2 or more, or 0 to switch it off.")


class Loop(NamedTuple):
    """A command that kept being answered the same way."""

    action: str
    times: int
    valid: bool
    """The simulator understood it: it may have been waiting."""
    first_step: int
    """Index of its first occurrence."""


def find_loop(trajectory: Trajectory, repeats: int = 3) -> Loop | None:
    """The most repeated command that gave the same observation at least ``repeats`` times, or None.

    The occurrences need not follow one another: going back and forth is a loop as well. In an episode
    that succeeded, repeating a command that was understood is not one, since it may have been waiting.
    """
    if repeats < 2 or not trajectory.steps:
        return None
    after = [step.observation for step in trajectory.steps[1:]] + [trajectory.final_observation]
    seen = Counter((step.action, text) for step, text in zip(trajectory.steps, after, strict=True))
    for (action, text), times in seen.most_common():
        if times < repeats:
            return None
        where = [t for t, step in enumerate(trajectory.steps) if (step.action, after[t]) == (action, text)]
        valid = all(trajectory.steps[t].valid for t in where)
        if not (valid and trajectory.success):
            return Loop(action, times, valid, where[0])
    return None


def is_malformed(step: Step) -> bool:
    """The response has no command in the form asked for."""
    return bool(parse_response(step.response).problem)


def parse_rate(trajectory: Trajectory) -> float:
    """Share of responses with a command in them; 1.0 for an episode without steps."""
    if not trajectory.steps:
        return 1.0
    return 1.0 - sum(is_malformed(step) for step in trajectory.steps) / len(trajectory.steps)


class RuleJudge:
    """Accepts whole, well-formed episodes that do not go in circles, each only once.

    ``accepted`` means fit to be imitated; success is not asked for, since pairing does that. The score
    is the share of steps that are well-formed and understood; 0 for episodes that teach nothing on
    either side of a pair (broken, empty, or a duplicate).
    """

    def __init__(self, config: RuleConfig | None = None) -> None:
        self.config = config or RuleConfig()
        self.name = "rules"

    def judge(self, trajectory: Trajectory) -> Verdict:
        """Judge one trajectory by all rules but the one on duplicates."""
        worthless = self._worthless(trajectory)
        if worthless:
            return Verdict(trajectory.trajectory_id, False, 0.0, worthless, self.name)
        good = sum(step.valid and not is_malformed(step) for step in trajectory.steps)
        score = max(good / len(trajectory.steps), WORTH_CONTRASTING)
        objection = self._objection(trajectory)
        reason = objection or f"well-formed, {len(trajectory.steps)} steps, score {trajectory.score:g}"
        return Verdict(trajectory.trajectory_id, not objection, score, reason, self.name)

    def judge_all(self, trajectories: Iterable[Trajectory]) -> list[Verdict]:
        """Judge a set, in order; of the episodes of a task with the same commands one is kept.

        That is the one most of whose steps are the policy's own (not drawn at random, not the expert's
        prefix), of equals the first.
        """
        everything = list(trajectories)
        verdicts = [self.judge(trajectory) for trajectory in everything]
        if not self.config.reject_duplicates:
            return verdicts
        kept: dict[tuple[str, tuple[str, ...]], int] = {}
        for position, trajectory in enumerate(everything):
            best = kept.get((trajectory.task_id, trajectory.actions))
            usable = verdicts[position].score > 0
            if usable and (best is None or _foreign_steps(trajectory) < _foreign_steps(everything[best])):
                kept[trajectory.task_id, trajectory.actions] = position
        for position, trajectory in enumerate(everything):
            best = kept.get((trajectory.task_id, trajectory.actions))
            if best not in (None, position) and verdicts[position].score > 0:
                reason = f"duplicate: the same commands as {everything[best].trajectory_id}"  # type: ignore[index]
                verdicts[position] = Verdict(trajectory.trajectory_id, False, 0.0, reason, self.name)
        return verdicts

    def _worthless(self, trajectory: Trajectory) -> str:
        if trajectory.error is not None:
            return f"broken: {trajectory.error:.200}"
        if not trajectory.steps:
            return "empty: no step was taken"
        if not any(step.response.strip() for step in trajectory.steps):
            return "empty: nothing was written in any step"
        return ""

    def _objection(self, trajectory: Trajectory) -> str:
        """The first rule that speaks against imitating this episode, in words, or ``""``."""
        config, steps = self.config, len(trajectory.steps)
        malformed = sum(is_malformed(step) for step in trajectory.steps)
        if 1.0 - malformed / steps < config.min_parse_rate:
            return f"malformed: {malformed} of {steps} responses have no command"
        loop = find_loop(trajectory, config.loop_repeats)
        if loop is not None:
            return f"loop: {loop.action!r:.80} gave the same observation {loop.times} times"
        invalid = sum(not step.valid for step in trajectory.steps)
        if invalid / steps > config.max_invalid_share:
            return f"low quality: {invalid} of {steps} commands were not understood"
        cut = trajectory.truncated and not trajectory.terminated  # a purchase at the last step is both
        if config.reject_truncated and cut and not trajectory.success:
            return f"truncated: the limit of steps was reached after {steps} without success"
        return ""


def _foreign_steps(trajectory: Trajectory) -> int:
    """Steps that exploration put in the policy's place: random commands, and a prefix by the expert."""
    extra = trajectory.extra or {}
    return len(extra.get("random_steps") or ()) + int(extra.get("prefix_steps") or 0)
