"""Fitting the reward model: trajectories and one target per step -> its checkpoint (ICTO, Eq. 5)."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from icto_gym.dialogue import trajectory_messages
from icto_gym.errors import DataError
from icto_gym.files import write_json
from icto_gym.trajectory import Trajectory
from trainers import distributed
from trainers.batches import RewardBatch, collate, last_places, split_to_fit, to_device
from trainers.losses import reward_loss
from trainers.models.loading import CHECKPOINT_FILE, LoadedModel, checkpoint_record
from trainers.models.reward_model import BACKBONE, RewardModel, new_reward_model, pad_rows
from trainers.tokenization import Encoded
from trainers.training.checkpoint import begin, data_digest, describe_start, save_checkpoint, seal, write_folder
from trainers.training.config import RewardConfig
from trainers.training.engine import make_engine, prepare
from trainers.training.loop import Log, fit, total_steps
from trainers.training.sft import Start

logger = logging.getLogger(__name__)


def train_reward(
    trajectories: Sequence[Trajectory],
    targets: Mapping[str, Sequence[float]],
    start: Start,
    config: RewardConfig,
    out: Path,
    *,
    log: Log | None = None,
    targets_name: str | None = None,
) -> Path:
    """Fit R_φ to targets by mean squared error; resumes where a killed call stopped.

    Args:
        trajectories: what is read.
        targets: one number per step, by trajectory id.
        start: model or policy checkpoint whose backbone is used; an adapter in it goes on learning.
        config: optimiser and data settings.
        out: folder of this training.
        log: gets one record per optimiser step; the first (step 0) and the last carry ``holdout/mse`` and
            ``holdout/baseline_mse`` (always predicting the mean), over whole tasks that are not trained on.
        targets_name: what the targets are, for the checkpoint's record: its values mean nothing without it.

    Returns:
        The checkpoint folder ``out/checkpoint``, for `trainers.models.reward_model.RewardModel.load`.
    """
    known = [item for item in trajectories if item.trajectory_id in targets and item.steps]
    wanted = [_checked(item, targets[item.trajectory_id]) for item in known]
    facts = {
        "training": "reward",
        "config": config.to_dict(),
        "start": describe_start(start),
        "data_digest": data_digest([[trajectory_messages(item) for item in known], wanted]),
    }
    out = Path(out)
    if begin(out, facts):
        return out / "checkpoint"
    model = new_reward_model(start, config.max_length)
    plan = RewardPlan(model, known, wanted, config)
    plan.packed = prepare(model.backbone, config, dropout=False)
    # before the engine, which may split the weights over processes: then one alone cannot use the model
    before = {} if distributed.rank() else plan.holdout_error(model)
    engine = make_engine(model, config, total_steps(plan.size, config))
    logger.info("fits %d trajectories in %d optimiser steps", plan.size, engine.total_steps)
    if log and distributed.rank() == 0:
        log({"step": 0, **before})
    return fit(
        engine,
        plan,
        value_loss,
        config,
        out,
        save=lambda folder, more, weights: save_reward_model(
            folder, model, {**facts, "targets": targets_name, "data": plan.counts, **more}, weights
        ),
        log=log,
        finish=lambda: plan.holdout_error(model),
    )


def value_loss(model: Any, batch: RewardBatch) -> tuple[Tensor, dict[str, float]]:
    """The squared error of a batch and what is logged beside it."""
    values = model.values(batch.tokens, batch.positions)
    return reward_loss(values, batch.targets, batch.mask), {"mean_value": float(values.detach()[batch.mask > 0].mean())}


def held_out_tasks(tasks: Mapping[int, str], config: RewardConfig) -> list[int]:
    """Numbers of the samples that are not trained on: whole tasks, drawn by the seed, until the share is reached.

    Other episodes of a task tell how it ends, so an error on a task that is trained too would be flattering.
    """
    order = sorted(set(tasks.values()))
    random.Random(f"{config.seed}/holdout").shuffle(order)
    held: list[int] = []
    for task in order[:-1]:
        if len(held) < math.ceil(config.holdout * len(tasks)):
            held += [number for number, own in tasks.items() if own == task]
    return sorted(held)


def _checked(trajectory: Trajectory, values: Sequence[float]) -> list[float]:
    if len(values) != len(trajectory.steps) or not all(math.isfinite(value) for value in values):
        raise DataError(
            f"{trajectory.trajectory_id!r} has {len(trajectory.steps)} steps; its targets are {list(values)!r:.120}. "
            "Give one finite number per step."
        )
    return [float(value) for value in values]


def save_reward_model(
    folder: Path, model: RewardModel, facts: Mapping[str, Any], weights: Mapping[str, Tensor] | None
) -> None:
    """Write a checkpoint that `RewardModel.load` reads; ``weights``, by name, in place of the model's own."""
    backbone = weights and {k.removeprefix("backbone."): v for k, v in weights.items() if k.startswith("backbone.")}
    head = weights and {k.removeprefix("head."): v for k, v in weights.items() if k.startswith("head.")}

    def fill(draft: Path) -> None:
        loaded = LoadedModel(model.backbone, model.tokenizer, model.config)
        save_checkpoint(draft / BACKBONE, loaded, {}, backbone)
        model.save_head(draft, head)
        record = checkpoint_record("reward", model.config, **seal(draft), max_length=model.max_length, **facts)
        write_json(draft / CHECKPOINT_FILE, dict(record))

    write_folder(folder, fill)


class RewardPlan:
    """Tokenized trajectories with their targets; some are held out."""

    def __init__(
        self, model: RewardModel, trajectories: Sequence[Trajectory], targets: list[list[float]], config: RewardConfig
    ) -> None:
        self.config, self.packed = config, False
        self.ids = [item.trajectory_id for item in trajectories]
        self.encoded = [model.encode(item) for item in trajectories]
        self.targets = targets
        readable = [number for number, item in enumerate(self.encoded) if item.n_turns]
        if not readable:
            raise DataError(
                f"None of {len(trajectories)} trajectories has steps, targets and a reply that ends within max_length "
                f"{model.max_length}, so there is nothing to fit."
            )
        self.held_out = held_out_tasks({number: trajectories[number].task_id for number in readable}, config)
        self.trained = sorted(set(readable) - set(self.held_out))
        self.size = len(self.trained)
        self.counts = {
            "trajectories": len(readable),
            "truncated": sum(item.n_turns < len(steps) for item, steps in zip(self.encoded, targets, strict=True)),
            "dropped": len(trajectories) - len(readable),
            "held_out": len(self.held_out),
        }

    def batches(self, items: Sequence[int]) -> list[tuple[RewardBatch, float]]:
        """Every step of the optimiser step's trajectories counts the same."""
        made = self._batches([self.trained[item] for item in items])
        steps = sum(batch.n_scored for batch in made)
        return [(batch, batch.n_scored / steps) for batch in made if batch.n_scored]

    def _batches(self, numbers: Sequence[int]) -> list[RewardBatch]:
        units = [[self.encoded[number]] for number in numbers]
        groups = split_to_fit(units, self.config.micro_batch_tokens, packed=self.packed)
        return [self._batch([numbers[place] for place in group]) for group in groups]

    def _batch(self, numbers: Sequence[int]) -> RewardBatch:
        conversations: list[Encoded] = [self.encoded[number] for number in numbers]
        tokens = collate(conversations, packed=self.packed)
        rows = [
            self.targets[number][: item.n_turns] for number, item in zip(numbers, conversations, strict=True)
        ]  # steps beyond max_length cannot be read
        targets, mask = pad_rows(rows)
        return RewardBatch(tokens, last_places(conversations, tokens, targets.shape[1]), targets, mask)

    def weight(self, items: Sequence[int]) -> float:
        """Steps that can be read."""
        numbers = [self.trained[item] for item in items]
        return sum(min(len(self.targets[number]), self.encoded[number].n_turns) for number in numbers)

    @torch.no_grad()
    def holdout_error(self, model: RewardModel) -> dict[str, float]:
        """Squared error on the trajectories that are not trained on, and that of always predicting the mean."""
        if not self.held_out:
            return {}
        known = [value for number in self.trained for value in self.targets[number][: self.encoded[number].n_turns]]
        mean = sum(known) / len(known)
        error = baseline = steps = 0.0
        for batch in self._batches(self.held_out):
            batch = to_device(batch, next(model.parameters()).device)
            values = model.values(batch.tokens, batch.positions)
            error += float((batch.mask * (values - batch.targets).square()).sum())
            baseline += float((batch.mask * (mean - batch.targets).square()).sum())
            steps += batch.n_scored
        return {"holdout/mse": error / max(steps, 1), "holdout/baseline_mse": baseline / max(steps, 1)}

    def names(self, items: Sequence[int]) -> list[str]:
        """Trajectory ids."""
        return [self.ids[self.trained[item]] for item in items]
