"""Fitting a reward model to preferences: pairs -> R(x, y), for PPO (RLCD's first stage, Yang et al., 2023)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from icto_gym.dialogue import Message
from icto_gym.errors import DataError
from trainers import distributed
from trainers.batches import AnswerPairBatch, answer_places, collate, split_to_fit, to_device
from trainers.losses import bradley_terry_loss
from trainers.markers import Marker, start_markers
from trainers.models.reward_model import RewardModel, new_reward_model
from trainers.records import PreferencePair
from trainers.tokenization import Encoded, encode_conversation
from trainers.training.checkpoint import begin, data_digest, describe_start
from trainers.training.config import RewardConfig
from trainers.training.engine import make_engine, prepare
from trainers.training.loop import Log, fit, total_steps
from trainers.training.reward import held_out_tasks, save_reward_model
from trainers.training.sft import Start

logger = logging.getLogger(__name__)
TARGETS = "preference"
"""What the model is fitted to, as its checkpoint says."""


def train_preference_reward(
    pairs: Sequence[PreferencePair], start: Start, config: RewardConfig, out: Path, *, log: Log | None = None
) -> Path:
    """Fit R(x, y) by the Bradley-Terry loss; resumes where a killed call stopped.

    Args:
        pairs: what is preferred to what; the reward is read where a side's last reply is complete.
        start: model or policy checkpoint whose backbone is used; an adapter in it goes on learning. If it was trained
            with markers, prompts are read under that of the best class, as the policy reads them.
        config: optimiser and data settings.
        out: folder of this training.
        log: gets one record per optimiser step; the first (step 0) and the last carry ``holdout/accuracy`` (share of
            pairs whose chosen side has the higher reward) and ``holdout/loss``, over whole tasks that are not trained.

    Returns:
        The checkpoint folder ``out/checkpoint``, for `trainers.models.reward_model.RewardModel.load`.
    """
    markers, out = start_markers(start), Path(out)
    facts: dict[str, Any] = {
        "training": "preference_reward",
        "config": config.to_dict(),
        "start": describe_start(start),
        "data_digest": data_digest([asdict(pair) for pair in pairs]),
        **({} if markers is None else {"markers": markers.to_dict()}),
    }
    if begin(out, facts):
        return out / "checkpoint"
    model = new_reward_model(start, config.max_length)
    plan = AnswerPairPlan(model, pairs, config, markers.best if markers else None)
    plan.packed = prepare(model.backbone, config, dropout=False)
    # before the engine, which may split the weights over processes: then one alone cannot use the model
    before = {} if distributed.rank() else plan.holdout(model)
    engine = make_engine(model, config, total_steps(plan.size, config))
    logger.info("fits %d pairs of answers in %d optimiser steps", plan.size, engine.total_steps)
    if log and distributed.rank() == 0:
        log({"step": 0, **before})
    return fit(
        engine,
        plan,
        preference_reward_loss,
        config,
        out,
        save=lambda folder, more, weights: save_reward_model(
            folder, model, {**facts, "targets": TARGETS, "data": plan.counts, **more}, weights
        ),
        log=log,
        finish=lambda: plan.holdout(model),
    )


def preference_reward_loss(model: Any, batch: AnswerPairBatch) -> tuple[Tensor, dict[str, float]]:
    """The Bradley-Terry loss of a batch and what is logged beside it."""
    chosen, rejected = model.values(batch.tokens, batch.positions).chunk(2)
    margins = (chosen - rejected).detach()
    measures = {"accuracy": float((margins > 0).float().mean()), "reward_margin": float(margins.mean())}
    return bradley_terry_loss(chosen, rejected).mean(), measures


@torch.no_grad()
def score_answers(model: RewardModel, answers: Sequence[Encoded], limit: int, *, packed: bool) -> Tensor:
    """R(x, y) of conversations that end with an answer: (N,), float32; up to ``limit`` tokens are read at once."""
    scores = torch.zeros(len(answers))
    for group in split_to_fit([[one] for one in answers], limit, packed=packed):
        chosen = [answers[number] for number in group]
        batch = collate(chosen, packed=packed)
        places = answer_places(chosen, batch).to(model.head.weight.device)
        scores[group] = model.values(to_device(batch, model.head.weight.device), places).cpu()
    return scores


class AnswerPairPlan:
    """Tokenized pairs of answers; some are held out."""

    def __init__(
        self, model: RewardModel, pairs: Sequence[PreferencePair], config: RewardConfig, marker: Marker | None = None
    ) -> None:
        self.config, self.packed = config, False
        self.pairs: list[tuple[Encoded, Encoded]] = []
        self.labels: list[str] = []
        tasks: dict[int, str] = {}
        limit = min(config.max_length, model.max_length)
        for number, pair in enumerate(pairs):
            sides = _encoded(model.tokenizer, pair, marker)
            if max(len(side.input_ids) for side in sides) <= limit:  # else an answer's end is not there
                tasks[len(self.pairs)] = pair.task_id
                self.pairs.append(sides)
                self.labels.append(f"pair {number}: {pair.chosen_id} over {pair.rejected_id}")
        if not self.pairs:
            raise DataError(
                f"None of {len(pairs)} pairs has two answers that end within max_length {limit}, so there "
                "is nothing to fit. Raise max_length."
            )
        self.held_out = held_out_tasks(tasks, config)
        self.trained = sorted(set(tasks) - set(self.held_out))
        self.size = len(self.trained)
        self.counts = {
            "pairs": len(self.pairs), "dropped": len(pairs) - len(self.pairs), "held_out": len(self.held_out),
        }  # fmt: skip

    def batches(self, items: Sequence[int]) -> list[tuple[AnswerPairBatch, float]]:
        """Every pair of the step counts the same."""
        pairs = [self.pairs[self.trained[item]] for item in items]
        groups = split_to_fit(pairs, self.config.micro_batch_tokens, packed=self.packed)
        return [(self._batch([pairs[number] for number in group]), len(group) / len(items)) for group in groups]

    def _batch(self, pairs: Sequence[tuple[Encoded, Encoded]]) -> AnswerPairBatch:
        sides = [chosen for chosen, _ in pairs] + [rejected for _, rejected in pairs]
        tokens = collate(sides, packed=self.packed)
        return AnswerPairBatch(tokens, answer_places(sides, tokens))

    def weight(self, items: Sequence[int]) -> float:
        """Pairs."""
        return len(items)

    def names(self, items: Sequence[int]) -> list[str]:
        """Number and trajectory ids."""
        return [self.labels[self.trained[item]] for item in items]

    def holdout(self, model: RewardModel) -> dict[str, float]:
        """Accuracy and loss on the pairs that are not trained on; none where there are none."""
        if not self.held_out:
            return {}
        sides = [side for number in self.held_out for side in self.pairs[number]]
        chosen, rejected = (
            score_answers(model, sides, self.config.micro_batch_tokens, packed=self.packed).view(-1, 2).unbind(1)
        )
        return {
            "holdout/accuracy": float((chosen > rejected).float().mean()),
            "holdout/loss": float(bradley_terry_loss(chosen, rejected).mean()),
        }


def _encoded(tokenizer: Any, pair: PreferencePair, marker: Marker | None) -> tuple[Encoded, Encoded]:
    prompt = pair.prompt if marker is None else marker.apply_to_prompt(pair.prompt)
    return encode_answer(tokenizer, prompt, pair.chosen), encode_answer(tokenizer, prompt, pair.rejected)


def encode_answer(tokenizer: Any, prompt: Sequence[Message], answer: Sequence[Message]) -> Encoded:
    """The conversation with the answer's replies marked, a plain ``OK`` among them."""
    return encode_conversation(tokenizer, [*prompt, *answer], trainable_from=len(prompt), train_acknowledgement=True)
