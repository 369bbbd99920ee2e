"""Behavioural cloning: trajectories -> the checkpoint of a policy that writes what they show."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from icto_gym.dialogue import Message
from icto_gym.errors import DataError
from icto_gym.trajectory import Trajectory
from trainers.batches import TokenBatch, collate, split_to_fit
from trainers.losses import sft_loss
from trainers.markers import MarkerConfig, check_markers, start_markers, training_messages
from trainers.models.config import ModelConfig
from trainers.models.loading import load_model
from trainers.models.scoring import score_tokens
from trainers.records import retried_step
from trainers.tokenization import Encoded, encode_conversation
from trainers.training.checkpoint import begin, data_digest, describe_start, save_checkpoint
from trainers.training.config import SFTConfig
from trainers.training.engine import make_engine, prepare, within_context
from trainers.training.loop import Log, check_patience, fit, total_steps

logger = logging.getLogger(__name__)
Start = ModelConfig | str | os.PathLike[str]
Probe = Callable[[int, Any, Any], Mapping[str, float]]
"""(step, model, tokenizer) -> numbers; the model is the one in training, so it must be left as it was."""


def train_sft(
    trajectories: Sequence[Trajectory],
    start: Start,
    config: SFTConfig,
    out: Path,
    *,
    log: Log | None = None,
    probe: Probe | None = None,
    markers: MarkerConfig | None = None,
) -> Path:
    """Train on the agent's tokens of every trajectory; resumes where a killed call stopped.

    Of an episode that was taken up again (`trainers.retries`) only what it did from there on is trained: what led there
    may be the mistake, and is read.

    Args:
        trajectories: what to imitate.
        start: model or checkpoint to start from; an adapter in it goes on learning.
        config: optimiser and data settings.
        out: folder of this training.
        log: gets one record per optimiser step (``step`` counts from 1; see `trainers.training.loop.Log`).
        probe: measures the policy every ``config.probe_every`` steps and at the end.
        markers: what the trajectories are marked with (see `trainers.markers`); the checkpoint keeps it, and a policy
            loaded from it asks for the best class. None: those that ``start`` was trained with, if any. Trajectories
            without a marker of their own then get that of the best class.

    Returns:
        The checkpoint folder ``out/checkpoint``.
    """
    check_patience(config, probe is not None)
    markers = markers or start_markers(start)
    check_markers(trajectories, markers)
    conversations = [training_messages(item, markers.best if markers else None) for item in trajectories]
    first = [_first_trained(*both) for both in zip(trajectories, conversations, strict=True)]
    data = [conversations, first] if any(first) else conversations
    facts = _facts(start, config, data, markers)
    out = Path(out)
    if begin(out, facts):
        return out / "checkpoint"
    loaded = load_model(start, trainable=True)
    names = [item.trajectory_id for item in trajectories]
    plan = SFTPlan.make(loaded.tokenizer, conversations, names, within_context(config, loaded.model), first)
    plan.packed = prepare(loaded.model, config, dropout=True)
    engine = make_engine(loaded.model, config, total_steps(plan.size, config))
    logger.info("clones %s in %d optimiser steps", plan.words, engine.total_steps)
    return fit(
        engine,
        plan,
        cloning_loss,
        config,
        out,
        save=lambda folder, more, weights: save_checkpoint(
            folder, loaded, {**facts, "data": plan.counts, **more}, weights
        ),
        log=log,
        probe=(lambda step: probe(step, loaded.model, loaded.tokenizer)) if probe else None,
    )


def _facts(start: Start, config: SFTConfig, data: Any, markers: MarkerConfig | None) -> dict[str, Any]:
    """What tells this training from others, for its record."""
    return {
        "training": "sft",
        "config": config.to_dict(),
        "start": describe_start(start),
        "data_digest": data_digest(data),
        **({} if markers is None else {"markers": markers.to_dict()}),
    }


def cloning_loss(model: Any, batch: TokenBatch) -> tuple[Tensor, dict[str, float]]:
    """The SFT loss of a batch and what is logged beside it."""
    logps = score_tokens(model, batch)
    return sft_loss(logps), {"mean_token_probability": float(logps.detach().exp().mean())}


def _first_trained(trajectory: Trajectory, messages: Sequence[Message]) -> int:
    """The message from which on replies are trained; the conversation ends with the steps, two messages each."""
    step = retried_step(trajectory)
    return 0 if step is None else len(messages) - 2 * (len(trajectory.steps) - step)


class SFTPlan:
    """Tokenized trajectories, and the micro-batches of a step."""

    def __init__(
        self, conversations: list[Encoded], names: list[str], config: SFTConfig, counts: dict[str, int]
    ) -> None:
        self.conversations, self.names_of, self.config, self.counts = conversations, names, config, counts
        self.size = len(conversations)
        self.packed = False

    @classmethod
    def make(
        cls, tokenizer: Any, conversations: Sequence[Sequence[Message]], names: Sequence[str], config: SFTConfig,
        first: Sequence[int],
    ) -> SFTPlan:  # fmt: skip
        """Tokenize, to be trained from each one's ``first`` message on; what has no such token is left out, counted."""
        kept, kept_names, cut = [], [], 0
        for messages, name, start in zip(conversations, names, first, strict=True):
            whole = encode_conversation(
                tokenizer, messages, trainable_from=start, train_acknowledgement=config.train_acknowledgement
            )
            encoded = whole.cut(config.max_length)
            cut += encoded is not whole
            if encoded.n_turns:
                kept.append(encoded)
                kept_names.append(name)
        counts = {"trajectories": len(kept), "truncated": cut, "dropped": len(conversations) - len(kept)}
        if not kept:
            raise DataError(
                f"None of {len(conversations)} trajectories has a token to train on (max_length {config.max_length})."
            )
        return cls(kept, kept_names, config, counts)

    @property
    def words(self) -> str:
        """The counts, for the log."""
        tokens = sum(len(item.input_ids) for item in self.conversations)
        return (
            f"{self.size} trajectories of {tokens} tokens "
            f"({self.counts['truncated']} truncated, {self.counts['dropped']} dropped)"
        )

    def batches(self, items: Sequence[int]) -> list[tuple[TokenBatch, float]]:
        """Every token of the step counts the same, whichever micro-batch it is in."""
        chosen = [self.conversations[item] for item in items]
        groups = split_to_fit([[one] for one in chosen], self.config.micro_batch_tokens, packed=self.packed)
        made = [collate([chosen[number] for number in group], packed=self.packed) for group in groups]
        scored = sum(batch.n_scored for batch in made)
        return [(batch, batch.n_scored / scored) for batch in made]

    def weight(self, items: Sequence[int]) -> float:
        """Tokens that are trained."""
        return sum(sum(turn >= 0 for turn in self.conversations[item].turns[1:]) for item in items)

    def names(self, items: Sequence[int]) -> list[str]:
        """Trajectory ids."""
        return [self.names_of[item] for item in items]
