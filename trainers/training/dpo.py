"""Preference optimisation: pairs -> the checkpoint of a policy that prefers their chosen sides."""

from __future__ import annotations

import logging
import random
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from icto_gym.errors import ConfigError, DataError
from trainers import distributed
from trainers.batches import PairBatch, TokenBatch, collate, split_to_fit, to_device
from trainers.losses import PreferenceLoss, dpo_loss, log_ratio_loss, step_dpo_loss, sum_logps
from trainers.markers import Marker, start_markers
from trainers.models.loading import LoadedModel, load_model
from trainers.models.reference import cached_logps, read_logps
from trainers.models.scoring import score_tokens
from trainers.records import PreferencePair
from trainers.tokenization import Encoded, encode_conversation
from trainers.training.checkpoint import begin, data_digest, describe_start, save_checkpoint
from trainers.training.config import DPOConfig
from trainers.training.engine import make_engine, prepare, within_context
from trainers.training.loop import Log, bar_wanted, check_patience, fit, total_steps
from trainers.training.plug_in import make_objective
from trainers.training.sft import Probe, Start

logger = logging.getLogger(__name__)


def train_dpo(
    pairs: Sequence[PreferencePair],
    start: Start,
    config: DPOConfig,
    out: Path,
    *,
    log: Log | None = None,
    probe: Probe | None = None,
    reference: Start | None = None,
) -> Path:
    """Train on pairs against a frozen reference; resumes where a killed call stopped.

    The reference log-probabilities are computed once and kept in ``out/reference.safetensors``.

    Args:
        pairs: what to contrast; their prompts are read, not trained.
        start: model or checkpoint to start from; an adapter in it goes on learning. If it was trained with markers
            (see `trainers.markers`), pairs are trained under that of the best class and the checkpoint keeps them.
        config: objective, optimiser and data settings.
        out: folder of this training.
        log: gets one record per optimiser step (``step`` counts from 1; see `trainers.training.loop.Log`), and a record
            of step 0 with the measures of the start. The first and the last record carry ``pairs/...``: means over
            ``config.diagnostic_pairs`` pairs that are trained, and ``held_out/...``: over those that are not.
        probe: measures the policy every ``config.probe_every`` steps and at the end.
        reference: what the policy is compared with; None: ``start`` (as in all methods whose reference moves).

    Returns:
        The checkpoint folder ``out/checkpoint``.
    """
    check_patience(config, probe is not None)
    if ":" in config.objective:
        make_objective(config.objective)  # a wrong path is found before the reference is read
    facts, out = _facts(pairs, start, reference, config), Path(out)
    if begin(out, facts):
        return out / "checkpoint"
    loaded, markers = load_model(start, trainable=True), start_markers(start)
    marker, fitting = markers.best if markers else None, within_context(config, loaded.model)
    plan = PairPlan.make(loaded.tokenizer, pairs, fitting, marker)
    plan.packed = prepare(loaded.model, config, dropout=False)
    before = take_reference(plan, loaded, None if facts["reference"] == facts["start"] else reference, out)
    engine = make_engine(loaded.model, config, total_steps(plan.size, config))
    logger.info("contrasts %s in %d optimiser steps", plan.words, engine.total_steps)
    if log and distributed.rank() == 0:
        log({"step": 0, **before})
    return fit(
        engine,
        plan,
        lambda model, batch: preference_loss(model, batch, config),
        config,
        out,
        save=lambda folder, more, weights: save_checkpoint(
            folder, loaded, {**facts, "data": plan.counts, **more}, weights
        ),
        log=log,
        probe=(lambda step: probe(step, loaded.model, loaded.tokenizer)) if probe else None,
        finish=lambda: plan.measures(loaded.model),
    )


def _facts(pairs: Sequence[PreferencePair], start: Start, reference: Start | None, config: DPOConfig) -> dict[str, Any]:
    """What is trained on what: a resumed training must match it."""
    markers = start_markers(start)
    return {
        "training": "dpo",
        "config": config.to_dict(),
        "start": describe_start(start),
        "data_digest": data_digest([asdict(pair) for pair in pairs]),
        "reference": describe_start(start if reference is None else reference),
        **({} if markers is None else {"markers": markers.to_dict()}),
    }


def preference_loss(model: Any, batch: PairBatch, config: DPOConfig) -> tuple[Tensor, dict[str, float]]:
    """The configured objective over a batch of pairs, and what is logged beside it (all means over pairs)."""
    logps = score_tokens(model, batch.tokens)
    chosen, rejected = reply_logps(logps, batch.tokens, batch.weights.shape[1]).chunk(2)
    result = _objective(chosen, rejected, batch, config)
    loss = result.losses.mean()
    metrics = _measures(chosen.detach(), rejected.detach(), batch.chosen_reference, batch.rejected_reference)
    metrics["reward_margin"] = float((result.chosen_rewards - result.rejected_rewards).mean())
    metrics["preference_loss"] = float(loss.detach())
    if config.sft_weight:
        anchor = (batch.anchored * chosen_nll(logps, batch.tokens, config.sft_reduction)).mean()
        loss = loss + config.sft_weight * anchor
        metrics["chosen_nll"] = float(anchor.detach())
    return loss, metrics


def reply_logps(logps: Tensor, batch: TokenBatch, turns: int) -> Tensor:
    """Sums over the tokens of each reply: (N, turns), in nats."""
    return sum_logps(logps, batch.rows * turns + batch.turns, batch.size * turns).view(batch.size, turns)


def chosen_nll(logps: Tensor, batch: TokenBatch, reduction: str = "mean") -> Tensor:
    """Negative log-likelihood of each chosen side: (B,), in nats per token, or in nats with reduction ``sum``."""
    sums = -sum_logps(logps, batch.rows, batch.size)
    counts = torch.bincount(batch.rows, minlength=batch.size)
    return (sums if reduction == "sum" else sums / counts)[: batch.size // 2]


def _objective(chosen: Tensor, rejected: Tensor, batch: PairBatch, config: DPOConfig) -> PreferenceLoss:
    sides = (chosen, rejected, batch.chosen_reference, batch.rejected_reference)
    options: Any = {"beta": config.beta, "chosen_penalty": config.chosen_penalty}
    if config.objective == "log_ratio":
        return log_ratio_loss(chosen.sum(-1), rejected.sum(-1))
    if ":" in config.objective:
        return _checked(make_objective(config.objective)(*sides, batch.weights, beta=config.beta), chosen, config)
    if config.objective == "step":
        return step_dpo_loss(*sides, batch.weights, **options)
    whole = dpo_loss(*(side.sum(-1) for side in sides), **options)
    if config.objective == "trajectory":
        return whole
    steps = step_dpo_loss(*sides, batch.weights, **options)
    return whole._replace(losses=(1 - config.step_share) * whole.losses + config.step_share * steps.losses)


def _checked(result: Any, chosen: Tensor, config: DPOConfig) -> PreferenceLoss:
    """What a user's loss returned; a number in place of one per pair would be averaged in silence."""
    wanted = f"a trainers.losses.PreferenceLoss whose fields have the shape ({len(chosen)},), one entry per pair"
    if not isinstance(result, PreferenceLoss):
        raise ConfigError(f"dpo.objective {config.objective!r} gave a {type(result).__name__}; it must give {wanted}.")
    for name, value in result._asdict().items():
        if not isinstance(value, Tensor) or value.shape != chosen.shape[:1]:
            found = f"of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
            raise ConfigError(f"dpo.objective {config.objective!r}: {name} is {found}; it must give {wanted}.")
    if chosen.requires_grad and not result.losses.requires_grad:
        raise ConfigError(f"dpo.objective {config.objective!r}: its losses have no gradient; do not detach them.")
    return result


def _measures(
    chosen: Tensor, rejected: Tensor, chosen_reference: Tensor, rejected_reference: Tensor
) -> dict[str, float]:
    """What shows whether a preference is learned or the policy falls apart; each argument is (B, S), in nats."""
    sides = [side.sum(-1) for side in (chosen, rejected, chosen_reference, rejected_reference)]
    chosen_change, rejected_change = sides[0] - sides[2], sides[1] - sides[3]
    return {
        "reward_accuracy": float((chosen_change > rejected_change).float().mean()),
        "chosen_logp": float(sides[0].mean()),
        "rejected_logp": float(sides[1].mean()),
        "chosen_logp_change": float(chosen_change.mean()),
        "rejected_logp_change": float(rejected_change.mean()),
        "log_ratio_margin": float((chosen_change - rejected_change).mean()),
    }


def take_reference(plan: PairPlan, loaded: LoadedModel, reference: Start | None, out: Path) -> dict[str, float]:
    """Give the plan its reference (None: the loaded model as it is); returns the measures of the start."""
    path, size = out / "reference.safetensors", (len(plan.pairs), 2 * plan.turns)
    distributed.on_first(lambda: _score_reference(loaded.model, plan, reference, path))
    plan.reference = read_logps(path, *size).view(-1, 2, plan.turns)
    plan.counts["scoring_tokens"] = plan.n_tokens
    return {} if distributed.rank() else plan.measures(None if reference is None else loaded.model)


def _score_reference(model: Any, plan: PairPlan, reference: Start | None, path: Path) -> None:
    """Write the log-probabilities of all pairs under the reference, which is loaded for this alone if it is another."""
    if reference is not None:
        # with its adapter apart, as the policy's is: folded into weights of 16 bits it would be rounded
        model = load_model(reference, trainable=True).model
        plan = plan.laid_out(prepare(model, plan.config, dropout=False))
    count, groups = len(plan.pairs), plan.groups(range(len(plan.pairs)))
    logger.info("reads %d pairs under the reference", count)
    watched = tqdm(groups, desc="reference", unit="batch", disable=not bar_wanted(), file=sys.stderr)
    cached_logps(path, count, 2 * plan.turns, watched, lambda group: plan.score(model, group).flatten(1))


@dataclass(frozen=True)
class EncodedPair:
    """A tokenized pair."""

    name: str
    chosen: Encoded
    rejected: Encoded
    weights: tuple[float, ...]
    """One per pair of steps that both sides have; their sum is positive."""
    whole: bool = True
    """A contrast of trajectories, not of steps."""


class PairPlan:
    """Tokenized pairs with their reference, and the micro-batches of a step.

    The first ``size`` pairs are trained; those behind them are held out.
    """

    def __init__(self, pairs: list[EncodedPair], config: DPOConfig, counts: dict[str, int], held_out: int = 0) -> None:
        self.pairs, self.config, self.counts = pairs, config, {**counts, "held_out": held_out}
        self.size = len(pairs) - held_out
        self.turns = max(max(pair.chosen.n_turns, pair.rejected.n_turns) for pair in pairs)
        self.packed = False
        self.reference = torch.zeros(len(pairs), 2, self.turns)
        """(N, 2, S): chosen and rejected, summed log-probability of each reply, in nats."""
        count = min(config.diagnostic_pairs, self.size)
        self.sample = [number * self.size // count for number in range(count)]

    @classmethod
    def make(
        cls, tokenizer: Any, pairs: Sequence[PreferencePair], config: DPOConfig, marker: Marker | None = None
    ) -> PairPlan:
        """Tokenize, with the marker in every task; leave out pairs that teach nothing, and count them by reason.

        Those are pairs with a side that has no reply before the cut, pairs whose sides part only behind it, and, where
        the objective weighs steps, those whose preferred ones lie there.
        """
        kept, cut, tasks, dropped = [], 0, [], Counter[str]()
        for number, pair in enumerate(pairs):
            prompt = pair.prompt if marker is None else marker.apply_to_prompt(pair.prompt)
            sides = [
                encode_conversation(tokenizer, [*prompt, *side], trainable_from=len(prompt), train_acknowledgement=True)
                for side in (pair.chosen, pair.rejected)
            ]  # an OK in the prompt is not trained anyway; a side may be one
            short = [side.cut(config.max_length) for side in sides]
            cut += any(one is not other for one, other in zip(short, sides, strict=True))
            weights = _weights(pair, *short) if config.weighs_steps else (1.0,) * min(side.n_turns for side in short)
            reason = _untrainable(short[0], short[1], weights)
            if reason:
                dropped[f"dropped: {reason}"] += 1
                continue
            name = f"pair {number}: {pair.chosen_id} over {pair.rejected_id}"
            kept.append(EncodedPair(name, short[0], short[1], weights, pair.granularity == "trajectory"))
            tasks.append(pair.task_id)
        counts = {"pairs": len(kept), "truncated": cut, "dropped": len(pairs) - len(kept), **dropped}
        if not kept:
            raise DataError(f"None of {len(pairs)} pairs has two sides to train on (max_length {config.max_length}).")
        held = held_out_items(tasks, config)
        trained = [number for number in range(len(kept)) if number not in held]
        return cls([kept[number] for number in [*trained, *sorted(held)]], config, counts, len(held))

    def laid_out(self, packed: bool) -> PairPlan:
        """The same pairs, as another model takes them."""
        other = PairPlan(self.pairs, self.config, self.counts, len(self.pairs) - self.size)
        other.packed = packed
        return other

    @property
    def words(self) -> str:
        """The counts, for the log."""
        named = ((name, name.replace("_", " ")) for name in ("truncated", "dropped", "held_out"))
        return f"{self.size} pairs ({', '.join(f'{self.counts[name]} {words}' for name, words in named)})"

    @property
    def n_tokens(self) -> int:
        """Read in one pass over all pairs: what the sides of a pair share is read once where they are packed."""
        return sum(self.batch(group).n_tokens for group in self.groups(range(len(self.pairs))))

    def groups(self, items: Sequence[int]) -> list[list[int]]:
        """Places in ``items`` by micro-batch."""
        units = [[self.pairs[item].chosen, self.pairs[item].rejected] for item in items]
        return split_to_fit(units, self.config.micro_batch_tokens, packed=self.packed)

    def batches(self, items: Sequence[int]) -> list[tuple[PairBatch, float]]:
        """Every pair of the step counts the same."""
        return [
            (self.batch([items[number] for number in group]), len(group) / len(items)) for group in self.groups(items)
        ]

    def batch(self, items: Sequence[int]) -> PairBatch:
        """These pairs as one batch."""
        pairs = [self.pairs[item] for item in items]
        tokens = collate([pair.chosen for pair in pairs] + [pair.rejected for pair in pairs], packed=self.packed)
        weights = torch.zeros(len(pairs), self.turns)
        for row, pair in enumerate(pairs):
            weights[row, : len(pair.weights)] = torch.tensor(pair.weights)
        chosen, rejected = self.reference[list(items)].unbind(1)
        everywhere = self.config.sft_scope == "all"
        anchored = torch.tensor([float(everywhere or pair.whole) for pair in pairs])
        return PairBatch(tokens, weights, chosen, rejected, anchored)

    @torch.no_grad()
    def score(self, model: Any, items: Sequence[int]) -> Tensor:
        """Log-probabilities of each reply of both sides: (items, 2, S), in nats."""
        device = next(model.parameters()).device
        result = torch.zeros(len(items), 2, self.turns)
        for group in self.groups(items):
            tokens = to_device(self.batch([items[number] for number in group]).tokens, device)
            sums = reply_logps(score_tokens(model, tokens), tokens, self.turns)
            result[group] = torch.stack(sums.chunk(2), 1).cpu().to(result)
        return result

    def measures(self, model: Any | None) -> dict[str, float]:
        """Means over the diagnostic pairs, trained and held out; None: under the reference itself."""
        found: dict[str, float] = {}
        for prefix, items in (("pairs", self.sample), ("held_out", list(range(self.size, len(self.pairs))))):
            if items and self.config.diagnostic_pairs:
                logps = self.reference[items] if model is None else self.score(model, items)
                values = _measures(*logps.unbind(1), *self.reference[items].unbind(1))
                found |= {f"{prefix}/{name}": value for name, value in values.items()}
        return found

    def weight(self, items: Sequence[int]) -> float:
        """Pairs."""
        return len(items)

    def names(self, items: Sequence[int]) -> list[str]:
        """Number and trajectory ids."""
        return [self.pairs[item].name for item in items]


def held_out_items(tasks: Sequence[str], config: DPOConfig) -> set[int]:
    """Numbers of the pairs that are not trained: whole tasks, drawn by the seed, up to the configured share."""
    allowed = min(int(config.holdout * len(tasks)), config.diagnostic_pairs)
    members: dict[str, list[int]] = defaultdict(list)
    for number, task in enumerate(tasks):
        members[task].append(number)
    order = sorted(members)
    random.Random(f"{config.seed}/holdout").shuffle(order)
    held: set[int] = set()
    for task in order:
        if len(held) + len(members[task]) <= allowed:
            held.update(members[task])
    return held


def _untrainable(chosen: Encoded, rejected: Encoded, weights: Sequence[float]) -> str:
    """Why a pair whose sides are cut to length teaches nothing, or ``""``."""
    if not (chosen.n_turns and rejected.n_turns):
        return "nothing trainable"
    if chosen == rejected:
        return "identical"
    return "" if weights else "no preferred step"


def _weights(pair: PreferencePair, chosen: Encoded, rejected: Encoded) -> tuple[float, ...]:
    """Weights of the steps that both sides (still) have; uniform where none is given or all of the pair's are 0.

    Empty where those that are left are all 0, though others are not: no step is left that the pair prefers.
    """
    steps = min(chosen.n_turns, rejected.n_turns)
    if not any(pair.step_weights):
        return (1.0,) * steps
    weights = tuple(float(weight) for weight in pair.step_weights[:steps])
    return weights if any(weights) else ()
