"""Proximal policy optimisation against a reward model: prompts -> the checkpoint of a policy (RLCD's second stage).

The recipe is the common one of Stiennon et al. (2020) and Ouyang et al. (2022): one answer per prompt, the reward
model's number at its last token, a KL penalty against the frozen start at every token, GAE with a value head, whitened
advantages, and the clipped surrogate over a few passes. No environment takes part. RLCD's own constants are not
published; what is chosen here is in `PPOConfig`, and that the value head sits on the policy, whose hidden states its
error does not touch, is this project's choice.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from icto_gym.dialogue import Message
from icto_gym.errors import ConfigError
from icto_gym.files import write_text
from trainers import distributed
from trainers.batches import PPOBatch, collate, split_to_fit
from trainers.losses import clip_fraction, clipped_surrogate_loss, value_loss
from trainers.markers import start_markers
from trainers.models.actor_critic import ActorCritic
from trainers.models.loading import LoadedModel, load_model, read_checkpoint
from trainers.models.reward_model import RewardModel
from trainers.training.answers import Prompts, Rollout, Sampler
from trainers.training.checkpoint import (
    begin,
    data_digest,
    describe_start,
    drop_folders,
    numbered,
    save_checkpoint,
    saved_step,
)
from trainers.training.config import PPOConfig
from trainers.training.engine import check_scoring, make_engine, prepare
from trainers.training.loop import Log, Save, fit, total_steps
from trainers.training.preference_reward import TARGETS as PREFERENCE
from trainers.training.sft import Probe, Start

logger = logging.getLogger(__name__)


def train_ppo(
    prompts: Sequence[Sequence[Message]],
    reward: Path,
    start: Start,
    config: PPOConfig,
    out: Path,
    *,
    log: Log | None = None,
    probe: Probe | None = None,
) -> Path:
    """Raise R(x, y) of the policy's own answers; resumes where a killed call stopped.

    Answers of the latest iterations stay in ``out/rollout-000007``, for a training that is killed within one; those of
    the result, with their rewards, in ``out/answers.jsonl``.

    Args:
        prompts: conversations that end with a user message; each answer is one reply.
        reward: checkpoint of a reward model (`trainers.training.preference_reward`).
        start: model or checkpoint to start from, which is the frozen reference too; an adapter in it goes on learning.
            If it was trained with markers, prompts carry that of the best class and the checkpoint keeps them.
        config: sampling, optimiser and loss.
        out: folder of this training.
        log: gets one record per optimiser step. ``rollout/...`` are means over the answers of its iteration:
            ``reward``, ``kl`` (per answer, in nats) and others; ``final/...`` in the last record: of the result.
            ``sampled/prompt_tokens`` and ``.../response_tokens``, at the start of each iteration, count for all of it.
        probe: measures the policy every ``config.probe_every`` steps and at the end.

    Returns:
        The checkpoint folder ``out/checkpoint``: the policy without the value head.
    """
    _check_reward(reward)
    markers, out = start_markers(start), Path(out)
    asked = [prompt if markers is None else markers.best.apply_to_prompt(prompt) for prompt in prompts]
    facts = {**_facts(asked, reward, start, config), **({} if markers is None else {"markers": markers.to_dict()})}
    if begin(out, facts):
        distributed.on_first(lambda: drop_folders(out, "rollout"))
        return out / "checkpoint"
    loaded = load_model(start, trainable=True)
    module, reward_model = ActorCritic(loaded), RewardModel.load(reward)
    sampler = Sampler(module, loaded.tokenizer, Prompts.make(loaded, asked, config), reward_model, config)
    sampler.packed = prepare(loaded.model, config, dropout=False)
    sampler.reward_packed = check_scoring(reward_model.backbone, packed=config.packing)
    plan = PPOPlan(sampler, config, out)
    engine = make_engine(module, config, plan.total_steps)
    engine.check_probe()
    logger.info("answers %s in %d optimiser steps", plan.words, engine.total_steps)
    checkpoint = fit(
        engine,
        plan,
        lambda model, batch: ppo_loss(model, batch, config),
        config,
        out,
        save=_saver(loaded, {**facts, "data": plan.counts}),
        log=log,
        probe=(lambda step: probe(step, loaded.model, loaded.tokenizer)) if probe else None,
        finish=plan.final,
        before=plan.collect,
    )
    distributed.on_first(lambda: drop_folders(out, "rollout"))
    return checkpoint


def _check_reward(folder: Path) -> None:
    fitted = read_checkpoint(folder).get("targets")
    if fitted != PREFERENCE:
        raise ConfigError(
            f"{folder} was fitted to {fitted!r}, so its values are no rewards of answers. Fit one to pairs of answers "
            "with `icto train preference`."
        )


def _facts(prompts: Sequence[Sequence[Message]], reward: Path, start: Start, config: PPOConfig) -> dict[str, Any]:
    """What is trained on what: a resumed training must match it."""
    return {
        "training": "ppo",
        "config": config.to_dict(),
        "start": describe_start(start),
        "reward_model": describe_start(reward),
        "data_digest": data_digest(prompts),
    }


def _saver(loaded: LoadedModel, facts: Mapping[str, Any]) -> Save:
    """Writes the policy without its value head."""
    return lambda folder, more, weights: save_checkpoint(folder, loaded, {**facts, **more}, _of_policy(weights))


def _of_policy(weights: Mapping[str, Tensor] | None) -> dict[str, Tensor] | None:
    if weights is None:
        return None
    return {name.removeprefix("policy."): value for name, value in weights.items() if name.startswith("policy.")}


def ppo_loss(model: Any, batch: PPOBatch, config: PPOConfig) -> tuple[Tensor, dict[str, float]]:
    """The clipped surrogate and the value head's error over a batch, and what is logged beside (means over tokens)."""
    logps, values = model.score(batch.tokens)
    surrogate = clipped_surrogate_loss(logps, batch.old_logps, batch.advantages, clip=config.clip).mean()
    critic = value_loss(values, batch.returns).mean()
    metrics = {
        "policy_loss": float(surrogate.detach()),
        "value_loss": float(critic.detach()),
        "clip_fraction": float(clip_fraction(logps.detach(), batch.old_logps, clip=config.clip)),
        "approx_kl": float((batch.old_logps - logps.detach()).mean()),
    }
    return surrogate + config.value_coef * critic, metrics


class PPOPlan:
    """The answers of the iteration that a step belongs to, and the step's micro-batches.

    Optimiser step s learns from iteration s // ``steps_per_iteration``. Answers are made by the weights at the
    beginning of their iteration and written down, so they are the same however often the training is interrupted.
    """

    def __init__(self, sampler: Sampler, config: PPOConfig, out: Path) -> None:
        self.sampler, self.config, self.out = sampler, config, out
        self.size = config.rollout_size
        self.steps_per_iteration = total_steps(config.rollout_size, config)
        self.total_steps = config.iterations * self.steps_per_iteration
        self.counts = {"prompts": len(sampler.prompts.messages), "dropped": sampler.prompts.dropped}
        self.iteration: int | None = None
        self.rollout: Rollout

    @property
    def words(self) -> str:
        """The counts, for the log."""
        return (
            f"{self.counts['prompts']} prompts ({self.counts['dropped']} dropped), {self.size} in each of "
            f"{self.config.iterations} iterations,"
        )

    def collect(self, step: int) -> dict[str, float]:
        """Have the answers of optimiser step ``step`` (from 0) at hand; returns their facts, for the log.

        Their tokens stand at the first step of their iteration alone, so that a sum over steps counts them once.
        """
        iteration, within = divmod(step, self.steps_per_iteration)
        if iteration != self.iteration:
            folder = self._folder(iteration)
            distributed.on_first(lambda: self._write(iteration, anew=within == 0))
            self.rollout, self.iteration = Rollout.load(folder), iteration
        tokens = {} if within else {f"sampled/{name}": count for name, count in self.rollout.tokens.items()}
        return {**tokens, **{f"rollout/{name}": value for name, value in self.rollout.facts.items()}}

    def _folder(self, iteration: int) -> Path:
        return self.out / f"rollout-{iteration:06d}"

    def _write(self, iteration: int, *, anew: bool) -> None:
        """Sample if need be (within an iteration the weights are others), and drop what no saved state can ask for."""
        if anew and not self._folder(iteration).exists():
            self.sampler.roll_out(iteration).save(self._folder(iteration))
        oldest = self._folder(saved_step(self.out) // self.steps_per_iteration).name
        for folder in numbered(self.out, "rollout"):
            if folder.name < oldest:
                shutil.rmtree(folder, ignore_errors=True)

    def final(self) -> dict[str, float]:
        """Measure the policy of the last step on answers that nothing is learned from, and leave them to be read."""
        if distributed.rank():
            return {}
        rollout = self.sampler.roll_out(self.config.iterations)
        lines = (json.dumps(item, sort_keys=True, ensure_ascii=False) + "\n" for item in rollout.texts)
        write_text(self.out / "answers.jsonl", "".join(lines))
        return {f"final/{name}": value for name, value in {**rollout.facts, **rollout.tokens}.items()}

    def batches(self, items: Sequence[int]) -> list[tuple[PPOBatch, float]]:
        """Every token of the step counts the same, whichever micro-batch it is in."""
        units = [[self.rollout.answers[item]] for item in items]
        groups = split_to_fit(units, self.config.micro_batch_tokens, packed=self.sampler.packed)
        made = [self._batch([items[number] for number in group]) for group in groups]
        scored = sum(batch.n_scored for batch in made)
        return [(batch, batch.n_scored / scored) for batch in made]

    def _batch(self, items: Sequence[int]) -> PPOBatch:
        tokens = collate([self.rollout.answers[item] for item in items], packed=self.sampler.packed)
        lengths = self.rollout.lengths
        tables = (self.rollout.old_logps, self.rollout.advantages, self.rollout.returns)
        return PPOBatch(tokens, *(torch.cat([table[n, : lengths[n]] for n in items]) for table in tables))

    def weight(self, items: Sequence[int]) -> float:
        """Tokens of the answers."""
        return sum(self.rollout.lengths[item] for item in items)

    def names(self, items: Sequence[int]) -> list[str]:
        """Iteration and place of the answers, and the numbers of their prompts."""
        texts = self.rollout.texts
        return [f"iteration {self.iteration}, answer {item} to prompt {texts[item]['prompt']}" for item in items]
