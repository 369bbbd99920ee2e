"""Every stage as file -> function -> file: what the command line and the methods call.

Each function takes the run, where its output goes, its inputs and its config, and returns the output.
A stage that is complete is skipped, a half-done one continues (see `Run.stage`). Its name in records,
log and ``metrics.jsonl`` is the place of its output in the run folder.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from icto_gym.errors import DataError
from icto_gym.files import drop_drafts, write_json
from icto_gym.store import TrajectoryStore
from icto_gym.trajectory import Trajectory
from trainers import distributed
from trainers.evaluation.evaluate import Decoding, chosen_manifest, evaluate_policy, greedy
from trainers.evaluation.looks import begin_with, known_of
from trainers.evaluation.metrics import Scoring
from trainers.evaluation.watch import Watch
from trainers.feedback import (
    JudgeConfig,
    StepRewardConfig,
    judge_kept,
    make_judge,
    make_step_rewarder,
    reward_targets,
    score_all,
    worth_imitating,
)
from trainers.likelihoods import rate
from trainers.markers import MarkerConfig, start_markers
from trainers.pairing import Pairing, make_pairing
from trainers.policies.players import (
    ActingConfig,
    DemonstrationConfig,
    Player,
    Start,
    named_player,
    recipe_beside,
    weights_digest,
)
from trainers.policies.players import model_player as model_player
from trainers.records import (
    PreferencePair,
    StepRewards,
    Verdict,
    read_episodes,
    read_records,
    write_records,
)
from trainers.rollout import RolloutConfig, plan_jobs, play_in_order
from trainers.runs import Run
from trainers.stage_facts import (
    evaluation_facts,
    pairing_facts,
    play_facts,
    scoring_facts,
    stage_name,
    training_facts,
    verdict_facts,
)
from trainers.training.config import DPOConfig, RewardConfig, SFTConfig

__all__ = ["ActingConfig", "DemonstrationConfig", "Player", "Start", "Watch", "model_player", "named_player", "rate"]

logger = logging.getLogger(__name__)


# ---- play -------------------------------------------------------------------------------------
def explore(run: Run, out: Path, player: Player, config: RolloutConfig, *others: RolloutConfig) -> Path:
    """Play the configured episodes into ``out`` (trajectories), those of several environments in one rollout."""

    def work() -> dict[str, Any]:
        for one in (config, *others):
            chosen_manifest(one)
        jobs = plan_jobs([config, *others])
        return play_facts(play_in_order(player.load(), [config, *others], jobs, out))

    inputs = {**player.inputs, "config": [config, *others]}
    run.stage(stage_name(run, out), work, inputs=inputs, outputs=[out], adds=True)
    return out


def demonstrate(run: Run, out: Path, config: DemonstrationConfig, environment: RolloutConfig) -> Path:
    """Have the expert play training tasks (or read a file) and keep the successes in ``out``."""
    if config.file is None:
        played = replace(
            greedy(environment, config.split, config.max_tasks), attempts=config.attempts, optimal_actions=False
        )
        episodes = explore(
            run, out.parent / "demonstrations" / "trajectories.jsonl", named_player(config.policy), played
        )
    else:
        episodes = config.file

    def work() -> dict[str, Any]:
        everything = list(TrajectoryStore(episodes))
        whole = [item for item in everything if item.error is None]
        kept = [item for item in whole if item.score >= config.min_score - 1e-9]
        if not kept:
            raise DataError(
                f"None of {len(everything)} episodes in {episodes} reaches the score {config.min_score:g}, so there is "
                "nothing to imitate. Lower demonstrations.min_score or choose other tasks."
            )
        write_records(out, kept)
        left_out = {"broken": len(everything) - len(whole), "below the threshold": len(whole) - len(kept)}
        return {"episodes": len(everything), "kept": len(kept), **left_out}

    run.stage(stage_name(run, out), work, inputs={"episodes": episodes, "min_score": config.min_score}, outputs=[out])
    return out


def evaluate(
    run: Run,
    out: Path,
    player: Player,
    config: RolloutConfig,
    *,
    label: str,
    decode: Decoding | None = None,
    scoring: Scoring | None = None,
) -> Path:
    """Play a split, greedily unless ``decode`` says otherwise, into the folder ``out``."""
    asked = {"decode": decode, "scoring": scoring}

    def work() -> dict[str, Any]:
        recipe = recipe_beside(player.recipe, player.source, run.folder, out) | {"digest": weights_digest(player)}
        known = [] if decode else known_of(run, player, config)
        begin_with(known, out / "trajectories.jsonl")
        result = evaluate_policy(player.load, config, out, label=label, decode=decode, scoring=scoring, recipe=recipe)
        return {
            **{name: round(estimate["value"], 4) for name, estimate in result["metrics"].items()},
            **evaluation_facts(list(TrajectoryStore(out / "trajectories.jsonl")), known),
        }

    inputs = {**player.inputs, "config": config, "label": label}
    inputs |= {name: value for name, value in asked.items() if value is not None}
    outputs = [out / "trajectories.jsonl", out / "metrics.json"]
    run.stage(stage_name(run, out), work, inputs=inputs, outputs=outputs)
    return out / "metrics.json"


# ---- feedback ---------------------------------------------------------------------------------
def judge(run: Run, out: Path, trajectories: Path, config: JudgeConfig) -> Path:
    """Write a verdict on every trajectory; those that come one by one, or cost money, outlive a kill."""
    answered = out.with_name(f"{out.stem}.answered.jsonl")

    def work() -> dict[str, Any]:
        verdicts = judge_kept(make_judge(config), read_episodes(trajectories), answered)
        write_records(out, verdicts)
        return verdict_facts(verdicts)

    inputs = {"trajectories": trajectories, "config": config}
    run.stage(stage_name(run, out), work, inputs=inputs, outputs=[out], partial=[answered])
    distributed.on_first(lambda: answered.unlink(missing_ok=True))
    return out


def score_steps(
    run: Run,
    out: Path,
    trajectories: Sequence[Path],
    config: StepRewardConfig,
    model: Path | None = None,
    continuations: Sequence[Path] | None = None,
) -> Path:
    """Write one reward per step of every trajectory.

    ``model`` is the reward model where one predicts them; ``continuations`` are what was played on where they are
    sampled.
    """

    def work() -> dict[str, Any]:
        sampled = None if continuations is None else read_all(continuations)
        rewarder = make_step_rewarder(config, model, sampled)
        found = score_all(rewarder, read_all(trajectories))
        write_records(out, found)
        return scoring_facts(rewarder, found)

    inputs = {"trajectories": trajectories, "config": config, "model": model, "continuations": continuations}
    run.stage(stage_name(run, out), work, inputs=inputs, outputs=[out])
    return out


def pair(
    run: Run,
    out: Path,
    trajectories: Path,
    config: Any,
    *,
    build: Pairing | None = None,
    verdicts: Path | None = None,
    step_rewards: Path | None = None,
    demonstrations: Path | None = None,
) -> Path:
    """Set failures against successes of the same task; ``<out>`` may come out empty.

    ``build`` makes the pairs as `build_pairs` does; None: what the `PairingConfig` names.
    """

    def work() -> dict[str, Any]:
        result = (build or make_pairing(config))(
            read_episodes(trajectories),
            None if verdicts is None else read_records(verdicts, Verdict),
            None if step_rewards is None else read_records(step_rewards, StepRewards),
            config,
            expert=() if demonstrations is None else TrajectoryStore(demonstrations),
        )
        write_records(out, result.pairs)
        return pairing_facts(result)

    inputs = {
        "trajectories": trajectories, "verdicts": verdicts, "step_rewards": step_rewards,
        "demonstrations": demonstrations, "config": config,
    }  # fmt: skip
    run.stage(stage_name(run, out), work, inputs=inputs, outputs=[out])
    return out


def keep_successes(
    run: Run,
    out: Path,
    trajectories: Path,
    verdicts: Path | None,
    *,
    min_score: float | None = 1.0,
    also: Path | None = None,
    earlier: Sequence[Path] = (),
    best_margin: float | None = None,
) -> Path:
    """The policy's own accepted successes, each sequence of commands once, and the episodes of the file ``also``.

    A success has at least ``min_score``; None: at least the score of the task's episode in ``also``. Successes among
    the trajectories ``earlier`` count as well, and come first. ``best_margin``: see `worth_imitating`.
    """

    def work() -> dict[str, Any]:
        others = [] if also is None else list(TrajectoryStore(also))
        accepted = None if verdicts is None else _accepted(read_records(verdicts, Verdict))
        played = read_all([*earlier, trajectories])
        kept, counts = worth_imitating(played, others, min_score, accepted, best_margin)
        write_records(out, [*kept, *others])
        return {"own": len(kept), "others": len(others), **counts}

    inputs: dict[str, Any] = {"trajectories": trajectories, "verdicts": verdicts, "min_score": min_score, "also": also}
    further = {"earlier": earlier or None, "best_margin": best_margin}
    inputs |= {name: told for name, told in further.items() if told is not None}  # as in records without them
    run.stage(stage_name(run, out), work, inputs=inputs, outputs=[out])
    return out


def _accepted(verdicts: list[Verdict]) -> set[str]:
    """Ids that every judge accepted."""
    refused = {verdict.trajectory_id for verdict in verdicts if not verdict.accepted}
    return {verdict.trajectory_id for verdict in verdicts} - refused


# ---- training ---------------------------------------------------------------------------------
def train_sft(
    run: Run,
    out: Path,
    trajectories: Path,
    start: Start,
    config: SFTConfig,
    watch: Watch | None = None,
    markers: MarkerConfig | None = None,
) -> Path:
    """Imitate trajectories; returns the checkpoint folder, which remembers the markers it was trained with.

    ``markers`` None: those of ``start``, if it has any.
    """

    def work() -> dict[str, Any]:
        from trainers.training.sft import train_sft as train

        episodes = list(TrajectoryStore(trajectories))
        if not episodes:
            raise DataError(f"{trajectories} holds no trajectories, so there is nothing to imitate.")
        known = markers or start_markers(start)
        with watching(run, out, watch, start, known) as watched:
            train(episodes, start, config, out, markers=known, **watched)
        return training_facts(run, out)

    inputs = {"trajectories": trajectories, "start": start, "config": config, "watch": watch}
    return train_stage(run, out, work, {**inputs, **({} if markers is None else {"markers": markers})})


def train_dpo(
    run: Run,
    out: Path,
    pairs: Path,
    start: Start,
    config: DPOConfig,
    watch: Watch | None = None,
    reference: Start | None = None,
) -> Path:
    """Learn from contrasts against a frozen reference (None: ``start``); returns the checkpoint folder."""

    def work() -> dict[str, Any]:
        from trainers.training.dpo import train_dpo as train

        found = read_pairs(pairs)
        with watching(run, out, watch, start, start_markers(start)) as watched:
            train(found, start, config, out, reference=reference, **watched)
        return training_facts(run, out)

    inputs = {"pairs": pairs, "start": start, "config": config, "watch": watch, "reference": reference}
    return train_stage(run, out, work, inputs)


def train_reward(
    run: Run, out: Path, trajectories: Sequence[Path], targets: StepRewardConfig, start: Start, config: RewardConfig
) -> Path:
    """Fit the reward model to what ``targets`` says of every step; returns its checkpoint folder."""

    def work() -> dict[str, Any]:
        from trainers.training.reward import train_reward as train

        wanted = reward_targets(read_all(trajectories), targets.targets, targets.gamma)
        episodes = [item for item in read_all(trajectories) if item.trajectory_id in wanted and item.steps]
        if not episodes:
            raise DataError(f"{', '.join(map(str, trajectories))}: no whole episode, so there is nothing to fit.")
        log = run.metric_logger(stage_name(run, out))
        train(episodes, wanted, start, config, out, log=log, targets_name=targets.targets)
        return {"trajectories": len(episodes), **training_facts(run, out)}

    inputs = {"trajectories": trajectories, "targets": targets, "start": start, "config": config}
    return train_stage(run, out, work, inputs)


def read_all(files: Sequence[Path]) -> list[Trajectory]:
    """The trajectories of several files, in order."""
    return [trajectory for path in files for trajectory in read_episodes(path)]


def train_stage(run: Run, out: Path, work: Callable[[], dict[str, Any]], inputs: Mapping[str, Any]) -> Path:
    """Do the work of a training, by all processes together; returns its checkpoint folder."""
    checkpoint = out / "checkpoint"
    name, outputs = stage_name(run, out), [checkpoint / "checkpoint.json"]
    run.stage(name, lambda: _then_free(work), inputs=inputs, outputs=outputs, partial=[out], together=True)
    return checkpoint


def _then_free(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    from trainers.training.memory import return_all_freed_memory

    try:
        return work()
    finally:
        return_all_freed_memory()


def read_pairs(path: Path) -> list[PreferencePair]:
    """All pairs of a file.

    Raises:
        DataError: there are none.
    """
    found = read_records(path, PreferencePair)
    if not found:
        raise DataError(f"{path} holds no pairs, so there is nothing to learn from.")
    return found


@contextmanager
def watching(
    run: Run, out: Path, watch: Watch | None, start: Start, markers: MarkerConfig | None
) -> Iterator[dict[str, Any]]:
    """The log and the probe that trainers take; after the training the look that chose its weights is kept."""
    probe = watch.make(run, out, start, markers.best if markers else None) if watch else None
    yield {"log": run.metric_logger(stage_name(run, out)), "probe": probe}
    if watch:
        watch.end(out)


# ---- records ----------------------------------------------------------------------------------
def facts_of(run: Run, out: Path) -> dict[str, Any]:
    """What the record of the stage that wrote ``out`` says it did."""
    record = run.stage_record(stage_name(run, out))
    return dict(record["facts"]) if record else {}


def note(out: Path, facts: Mapping[str, Any]) -> Path:
    """Write a JSON file of facts about the run."""

    def write() -> None:
        drop_drafts([out])
        write_json(out, dict(facts))

    distributed.on_first(write)
    return out
