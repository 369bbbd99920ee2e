"""From judged episodes to preference pairs: who is set against whom, and what falls out why."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from icto_gym.errors import DataError
from icto_gym.trajectory import Trajectory
from trainers.pairing.balance import Balance, describe_balance, limit_expert_share, limit_lead, limit_one_sided
from trainers.pairing.config import PairingConfig
from trainers.pairing.step import step_pair, step_weights
from trainers.pairing.trajectory import Contrast, Unpaired, contrast, trajectory_pair
from trainers.records import PreferencePair, StepRewards, Verdict, retried_step

logger = logging.getLogger(__name__)
_ROUNDING = 1e-9
"""Scores are sums; those this close are equal."""


@dataclass(frozen=True)
class PairingResult:
    """The pairs, and the account of everything that did not become one."""

    pairs: tuple[PreferencePair, ...]
    counts: dict[str, int] = field(default_factory=dict)
    """Tasks: ``tasks``, ``tasks paired``, ``ties``, ``without a success``, ``without a failure``,
    ``without a usable contrast`` (they add up). Episodes: ``broken``, ``not to be chosen``,
    ``not to be rejected``. Contrasts: ``identical``, ``different start``, ``nothing trainable``,
    ``random steps on the chosen side``, ``parts elsewhere than at a retry``, ``a random step decides``,
    ``the expert's steps on the rejected side``, ``over the limit per task``. Pairs: ``pairs``, ``own chosen``
    and ``expert chosen`` (whose episode is chosen; they add up), ``repeated``, ``one-sided``, ``led by one command``,
    ``too often the expert``, ``rewards as recorded``, ``deciding step without weight`` (step pairs
    whose lead of Eq. 2 begins only after the step at which the two sides part, as where rewards come at the end
    alone)."""
    balance: Balance | None = None
    """What the pairs teach."""

    @property
    def words(self) -> str:
        """The line for the log, such as "paired 412 tasks: 380 pairs, 21 ties, 11 without a success"."""
        parts = [f"{self.counts['pairs']} pairs"]
        for name in ("ties", "without a success", "without a failure", "without a usable contrast"):
            if self.counts.get(name):
                parts.append(f"{self.counts[name]} {name}")
        for name in ("one-sided", "led by one command", "too often the expert", "over the limit per task"):
            if self.counts.get(name):
                parts.append(f"{self.counts[name]} left out as {name}")
        return f"paired {self.counts['tasks']} tasks: {', '.join(parts)}"


def build_pairs(
    trajectories: Iterable[Trajectory],
    verdicts: Iterable[Verdict] | None = None,
    step_rewards: Iterable[StepRewards] | None = None,
    config: PairingConfig | None = None,
    *,
    expert: Iterable[Trajectory] = (),
) -> PairingResult:
    """Set failures against successes of the same task.

    Args:
        trajectories: explored episodes.
        verdicts: of all of them, by one or more judges (all must accept); None: everything is accepted.
        step_rewards: for step pairs; an episode without an entry is taken with the rewards the
            environment gave it (counted as ``rewards as recorded``).
        config: see `PairingConfig`.
        expert: demonstrations; each counts as a success of its task and needs no verdict.
    """
    return _Builder(config or PairingConfig(), verdicts, step_rewards, expert).build(trajectories)


class _Builder:
    def __init__(
        self,
        config: PairingConfig,
        verdicts: Iterable[Verdict] | None,
        step_rewards: Iterable[StepRewards] | None,
        expert: Iterable[Trajectory],
    ) -> None:
        self.config = config
        self.verdicts: dict[str, list[Verdict]] | None = None
        if verdicts is not None:
            self.verdicts = defaultdict(list)
            for verdict in verdicts:
                self.verdicts[verdict.trajectory_id].append(verdict)
        self.rewards = None if step_rewards is None else {item.trajectory_id: item for item in step_rewards}
        self.experts: dict[str, list[Trajectory]] = defaultdict(list)
        for demonstration in expert:
            self.experts[demonstration.task_id].append(demonstration)
        self.expert_ids = {item.trajectory_id for found in self.experts.values() for item in found}
        self.counts: Counter[str] = Counter()

    def build(self, trajectories: Iterable[Trajectory]) -> PairingResult:
        tasks: dict[str, list[Trajectory]] = defaultdict(list)
        for trajectory in trajectories:
            if trajectory.trajectory_id not in self.expert_ids:
                tasks[trajectory.task_id].append(trajectory)
        pairs: dict[tuple[object, ...], PreferencePair] = {}
        for task_id in tasks:
            for pair in self._pairs_of_task(task_id, tasks[task_id]):
                key = (pair.prompt, pair.chosen, pair.rejected, pair.granularity)
                self.counts["repeated"] += key in pairs
                pairs.setdefault(key, pair)
        return self._result(len(tasks), self._limited(list(pairs.values())))

    def _result(self, tasks: int, pairs: list[PreferencePair]) -> PairingResult:
        self.counts.update(tasks=tasks, pairs=len(pairs))
        self.counts["expert chosen"] = sum(pair.chosen_id in self.expert_ids for pair in pairs)
        self.counts["own chosen"] = len(pairs) - self.counts["expert chosen"]
        result = PairingResult(
            tuple(pairs), dict(sorted(self.counts.items())), describe_balance(pairs, self.expert_ids)
        )
        logger.info("%s", result.words)
        late = self.counts["deciding step without weight"]
        if late:
            logger.warning(
                "%d step pairs give the step at which their sides part no weight: the rewards come later. Learned step "
                "rewards, or pairing.step_horizon 1, would train it.", late,
            )  # fmt: skip
        return result

    def _limited(self, pairs: list[PreferencePair]) -> list[PreferencePair]:
        """The pairs within all limits; what is left out for one may break another, so all are asked again."""
        config, left, before = self.config, pairs, None
        given, balanced = None, None
        while left != before:
            before = left
            kept = limit_expert_share(left, self.expert_ids, config.max_expert_share, config.seed)
            given = len(kept) if given is None else given
            one_way = limit_one_sided(kept, config.max_one_sided_share, config.seed, of=given)
            balanced = len(one_way) if balanced is None else balanced
            left = limit_lead(one_way, config.max_command_lead, config.seed, of=balanced)
            self.counts["too often the expert"] += len(before) - len(kept)
            self.counts["one-sided"] += len(kept) - len(one_way)
            self.counts["led by one command"] += len(one_way) - len(left)
        return left

    def _pairs_of_task(self, task_id: str, own: list[Trajectory]) -> list[PreferencePair]:
        """The pairs of one task; its outcome is counted under exactly one name."""
        whole = [trajectory for trajectory in own if trajectory.error is None]
        self.counts["broken"] += len(own) - len(whole)
        successes, failures = self._successes(task_id, whole), self._failures(task_id, whole)
        made: list[PreferencePair] = []
        if not successes:
            outcome = "without a success"
        elif not failures:
            outcome = "without a failure"
        elif not any(self._gap(good, bad) for good in successes for bad in failures):
            outcome = "ties"
        else:
            made = [pair for found in self._choose(successes, failures) for pair in self._pairs(found)]
            outcome = "tasks paired" if made else "without a usable contrast"
        self.counts[outcome] += 1
        return made

    def _successes(self, task_id: str, own: list[Trajectory]) -> list[Trajectory]:
        found = [item for item in own if self.config.use_own_success and self._reaches(item)]
        accepted = [item for item in found if all(verdict.accepted for verdict in self._verdicts(item))]
        self.counts["not to be chosen"] += len(found) - len(accepted)
        if self.config.use_expert:
            accepted += self.experts[task_id]  # whatever its score: the margin decides what it is set against
        return accepted

    def _failures(self, task_id: str, own: list[Trajectory]) -> list[Trajectory]:
        threshold, needed = self.config.success_threshold, self.config.rejected_verdict
        found = [item for item in own if threshold is None or not self._reaches(item)]
        if needed == "accepted":
            usable = [item for item in found if all(verdict.accepted for verdict in self._verdicts(item))]
        elif needed == "usable":
            usable = [item for item in found if all(verdict.score > 0 for verdict in self._verdicts(item))]
        else:
            usable = found
        self.counts["not to be rejected"] += len(found) - len(usable)
        if threshold is None and self.config.use_expert:
            usable = usable + self.experts[task_id]
        return usable

    def _verdicts(self, trajectory: Trajectory) -> Sequence[Verdict]:
        if self.verdicts is None:
            return ()
        found = self.verdicts.get(trajectory.trajectory_id)
        if not found:
            raise DataError(
                f"There is no verdict on {trajectory.trajectory_id!r}. Judge the trajectories again, "
                "or leave the verdicts out to accept all of them."
            )
        return found

    def _reaches(self, trajectory: Trajectory) -> bool:
        threshold = self.config.success_threshold
        return threshold is None or trajectory.score >= threshold - _ROUNDING

    def _gap(self, good: Trajectory, bad: Trajectory) -> bool:
        return good.score - bad.score >= self.config.min_margin - _ROUNDING

    def _choose(self, successes: list[Trajectory], failures: list[Trajectory]) -> list[Contrast]:
        """Give each failure its best success, then its second best, until a limit is reached."""
        options = {bad.trajectory_id: self._options(successes, bad) for bad in failures}
        used: Counter[str] = Counter()
        found: list[Contrast] = []
        for _ in range(self.config.max_pairs_per_failure):
            for bad in failures:
                candidates = options[bad.trajectory_id]
                if candidates:
                    best = min(candidates, key=lambda option: self._rank(option, used))
                    candidates.remove(best)
                    used[best.chosen.trajectory_id] += 1
                    found.append(best)
        found = self._distinct(found)
        if self.config.closest_first:
            found.sort(key=lambda option: -option.start)
        self.counts["over the limit per task"] += max(0, len(found) - self.config.max_pairs_per_task)
        return found[: self.config.max_pairs_per_task]

    def _distinct(self, found: list[Contrast]) -> list[Contrast]:
        """Contrasts that read alike as they would be cut count once, before the limit per task is reached."""
        kept: dict[object, Contrast] = {}
        rejected_steps = self.config.max_rejected_steps if self.config.granularity == "trajectory" else None
        for option in found:
            try:
                texts = option.prompt(), *option.cut(self.config.max_extra_steps, rejected_steps)
            except Unpaired:
                kept[id(option)] = option  # making the pair will count it
            else:
                kept.setdefault(texts, option)
        self.counts["repeated"] += len(found) - len(kept)
        return list(kept.values())

    def _options(self, successes: list[Trajectory], bad: Trajectory) -> list[Contrast]:
        options = []
        for good in successes:
            if not self._gap(good, bad):
                continue
            try:
                found = contrast(good, bad, train_random_steps=self.config.train_random_steps)
            except Unpaired as reason:
                self.counts[str(reason)] += 1
                continue
            if self.config.retries_only and found.start not in (retried_step(good), retried_step(bad)):
                self.counts["parts elsewhere than at a retry"] += 1
                continue
            options.append(found)
        return options

    def _rank(self, option: Contrast, used: Counter[str]) -> tuple[object, ...]:
        """Own successes first (or last), then those least used, then the closest, then the shortest."""
        chosen = option.chosen
        by_expert = chosen.trajectory_id in self.expert_ids
        last = by_expert if self.config.prefer_own_success else not by_expert
        if self.config.closest_first:
            return (last, -option.start, -chosen.score, used[chosen.trajectory_id], chosen.trajectory_id)
        return (last, used[chosen.trajectory_id], -option.start, len(chosen.steps), chosen.trajectory_id)

    def _pairs(self, found: Contrast) -> list[PreferencePair]:
        made = []
        kinds = ("trajectory", "step") if self.config.granularity == "mixed" else (self.config.granularity,)
        for kind in kinds:
            try:
                made.append(self._pair(found, kind))
            except Unpaired as reason:
                self.counts[str(reason)] += 1
        return made

    def _pair(self, found: Contrast, kind: str) -> PreferencePair:
        config, success, failure = self.config, self._rewards(found.chosen), self._rewards(found.rejected)
        if kind == "trajectory":
            weights = step_weights(found, success, failure, config.max_rejected_steps)
            return trajectory_pair(found, config.max_extra_steps, weights, config.max_rejected_steps)
        limits = [limit for limit in (config.step_horizon, config.max_rejected_steps) if limit is not None]
        pair = step_pair(found, success, failure, min(limits, default=None))
        self.counts["deciding step without weight"] += pair.step_weights[0] == 0
        return pair

    def _rewards(self, trajectory: Trajectory) -> tuple[float, ...]:
        if self.rewards is None:
            return tuple(step.reward for step in trajectory.steps)
        given = self.rewards.get(trajectory.trajectory_id)
        if given is None:
            self.counts["rewards as recorded"] += 1
            return tuple(step.reward for step in trajectory.steps)
        return given.check(trajectory).rewards
