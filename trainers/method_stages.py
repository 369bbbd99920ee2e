"""Stages that single methods bring along: contrasting instructions, PPO, markers, best of N.

Like all stages they go from file to file, are skipped when complete, and continue where they were cut off.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from icto_gym.errors import DataError
from icto_gym.files import write_json
from icto_gym.store import TrajectoryStore
from icto_gym.trajectory import Trajectory
from trainers.diagnostics import SAMPLED, TOKENS
from trainers.evaluation.evaluate import chosen_manifest, circumstances, decoding, play_all
from trainers.evaluation.metrics import Scoring
from trainers.evaluation.result import Result, make_rows, numbers_of
from trainers.feedback.outcome import is_malformed
from trainers.markers import KEY, Marker, MarkerConfig, start_markers
from trainers.pairing.prompt import (
    NOTE,
    PromptContrast,
    PromptPairingConfig,
    label_agreement,
    questions,
    trajectory_pairs,
    turn_pairs,
    unusable,
)
from trainers.playing_on import played
from trainers.policies.base import derive_seed
from trainers.policies.players import Player, recipe_beside, weights_digest
from trainers.policies.prompted import PromptedPolicy, Shown, answer_twice
from trainers.records import append_record, read_records, write_records
from trainers.rollout import RolloutConfig
from trainers.runs import Run
from trainers.sampling import Job, configured_example
from trainers.stage_facts import pairing_facts, play_facts, stage_name, training_facts
from trainers.stages import Start, Watch, read_all, read_pairs, train_stage, watching
from trainers.training.config import PPOConfig, RewardConfig


# ---- contrasting instructions -------------------------------------------------------------------
def sample_turns(
    run: Run, out: Path, trajectories: Path, player: Player, config: PromptPairingConfig, environment: RolloutConfig
) -> Path:
    """Answer the turns of episodes under either instruction, into ``out`` (`PromptContrast` records)."""
    shown = Shown(environment.window, configured_example(environment))

    def work() -> dict[str, Any]:
        episodes = read_all([trajectories])
        asked = questions(episodes, config)
        done = {(item.trajectory_id, item.step) for item in _contrasts(out)}
        left = [item for item in asked if (item.trajectory.trajectory_id, item.step) not in done]
        if left:
            for contrast in answer_twice(player.load(), left, config, shown):
                append_record(out, contrast)  # type: ignore[arg-type]
        found = {(item.trajectory_id, item.step): item for item in _contrasts(out)}
        kept = [found[item.trajectory.trajectory_id, item.step] for item in asked]
        write_records(out, kept)
        tokens = {name: sum(getattr(item, name) for item in kept) for name in TOKENS}
        again, broken = sum(item.asked_again for item in kept), sum(item.error is not None for item in episodes)
        return {"turns": len(asked), "broken": broken, "asked_again": again, **tokens}

    inputs = {"trajectories": trajectories, **player.inputs, "config": config, "shown": shown}
    run.stage(stage_name(run, out), work, inputs=inputs, outputs=[out])
    return out


def _contrasts(path: Path) -> list[PromptContrast]:
    return read_records(path, PromptContrast) if path.exists() else []


def pair_turns(
    run: Run, out: Path, trajectories: Path, contrasts: Path, player: Player, config: PromptPairingConfig,
    environment: RolloutConfig,
) -> Path:  # fmt: skip
    """Pairs of responses, and how often their label agrees with how the episode ends (played on greedily)."""
    ends = out.with_name("agreement.jsonl")

    def work() -> dict[str, Any]:
        episodes, found = read_all([trajectories]), read_records(contrasts, PromptContrast)
        result = turn_pairs(episodes, found)
        write_records(out, result.pairs)
        jobs = _agreement_jobs(episodes, found, config)
        ended = played(player, environment, jobs, ends)
        sides = zip(ended[::2], ended[1::2], strict=True)
        whole = [(one, other) for one, other in sides if one.error is None and other.error is None]
        agreement = label_agreement((one.score, other.score) for one, other in whole)
        tokens = {name: play_facts(ended)[name] for name in TOKENS}
        facts = {**pairing_facts(result), "note": NOTE}
        return {**facts, "played_on": len(jobs) // 2, "label_agreement": agreement, **tokens}

    inputs = {
        "trajectories": trajectories, "contrasts": contrasts, **player.inputs, "config": config,
        "environment": environment,
    }  # fmt: skip
    run.stage(stage_name(run, out), work, inputs=inputs, outputs=[out, ends])
    return out


def _agreement_jobs(
    episodes: Sequence[Trajectory], contrasts: Sequence[PromptContrast], config: PromptPairingConfig
) -> list[Job]:
    """Two greedy episodes per drawn pair: on from the positive response, on from the negative one."""
    known = {item.trajectory_id: item for item in episodes}
    usables = [item for item in contrasts if not unusable(item)]
    drawn = random.Random(config.seed).sample(usables, min(config.agreement_pairs, len(usables)))
    jobs, taken = [], defaultdict[str, int](int)
    for item in drawn:
        trajectory = known[item.trajectory_id]
        history = tuple(step.response for step in trajectory.steps[: item.step])
        for response in (item.positive, item.negative):
            number = taken[trajectory.task_id]
            taken[trajectory.task_id] += 1
            seed = derive_seed(config.seed, "agreement", trajectory.task_id, number)
            jobs.append(Job(trajectory.task_id, number, seed, prefix=(*history, response)))
    return jobs


def explore_prompted(
    run: Run, out: Path, player: Player, config: PromptPairingConfig, environment: RolloutConfig, side: int
) -> Path:
    """Play whole episodes under the positive (side 0) or negative (1) instruction; it is not recorded in them."""

    def work() -> dict[str, Any]:
        manifest = chosen_manifest(environment)
        policy = PromptedPolicy(player.load(), config, side)
        return play_facts(play_all(policy, environment, manifest, out))

    inputs = {**player.inputs, "config": config, "environment": environment, "side": side}
    run.stage(stage_name(run, out), work, inputs=inputs, outputs=[out])
    return out


def pair_trajectories(run: Run, out: Path, positive: Path, negative: Path) -> Path:
    """Pairs of whole episodes, labelled by instruction, and how often the label agrees with the outcome."""

    def work() -> dict[str, Any]:
        sides = read_all([positive]), read_all([negative])
        result = trajectory_pairs(*sides)
        write_records(out, result.pairs)
        scores = {item.trajectory_id: item.score for item in [*sides[0], *sides[1]]}
        agreement = label_agreement((scores[pair.chosen_id], scores[pair.rejected_id]) for pair in result.pairs)
        return {**pairing_facts(result), "note": NOTE, "label_agreement": agreement}

    run.stage(stage_name(run, out), work, inputs={"positive": positive, "negative": negative}, outputs=[out])
    return out


# ---- PPO against a reward model -----------------------------------------------------------------
def train_preference_reward(run: Run, out: Path, pairs: Path, start: Start, config: RewardConfig) -> Path:
    """Fit a reward model to preferences (Bradley-Terry); returns its checkpoint folder."""

    def work() -> dict[str, Any]:
        from trainers.training.preference_reward import train_preference_reward as train

        train(read_pairs(pairs), start, config, out, log=run.metric_logger(stage_name(run, out)))
        return training_facts(run, out)

    return train_stage(run, out, work, {"pairs": pairs, "start": start, "config": config})


def train_ppo(
    run: Run, out: Path, pairs: Path, reward: Path, start: Start, config: PPOConfig, watch: Watch | None = None
) -> Path:
    """Raise a reward model's reward of own answers to the prompts of pairs; returns the checkpoint folder."""

    def work() -> dict[str, Any]:
        from trainers.training.ppo import train_ppo as train

        prompts = [pair.prompt for pair in read_pairs(pairs)]
        with watching(run, out, watch, start, start_markers(start)) as watched:
            train(prompts, reward, start, config, out, **watched)
        return {**training_facts(run, out), **_sampled_tokens(run, out)}

    inputs = {"pairs": pairs, "reward": reward, "start": start, "config": config, "watch": watch}
    return train_stage(run, out, work, inputs)


def _sampled_tokens(run: Run, out: Path) -> dict[str, int]:
    """Tokens read and written by the policy while it sampled, by the log, which holds each step's line once.

    The process cannot tell: what it resumed from was sampled by another one.
    """
    lines = [line for line in run.metrics() if line.get("stage") == stage_name(run, out)]
    return {name: sum(int(line.get(f"{when}/{name}", 0)) for line in lines for when in SAMPLED) for name in TOKENS}


# ---- markers ------------------------------------------------------------------------------------
def mark(
    run: Run, out: Path, demonstrations: Path, explored: Path, markers: MarkerConfig, *, negatives_per_positive: float,
    positives: int | None, seed: int,
) -> Path:  # fmt: skip
    """Demonstrations and a draw of the policy's failures, each with the marker of its class.

    Demonstrations are the positives: where there are two classes, good and bad, theirs is the good one whatever they
    scored. Episodes with a response that cannot be parsed are left out, of either kind.
    """

    def work() -> dict[str, Any]:
        shown = list(TrajectoryStore(demonstrations))
        good = [item for item in shown if _parses(item)][:positives]
        found = [item for item in TrajectoryStore(explored) if markers.of(item.score) != markers.best]
        parsed = [item for item in found if _parses(item)]
        count = min(len(parsed), round(negatives_per_positive * len(good)))
        drawn = random.Random(seed).sample(parsed, count)
        theirs = markers.best if len(markers.markers) == 2 else None
        marked = [*(_marked(item, theirs or markers.of(item.score)) for item in good),
                  *(_marked(item, markers.of(item.score)) for item in drawn)]  # fmt: skip
        if not marked:
            raise DataError(f"{demonstrations} holds nothing to imitate.")
        texts = [(item.extra or {})[KEY]["text"] for item in marked]
        classes = {text: texts.count(text) for text in markers.markers}
        if not classes[markers.best.text]:
            raise DataError(
                f"No episode is of the class {markers.best.text!r:.60}, which acting asks for; the best demonstration "
                f"scores {max((item.score for item in good), default=0.0):g}. Give better ones, or lower the first of "
                f"markers.cuts, {markers.cuts[0]:g}."
            )
        write_records(out, marked)
        return {
            "positives": len(good), "negatives": count, "failures": len(found), "malformed": len(found) - len(parsed),
            "broken": sum(item.error is not None for item in found), "classes": classes,
            "malformed demonstrations": sum(not _parses(item) for item in shown),
        }  # fmt: skip

    inputs = {
        "demonstrations": demonstrations, "explored": explored, "markers": markers,
        "negatives_per_positive": negatives_per_positive, "positives": positives, "seed": seed,
    }  # fmt: skip
    run.stage(stage_name(run, out), work, inputs=inputs, outputs=[out])
    return out


def _parses(trajectory: Trajectory) -> bool:
    """Whole, with steps, and a command in every response."""
    return trajectory.error is None and bool(trajectory.steps) and not any(map(is_malformed, trajectory.steps))


def _marked(trajectory: Trajectory, marker: Marker) -> Trajectory:
    extra = {**(trajectory.extra or {}), KEY: {"text": marker.text, "place": marker.place}}
    return replace(trajectory, extra=extra)


# ---- best of N ----------------------------------------------------------------------------------
def best_of(run: Run, out: Path, player: Player, config: RolloutConfig, *, label: str) -> Path:
    """Play every task ``config.attempts`` times and keep the best: an upper bound, for it looks at the true reward.

    ``out`` (a folder) gets ``attempts.jsonl`` (all), ``trajectories.jsonl`` (the best of each) and ``metrics.json``,
    where a task has one row: its best attempt, numbered 0 for the one seed that those of all attempts come from.
    """

    def work() -> dict[str, Any]:
        manifest, policy = chosen_manifest(config), player.load()
        played = play_all(policy, config, manifest, out / "attempts.jsonl")
        best = _best(played)
        write_records(out / "trajectories.jsonl", best)
        rows = tuple(replace(row, number=0) for row in make_rows(best, Scoring()))
        note = f"upper bound: the best of {config.attempts} attempts by the true reward, which no agent sees"
        how = {**decoding(policy, config, config.temperature), "best_of": config.attempts, "note": note}
        recipe = recipe_beside(player.recipe, player.source, run.folder, out) | {"digest": weights_digest(player)}
        result = Result(
            label=label, episodes=rows, metrics=numbers_of(rows, seed=config.seed)[0], seeds=(config.seed,),
            decoding=how, recipe=recipe, **circumstances(policy, config, manifest, played),
        )  # fmt: skip
        write_json(out / "metrics.json", result.to_json())
        return play_facts(played)

    names = ("attempts.jsonl", "trajectories.jsonl", "metrics.json")
    inputs = {**player.inputs, "config": config, "label": label}
    run.stage(stage_name(run, out), work, inputs=inputs, outputs=[out / name for name in names])
    return out / "metrics.json"


def _best(played: Sequence[Trajectory]) -> list[Trajectory]:
    """The attempt at each task with the highest score, of equals the first."""
    best: dict[str, Trajectory] = {}
    for item in played:
        if item.task_id not in best or item.score > best[item.task_id].score:
            best[item.task_id] = item
    return list(best.values())
