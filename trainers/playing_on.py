"""Stages that play on from given steps of episodes: Monte-Carlo continuations, along the expert's path, retries.

Like all stages they go from file to file, are skipped when complete, and continue where they were cut off.
"""

from __future__ import annotations

import contextlib
import logging
import random
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

from tqdm import tqdm

from icto_gym.errors import BackendError
from icto_gym.store import TrajectoryStore
from icto_gym.trajectory import Trajectory
from trainers.diagnostics import TOKENS
from trainers.episodes import EnvPool, env_factory
from trainers.feedback import (
    MonteCarloConfig,
    MonteCarloStepRewards,
    continuation_jobs,
    jobs_behind,
    make_step_rewarder,
    score_all,
)
from trainers.pairing.along import AlongPairingConfig, compared_steps
from trainers.policies.base import Policy, derive_seed
from trainers.policies.players import Player
from trainers.policies.prompted import Shown
from trainers.records import StepRewards, append_record, read_records, write_records
from trainers.retries import Branches, Place, RetryConfig, as_own, ask_branches, choose_places, retry_jobs
from trainers.rollout import RolloutConfig, play_in_order
from trainers.runs import Run
from trainers.sampling import Job, configured_example
from trainers.stage_facts import play_facts, scoring_facts, stage_name
from trainers.stages import read_all

logger = logging.getLogger(__name__)


def retry(
    run: Run, out: Path, explored: Path, player: Player, config: RetryConfig, environment: RolloutConfig, seed: int
) -> Path:
    """Take episodes up again from where they went wrong; ``out`` gets the explored episodes and these behind them.

    Beside it stand ``branches.jsonl`` (what the policy would say instead) and ``retries.jsonl`` (what came of it).
    """
    branches, retries = out.with_name("branches.jsonl"), out.with_name("retries.jsonl")
    shown = Shown(environment.window, configured_example(environment))

    def work() -> dict[str, Any]:
        episodes, policy = list(TrajectoryStore(explored)), player.load()
        places = choose_places(episodes, config, seed)
        found = _branched(policy, places, config, shown, branches)
        planned = retry_jobs(places, found, episodes)
        planned = understood(environment, planned)
        again = [] if not planned else play_in_order(policy, environment, [job for _, job in planned], retries)
        again = [as_own(item, place) for item, (place, _) in zip(again, planned, strict=True)]
        write_records(retries, again)
        write_records(out, [*episodes, *again])
        asked = {name: sum(getattr(item, name) for item in found) for name in TOKENS}
        facts = play_facts(again)
        return {"places": len(places), **facts, **{name: facts[name] + asked[name] for name in TOKENS}}

    inputs = {
        "explored": explored, **player.inputs, "config": config, "environment": environment, "seed": seed,
        "shown": shown,
    }  # fmt: skip
    run.stage(stage_name(run, out), work, inputs=inputs, outputs=[out, retries, branches])
    return out


def _branched(policy: Policy, places: list[Place], config: RetryConfig, shown: Shown, out: Path) -> list[Branches]:
    """The responses at all places, in their order; those that the file holds are not asked for again."""
    from trainers.training.loop import bar_wanted  # which needs PyTorch

    done = {(item.trajectory_id, item.step) for item in read_records(out, Branches)} if out.exists() else set()
    left = [place for place in places if place.key not in done]
    logger.info("asks %s again at %d places, %d times each", policy.name, len(left), config.branches)
    bar = {"total": len(left), "desc": "places", "unit": "place", "disable": not bar_wanted(), "file": sys.stderr}
    for item in tqdm(ask_branches(policy, left, config.branches, shown), **bar):
        append_record(out, item)
    if not places:
        write_records(out, [])
    found = {(item.trajectory_id, item.step): item for item in read_records(out, Branches)}
    kept = [found[place.key] for place in places]
    write_records(out, kept)
    return kept


def understood(environment: RolloutConfig, planned: list[tuple[Place, Job]]) -> list[tuple[Place, Job]]:
    """The planned episodes whose branch the environment understands; no policy is asked.

    One in which it breaks is kept: playing it shows whether it breaks again, and records that.
    """
    kept = []
    with contextlib.closing(EnvPool(env_factory(environment, False), "retry")) as pool:
        for place, job in planned:
            env, info = pool.take(), {"error": "it did not begin"}
            with contextlib.suppress(BackendError):
                env.reset(seed=job.seed, options={"task_id": job.task_id})
                info = [env.step(response)[-1] for response in job.prefix][-1]
            broken = bool(info.get("error"))
            pool.give_back(env, sound=not broken)
            if broken or info["valid_action"]:
                kept.append((place, job))
    return kept


def continue_episodes(
    run: Run, out: Path, trajectories: Path, player: Player, config: MonteCarloConfig, environment: RolloutConfig,
    seed: int, known: Sequence[Path] = (),
) -> Path:  # fmt: skip
    """Play on from the steps of episodes, several times each, into ``out``, but for beginnings in ``known`` files."""

    def work() -> dict[str, Any]:
        jobs = continuation_jobs(TrajectoryStore(trajectories), config, seed, read_all(known))
        return play_facts(played(player, environment, jobs, out))

    inputs = {
        "trajectories": trajectories, **player.inputs, "config": config, "environment": environment, "seed": seed,
    }  # fmt: skip
    inputs |= {"known": known} if known else {}
    run.stage(stage_name(run, out), work, inputs=inputs, outputs=[out])
    return out


def continue_compared(
    run: Run, out: Path, trajectories: Path, demonstrations: Path, pairing: AlongPairingConfig, player: Player,
    config: MonteCarloConfig, environment: RolloutConfig, seed: int, known: Sequence[Path] = (),
) -> Path:  # fmt: skip
    """Play on from the steps that contrasts along the expert's path compare, but for beginnings in ``known`` files."""

    def work() -> dict[str, Any]:
        expert = TrajectoryStore(demonstrations)
        steps = compared_steps(TrajectoryStore(trajectories), pairing, expert=expert)
        jobs = jobs_behind(steps, config, seed, read_all(known))
        return {"compared": len(steps), **play_facts(played(player, environment, jobs, out))}

    inputs = {
        "trajectories": trajectories, "demonstrations": demonstrations, "pairing": pairing, **player.inputs,
        "config": config, "environment": environment, "seed": seed, "known": known,
    }  # fmt: skip
    run.stage(stage_name(run, out), work, inputs=inputs, outputs=[out])
    return out


def explore_along(
    run: Run, out: Path, demonstrations: Path, player: Player, environment: RolloutConfig, seed: int,
    starts_per_task: int | None = None,
) -> Path:  # fmt: skip
    """From every step of every demonstration let the policy act to the end (IPR, section 3.1)."""

    def work() -> dict[str, Any]:
        jobs = along_jobs(TrajectoryStore(demonstrations), environment, seed, starts_per_task)
        return play_facts(played(player, environment, jobs, out))

    inputs = {
        "demonstrations": demonstrations, **player.inputs, "environment": environment, "seed": seed,
        "starts": starts_per_task,
    }  # fmt: skip
    run.stage(stage_name(run, out), work, inputs=inputs, outputs=[out])
    return out


def along_jobs(
    demonstrations: Iterable[Trajectory], config: RolloutConfig, seed: int, starts_per_task: int | None = None
) -> list[Job]:
    """One episode per task and step t: the expert's first t - 1 responses, then the policy.

    The first start (t = 1) is always among the ``starts_per_task`` that are kept; the others are drawn. Of several
    demonstrations of a task the first is followed, as pairing does.
    """
    jobs, followed = [], dict[str, Trajectory]()
    for demonstration in demonstrations:
        followed.setdefault(demonstration.task_id, demonstration)
    for task_id, demonstration in followed.items():
        responses = tuple(step.response for step in demonstration.steps)
        later = list(range(1, len(responses)))
        if starts_per_task is not None:
            later = sorted(random.Random(f"{seed} {task_id}").sample(later, min(starts_per_task - 1, len(later))))
        for start in [0, *later]:
            own = derive_seed(seed, task_id, start)
            jobs.append(Job(task_id, start, own, config.temperature, prefix=responses[:start]))
    return jobs


def value_steps(run: Run, out: Path, trajectories: Sequence[Path], continuations: Sequence[Path]) -> Path:
    """Write the value of every step, as the continuations say it (IPR compares values, not increments)."""

    def work() -> dict[str, Any]:
        found = score_all(MonteCarloStepRewards(read_all(continuations), "value"), read_all(trajectories))
        write_records(out, found)
        return {"trajectories": len(found), "steps": sum(len(item.rewards) for item in found)}

    run.stage(
        stage_name(run, out), work, inputs={"trajectories": trajectories, "continuations": continuations}, outputs=[out]
    )
    return out


def predict_values(run: Run, out: Path, trajectories: Sequence[Path], model: Path) -> Path:
    """Write the value of every step, as a reward model predicts it."""

    def work() -> dict[str, Any]:
        rewarder = make_step_rewarder("learned", model)
        found = [running_sums(item) for item in score_all(rewarder, read_all(trajectories))]
        write_records(out, found)
        return scoring_facts(rewarder, found)

    run.stage(stage_name(run, out), work, inputs={"trajectories": trajectories, "model": model}, outputs=[out])
    return out


def running_sums(increments: StepRewards) -> StepRewards:
    """Step rewards that are increments of a value, as that value."""
    return replace(increments, rewards=tuple(accumulate(increments.rewards)), source=f"{increments.source}:value")


def played(player: Player, environment: RolloutConfig, jobs: list[Job], out: Path) -> list[Trajectory]:
    if not jobs:
        write_records(out, [])
        return []
    return play_in_order(player.load(), environment, jobs, out)
