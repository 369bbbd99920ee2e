"""The one training loop: order, accumulation, logging, probing, saving, resuming.

Nothing in it depends on what happened before the current step except weights, optimiser and probes: the order of the
data and all random draws are functions of (seed, step). So a training that is killed at any moment and started again
ends with the weights and numbers of an undisturbed one.
"""

from __future__ import annotations

import json
import logging
import math
import os
import random
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from tqdm import tqdm

from icto_gym.errors import check_name
from icto_gym.files import write_json, write_text
from trainers.batches import to_device
from trainers.training.checkpoint import TrainingError, drop_folders, load_state, save_state, write_folder
from trainers.training.config import OptimizerConfig
from trainers.training.engine import Engine

logger = logging.getLogger(__name__)
Log = Callable[[Mapping[str, Any]], None]
"""Called with one record per optimiser step. Its ``step`` counts from 1 (0: what was measured before training).
After a resumption the steps since the last saved state come again, with the same numbers: keep one line per step."""
ComputeLoss = Callable[[Any, Any], tuple[Tensor, dict[str, float]]]


class Plan(Protocol):
    """The data of a training, and how a step's items become batches."""

    size: int
    """How many items (trajectories, pairs) there are."""

    def batches(self, items: Sequence[int]) -> list[tuple[Any, float]]:
        """Micro-batches of one optimiser step, each with its share of the step's loss; shares add up to 1."""
        ...

    def names(self, items: Sequence[int]) -> list[str]:
        """What the items are called, for error reports."""
        ...


@dataclass
class Position:
    """How far a training has come."""

    step: int = 0
    probes: list[dict[str, Any]] = field(default_factory=list)
    best: int | None = None
    """Step of the best probe."""


def total_steps(size: int, config: OptimizerConfig) -> int:
    """Optimiser steps of a training over ``size`` items."""
    return max(1, math.ceil(config.epochs * math.ceil(size / config.batch_size)))


def items_of_step(size: int, step: int, config: OptimizerConfig) -> list[int]:
    """The items of optimiser step ``step`` (from 0): each epoch shuffles anew, its last step may be smaller."""
    per_epoch = math.ceil(size / config.batch_size)
    epoch, place = divmod(step, per_epoch)
    order = list(range(size))
    random.Random(f"{config.seed}/{epoch}").shuffle(order)
    return order[place * config.batch_size : (place + 1) * config.batch_size]


def fit(
    engine: Engine,
    plan: Plan,
    compute_loss: ComputeLoss,
    config: OptimizerConfig,
    out: Path,
    *,
    save: Callable[[Path, Mapping[str, Any]], None],
    log: Log | None = None,
    probe: Callable[[int], Mapping[str, float]] | None = None,
    finish: Callable[[], Mapping[str, float]] | None = None,
) -> Path:
    """Train, or go on training, until ``out/checkpoint`` is complete.

    Args:
        engine: model and optimiser.
        plan: the data.
        compute_loss: (module, batch) -> (loss, metrics); both are means over the batch.
        config: order, schedule, saving, probing.
        out: see `trainers.training.checkpoint`.
        save: writes a complete checkpoint folder with the given facts in its record.
        log: receives one record per optimiser step.
        probe: step -> numbers; the weights with the best ``config.probe_metric`` become the checkpoint.
        finish: more numbers for the last step's record.
    """
    position = _resume(engine, out)
    if position.step == 0 and not position.probes and probe and config.probe_at_start:
        _probe(engine, probe, position, config, out, save)
    bar = tqdm(total=engine.total_steps, initial=position.step, unit="step", disable=not _bar_wanted(), file=sys.stderr)
    while position.step < engine.total_steps:
        record = _optimiser_step(engine, plan, compute_loss, config, position.step, out)
        position.step += 1
        last = position.step == engine.total_steps
        if log:
            log({**record, **(finish() if last and finish else {})})
        bar.set_postfix(loss=f"{record['train/loss']:.3f}")
        bar.update()
        if probe and (last or (config.probe_every and position.step % config.probe_every == 0)):
            _probe(engine, probe, position, config, out, save)
        elif last or position.step % config.save_every == 0:
            _save(engine, position, out)
    bar.close()
    return _finish(position, out, save)


def _resume(engine: Engine, out: Path) -> Position:
    saved = load_state(out)
    if saved is None:
        return Position()
    tensors, position = saved
    if any(key.startswith("exp_avg/") for key in tensors):
        engine.load_state(tensors)
    logger.info("resumes after step %d of %d", position["step"], engine.total_steps)
    return Position(**position)


def _optimiser_step(
    engine: Engine, plan: Plan, compute_loss: ComputeLoss, config: OptimizerConfig, step: int, out: Path
) -> dict[str, Any]:
    begin = time.monotonic()
    torch.manual_seed(random.Random(f"{config.seed}/dropout/{step}").getrandbits(63))
    items = items_of_step(plan.size, step, config)
    sums: dict[str, float] = defaultdict(float)
    tokens = scored = 0
    for batch, share in plan.batches(items):
        batch = to_device(batch, engine.device)
        loss, metrics = compute_loss(engine.module, batch)
        for name, value in {"loss": float(loss.detach()), **metrics}.items():
            sums[name] += share * value
        if not math.isfinite(loss.item()):
            _stop("loss", float(loss.detach()), step, batch, plan.names(items), out)
        engine.backward(loss * share)
        tokens, scored = tokens + batch.n_tokens, scored + batch.n_scored
    rate = engine.learning_rate(step)
    norm = engine.step(step)
    if not math.isfinite(norm):
        _stop("gradient", norm, step, batch, plan.names(items), out)
    return {
        "step": step + 1,
        "train/epoch": (step + 1) / math.ceil(plan.size / config.batch_size),
        "train/learning_rate": rate,
        "train/grad_norm": norm,
        "train/tokens": tokens,
        "train/scored_tokens": scored,
        "train/seconds": time.monotonic() - begin,
        **{f"train/{name}": float(value) for name, value in sums.items()},
    }


def _stop(what: str, value: float, step: int, batch: Any, names: list[str], out: Path) -> None:
    """Save the batch that broke the training and raise."""
    from safetensors.torch import save_file

    place = out / f"nonfinite-step-{step + 1:06d}"

    def fill(draft: Path) -> None:
        save_file(
            {key: tensor.cpu().contiguous() for key, tensor in _tensors(batch).items()}, draft / "batch.safetensors"
        )
        write_json(draft / "batch.json", {"step": step + 1, "what": what, "value": str(value), "items": names})

    write_folder(place, fill)
    raise TrainingError(
        f"The {what} became {value} at optimiser step {step + 1}. The batch is kept in {place}. Lower the "
        "learning rate or max_grad_norm, or look for broken records among its items; starting again resumes before "
        "this step."
    )


def _tensors(batch: Any) -> dict[str, Tensor]:
    found = {}
    for name, value in vars(batch).items():
        if isinstance(value, Tensor):
            found[name] = value.clone()
        elif hasattr(value, "input_ids"):
            found |= {f"{name}.{key}": tensor for key, tensor in _tensors(value).items()}
    return found


def _probe(
    engine: Engine,
    probe: Callable[[int], Mapping[str, float]],
    position: Position,
    config: OptimizerConfig,
    out: Path,
    save: Callable[[Path, Mapping[str, Any]], None],
) -> None:
    """Measure the weights as they are, keep them if none were better, and save the state so as not to measure again."""
    training = engine.module.training
    with torch.random.fork_rng(devices=[]):
        metrics = {name: float(value) for name, value in probe(position.step).items()}
    engine.module.train(training)
    check_name(config.probe_metric, metrics, "probe_metric")
    scores = {item["step"]: _score(item[config.probe_metric]) for item in position.probes}
    position.probes.append({"step": position.step, **metrics})
    if position.best is None or _score(metrics[config.probe_metric]) >= scores[position.best]:
        position.best = position.step
        save(out / f"best-{position.step:06d}", {"step": position.step, "probe": metrics})
    write_text(out / "probes.jsonl", "".join(json.dumps(item, sort_keys=True) + "\n" for item in position.probes))
    _save(engine, position, out)
    drop_folders(out, "best-", keep=f"best-{position.best:06d}")


def _score(value: float) -> float:
    return -math.inf if math.isnan(value) else value


def _save(engine: Engine, position: Position, out: Path) -> None:
    facts = {"probes": position.probes, "best": position.best}
    save_state(out, position.step, engine.state(), facts)


def _finish(position: Position, out: Path, save: Callable[[Path, Mapping[str, Any]], None]) -> Path:
    """Give the result its name, then drop what was only needed on the way."""
    target = out / "checkpoint"
    if position.best is None:
        save(target, {"step": position.step})
    else:
        os.replace(out / f"best-{position.best:06d}", target)
    drop_folders(out, "state-")
    drop_folders(out, "best-")
    return target


def _bar_wanted() -> bool:
    return os.environ.get("ICTO_PROGRESS") == "1" or sys.stderr.isatty()
