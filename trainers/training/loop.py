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

from icto_gym.errors import ConfigError, check_name
from icto_gym.files import read_json, write_json, write_text
from trainers import distributed
from trainers.batches import to_device
from trainers.models.loading import CHECKPOINT_FILE
from trainers.packing import SegmentMap
from trainers.training.checkpoint import TrainingError, drop_folders, load_state, save_state, write_folder
from trainers.training.config import OptimizerConfig
from trainers.training.engine import Engine

logger = logging.getLogger(__name__)
_ROUNDING = 1e-9
Log = Callable[[Mapping[str, Any]], None]
"""Called with one record per optimiser step. Its ``step`` counts from 1 (0: what was measured before training).
After a resumption the steps since the last saved state come again, with the same numbers: keep one line per step."""
ComputeLoss = Callable[[Any, Any], tuple[Tensor, dict[str, float]]]
Save = Callable[[Path, Mapping[str, Any], "Mapping[str, Tensor] | None"], None]
"""(folder, facts, weights): weights by name where the module's own are not whole, else None."""


class Plan(Protocol):
    """The data of a training, and how a step's items become batches."""

    size: int
    """How many items (trajectories, pairs) there are."""

    def batches(self, items: Sequence[int]) -> list[tuple[Any, float]]:
        """Micro-batches of one optimiser step, each with its share of the step's loss; shares add up to 1."""
        ...

    def weight(self, items: Sequence[int]) -> float:
        """How much these items count beside others of the same step (such as their tokens)."""
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


AMONG_EQUALS = "dev/average_reward"
"""What chooses among probes that are equal by the metric that was asked for."""


def best_probe(probes: Sequence[Mapping[str, Any]], metric: str) -> int:
    """Place of the highest value of ``metric`` among probes, of equals that of the highest average reward, of these the
    latest; NaN is below every number.

    While nothing succeeds, all success rates are equal, and the reward still tells what harms. Means of the same
    scores, added up in another order, differ in their last digit and are equal.
    """
    places = list(range(len(probes)))
    for name in (metric, AMONG_EQUALS):
        scores = {place: _score(probes[place].get(name, math.nan)) for place in places}
        places = [place for place in places if scores[place] >= max(scores.values()) - _ROUNDING]
    return places[-1]


def stopped_early(probes: Sequence[Mapping[str, Any]], config: OptimizerConfig, steps: int) -> str:
    """Why a training of ``steps`` ends after these probes, such as "at step 9 of 40: ..."; "" where it goes on.

    It ends when the last ``config.patience`` probes brought no new best. A probe that equals the best is a new best,
    as it is where weights are kept, so a level score does not end a training. Only probes decide, and they are part
    of the saved state and the same in all processes: whoever resumes, and every process, stops at the same step.
    """
    if not config.patience or not probes or probes[-1]["step"] >= steps:
        return ""
    best = best_probe(probes, config.probe_metric)
    waited = len(probes) - 1 - best
    if waited < config.patience:
        return ""
    since = "1 probe" if waited == 1 else f"{waited} probes in a row"
    return (
        f"at step {probes[-1]['step']} of {steps}: {since} brought no new best {config.probe_metric} "
        f"({probes[best][config.probe_metric]:.4g} at step {probes[best]['step']})"
    )


def check_patience(config: OptimizerConfig, probed: bool) -> None:
    """Refuse a patience that nothing could exhaust.

    Raises:
        ConfigError: the training is not probed.
    """
    if config.patience and not probed:
        raise ConfigError(
            f"patience is {config.patience}, but nothing measures the policy while it is trained here. Train within "
            "a method (icto run) with probe.tasks above 0, give the trainer a probe, or set patience to 0."
        )


def fit(
    engine: Engine,
    plan: Plan,
    compute_loss: ComputeLoss,
    config: OptimizerConfig,
    out: Path,
    *,
    save: Save,
    log: Log | None = None,
    probe: Callable[[int], Mapping[str, float]] | None = None,
    finish: Callable[[], Mapping[str, float]] | None = None,
    before: Callable[[int], Mapping[str, float]] | None = None,
) -> Path:
    """Train, or go on training, until ``out/checkpoint`` is complete.

    Args:
        engine: model and optimiser.
        plan: the data.
        compute_loss: (module, batch) -> (loss, metrics); both are means over the batch.
        config: order, schedule, saving, probing.
        out: see `trainers.training.checkpoint`.
        save: writes a complete checkpoint folder with the given facts in its record; only the first process calls it.
        log: receives one record per optimiser step.
        probe: step -> numbers; the weights with the best ``config.probe_metric`` become the checkpoint, and
            ``config.patience`` may end the training (see `stopped_early`): the last record and the checkpoint's say so.
        finish: more numbers for the last step's record.
        before: called by every process before each optimiser step with its number (from 0), as to make the data that
            it learns from; its numbers join the step's record. Called again for the same step it must give the same.
    """
    check_patience(config, probe is not None)
    position, steps = _resume(engine, out), engine.total_steps
    if position.step == 0 and not position.probes and probe and config.probe_at_start:
        _measure(engine, probe, position, config)
        _keep_probed(engine, position, config, out, save)
    bar = tqdm(total=steps, initial=position.step, unit="step", disable=not bar_wanted(), file=sys.stderr)
    end = stopped_early(position.probes, config, steps)
    while position.step < steps and not end:
        begun = before(position.step) if before else {}
        record = {**_optimiser_step(engine, plan, compute_loss, config, position.step, out), **begun}
        position.step += 1
        last = position.step == steps
        probed = probe and (last or (config.probe_every and position.step % config.probe_every == 0))
        if probe and probed:  # before the record, which says whether it is the last one
            _measure(engine, probe, position, config)
            end = stopped_early(position.probes, config, steps)
        # through the engine, which fetches weights that are split over processes
        more: Any = engine.loss(lambda *_: finish(), None) if (last or end) and finish else {}
        if log and distributed.rank() == 0:
            log({**record, **more, **({"stopped_early": end} if end else {})})
        bar.set_postfix(loss=f"{record['train/loss']:.3f}")
        bar.update()
        if probed:
            _keep_probed(engine, position, config, out, save)
        elif last or position.step % config.save_every == 0:
            _save(engine, position, out)
    bar.close()
    if end:
        logger.info("stopped early %s", end)
    return _finish(engine, position, out, save, end)


def _resume(engine: Engine, out: Path) -> Position:
    saved = load_state(out)
    if saved is None:
        return Position()
    tensors, position = saved
    if position["step"]:
        engine.load_state(tensors)
    logger.info("resumes after step %d of %d", position["step"], engine.total_steps)
    return Position(**position)


def _optimiser_step(
    engine: Engine, plan: Plan, compute_loss: ComputeLoss, config: OptimizerConfig, step: int, out: Path
) -> dict[str, Any]:
    begin, rank = time.monotonic(), distributed.rank()
    place = f"{config.seed}/dropout/{step}" + (f"/{rank}" if rank else "")
    torch.manual_seed(random.Random(place).getrandbits(63))
    items = items_of_step(plan.size, step, config)
    sums: dict[str, float] = defaultdict(float, tokens=0.0, scored_tokens=0.0)
    shares = _my_batches(plan, items)
    for number, (batch, share) in enumerate(shares):
        batch = to_device(batch, engine.device)
        loss, metrics = engine.loss(compute_loss, batch)
        for name, value in {"loss": float(loss.detach()), **metrics}.items():
            sums[name] += share * value
        if not math.isfinite(loss.item()):
            _stop("loss", float(loss.detach()), step, [batch], plan.names(items), out)
        engine.backward(loss * share, last=number + 1 == len(shares))
        if share:
            sums["tokens"] += batch.n_tokens
            sums["scored_tokens"] += batch.n_scored
    sums = _over_processes(sums)
    rate = engine.learning_rate(step)
    norm = engine.step(step)
    if not math.isfinite(norm):
        _stop("gradient", norm, step, [batch for batch, _ in shares], plan.names(items), out)
    return {
        "step": step + 1,
        "train/epoch": (step + 1) / math.ceil(plan.size / config.batch_size),
        "train/learning_rate": rate,
        "train/grad_norm": norm,
        "train/tokens": int(sums.pop("tokens")),
        "train/scored_tokens": int(sums.pop("scored_tokens")),
        "train/seconds": time.monotonic() - begin,
        **{f"train/{name}": float(value) for name, value in sums.items()},
    }


def _my_batches(plan: Plan, items: list[int]) -> list[tuple[Any, float]]:
    """This process's micro-batches with their shares of the step's loss; every process gets equally many.

    All take part in every pass, so one that has less to do repeats a batch that counts nothing.
    """
    world = distributed.world_size()
    if world == 1:
        return plan.batches(items)
    mine = items[distributed.rank() :: world]
    part = plan.weight(mine) / plan.weight(items) if mine else 0.0
    batches = [(batch, part * share) for batch, share in plan.batches(mine or items[:1])]
    return batches + [(batches[-1][0], 0.0)] * (distributed.largest(len(batches)) - len(batches))


def _over_processes(sums: dict[str, float]) -> dict[str, float]:
    names = sorted(sums)
    return dict(zip(names, distributed.add_up([sums[name] for name in names]), strict=True))


def _stop(what: str, value: float, step: int, batches: Sequence[Any], names: list[str], out: Path) -> None:
    """Save what broke the training and raise; a launcher then stops the other processes.

    A loss is of one batch. A gradient is of all that the step was split into, any of which may have broken it.
    """
    from safetensors.torch import save_file

    rank = distributed.rank()  # a gradient that is not finite stops all processes at once, each with its own batch
    place = out / (f"nonfinite-step-{step + 1:06d}" + (f"-process-{rank}" if rank else ""))

    def fill(draft: Path) -> None:
        for number, batch in enumerate(batches, start=1):
            name = "batch" if len(batches) == 1 else f"batch-{number}"
            tensors = {key: tensor.cpu().contiguous() for key, tensor in _tensors(batch).items()}
            save_file(tensors, draft / f"{name}.safetensors")
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
        elif isinstance(value, SegmentMap):
            found[name] = value.rows()
        elif hasattr(value, "input_ids"):
            found |= {f"{name}.{key}": tensor for key, tensor in _tensors(value).items()}
    return found


def _measure(
    engine: Engine, probe: Callable[[int], Mapping[str, float]], position: Position, config: OptimizerConfig
) -> None:
    """Measure the weights as they are."""
    engine.check_probe()
    training = engine.module.training
    with torch.random.fork_rng(devices=[]):
        metrics = distributed.on_first(lambda: {name: float(value) for name, value in probe(position.step).items()})
    engine.module.train(training)
    check_name(config.probe_metric, metrics, "probe_metric")
    position.probes.append({"step": position.step, **metrics})


def _keep_probed(engine: Engine, position: Position, config: OptimizerConfig, out: Path, save: Save) -> None:
    """Keep weights that were just measured if none were better, and save the state so as not to measure again."""
    if best_probe(position.probes, config.probe_metric) == len(position.probes) - 1:
        position.best = position.step
        metrics = {name: value for name, value in position.probes[-1].items() if name != "step"}
        _keep(engine, out / f"best-{position.step:06d}", {"step": position.step, "probe": metrics}, save)
    lines = "".join(json.dumps(item, sort_keys=True) + "\n" for item in position.probes)
    distributed.on_first(lambda: write_text(out / "probes.jsonl", lines))
    _save(engine, position, out)
    distributed.on_first(lambda: drop_folders(out, "best", keep=f"best-{position.best:06d}"))


def _keep(engine: Engine, folder: Path, facts: Mapping[str, Any], save: Save) -> None:
    weights = engine.weights()  # gathered by all, written by the first

    def write() -> None:  # where it fails, the other processes are told
        _check_weights(engine.parameters if weights is None else weights)
        save(folder, facts, weights)

    distributed.on_first(write)


def _check_weights(weights: Mapping[str, Tensor]) -> None:
    """The last step's own loss says nothing of what it did to the weights."""
    broken = [name for name, value in weights.items() if not torch.isfinite(value).all()]
    if broken:
        raise TrainingError(
            f"{len(broken)} of {len(weights)} trained tensors, {broken[0]} among them, hold numbers that "
            "are not finite. Lower the learning rate or max_grad_norm."
        )


def _score(value: float) -> float:
    return -math.inf if math.isnan(value) else value


def _save(engine: Engine, position: Position, out: Path) -> None:
    facts = {"probes": position.probes, "best": position.best}
    state = engine.state()  # gathered by all, written by the first
    distributed.on_first(lambda: save_state(out, position.step, state, facts))


def _finish(engine: Engine, position: Position, out: Path, save: Save, end: str) -> Path:
    """Give the result its name, then drop what was only needed on the way."""
    target = out / "checkpoint"
    if position.best is None:
        _keep(engine, target, {"step": position.step}, save)
    else:
        distributed.on_first(lambda: _name_best(out / f"best-{position.best:06d}", target, end))
    distributed.on_first(lambda: drop_folders(out, "state"))
    distributed.on_first(lambda: drop_folders(out, "best"))
    return target


def _name_best(best: Path, target: Path, end: str) -> None:
    if end:
        record = best / CHECKPOINT_FILE
        write_json(record, {**read_json(record), "stopped_early": end})
    os.rename(best, target)


def bar_wanted() -> bool:
    """Somebody watches, and this is the process that speaks."""
    return distributed.rank() == 0 and (os.environ.get("ICTO_PROGRESS") == "1" or sys.stderr.isatty())
