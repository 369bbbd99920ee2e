"""What methods share: common settings, the steps that all of them take, and measuring a policy on several splits."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from icto_gym.errors import ConfigError, check_name
from icto_gym.files import read_json
from icto_gym.tasks import shared_tasks
from trainers import distributed, stages
from trainers.config import config_difference
from trainers.diagnostics import budget, iteration_facts
from trainers.distributed import EngineConfig
from trainers.evaluation.evaluate import PROBE_METRICS, EvaluationConfig, ProbeConfig, chosen_manifest, greedy
from trainers.evaluation.metrics import HIGHER_IS_BETTER
from trainers.models.config import ModelConfig
from trainers.policies.base import derive_seed
from trainers.rollout import RolloutConfig
from trainers.runs import Run
from trainers.sampling import list_tasks
from trainers.stages import ActingConfig, DemonstrationConfig, Start, Watch
from trainers.training.config import DPOConfig, OptimizerConfig, SFTConfig
from trainers.training.plug_in import make_objective

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class MethodConfig(EngineConfig):
    """What every method is told."""

    seed: int | None = None
    """Takes the place of the seeds of all sections; None: they keep their own."""
    start: Path | None = None
    """A checkpoint to start from in the place of cloning, so that several methods share one clone."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """What is trained."""
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    """The environment, and how training tasks are explored."""
    acting: ActingConfig = field(default_factory=ActingConfig)
    """How the model writes."""
    demonstrations: DemonstrationConfig = field(default_factory=DemonstrationConfig)
    """Whom to imitate."""
    sft: SFTConfig = field(default_factory=SFTConfig)
    """How to imitate."""
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    """How to watch training."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    """What to measure."""


LEAST_RATE = 1e-6
"""A learning rate up to this does next to nothing to an adapter."""
C = TypeVar("C")
M = TypeVar("M", bound=MethodConfig)


# ---- before -----------------------------------------------------------------------------------
def prepared(config: M) -> M:
    """The config with its seed in every section; what cannot work (a start, splits) is found here, before any work."""
    config = seeded(config)
    check_engine(config)
    check_watched(config)
    check_measured(config)
    check_objectives(config)
    check_precision(config)
    check_rates(config)
    if config.demonstrations.file is not None and not config.demonstrations.file.exists():
        raise ConfigError(f"demonstrations.file {str(config.demonstrations.file)!r} is not there.")
    if config.rollout.window is not None:
        logger.warning(
            "rollout.window is %d: the policy acts on shortened histories, but is trained on whole ones",
            config.rollout.window,
        )
    if config.start is not None:
        from trainers.models.loading import read_checkpoint

        read_checkpoint(config.start)
    check_splits(config)
    return config


def check_engine(config: MethodConfig) -> None:
    """Refuse to train in one process what is to be trained by DeepSpeed, where a program forgot to start it, and to
    watch a policy whose weights no process has whole.

    Raises:
        ConfigError: with the line that starts it, or naming both settings.
    """
    if config.probe.tasks and distributed.splits_weights(config):  # else it would be found after hours of training
        raise ConfigError(
            f"deepspeed is {config.deepspeed!r}, which splits the weights over the processes, so the policy cannot "
            f"play while it is trained, and probe.tasks is {config.probe.tasks}. Set probe.tasks to 0, or use zero2."
        )
    if config.engine != "local" and distributed.engine().engine == "local":
        raise ConfigError(
            f"engine is {config.engine!r}, and was not started. Call the method within "
            "`with trainers.distributed.launched(config):`, as icto run does, or set engine to 'local'."
        )


def check_precision(config: MethodConfig) -> None:
    """Refuse precisions that the weights cannot have; those of a ``start`` are seen when it is loaded.

    Raises:
        ConfigError: naming both settings.
    """
    if config.start is not None:
        return
    weights = config.model.quantization or config.model.dtype
    if config.acting.dtype is not None and config.model.quantization:
        raise ConfigError(
            f"acting.dtype is {config.acting.dtype!r}, but weights in {weights} cannot be cast. Leave it out."
        )
    for name in ("sft", "dpo", "reward", "ppo"):
        mixed = getattr(getattr(config, name, None), "mixed_precision", None)
        if mixed is not None and weights != "float32":
            raise ConfigError(f"{name}.mixed_precision is {mixed!r}, which is for weights in float32, not {weights}.")


def check_rates(config: MethodConfig) -> None:
    """Warn of a learning rate that was published for all weights where an adapter is trained, which it hardly moves."""
    if config.model.lora is None:
        return
    sections = {item.name: getattr(config, item.name) for item in dataclasses.fields(config)}
    rates = {f"{name}.learning_rate": part.learning_rate for name, part in sections.items()
             if isinstance(part, OptimizerConfig)}  # fmt: skip
    if sections.get("learning_rates"):  # ETO's, in the place of that under dpo
        rates["learning_rates"] = min(sections["learning_rates"])
        del rates["dpo.learning_rate"]
    for name, rate in rates.items():
        if rate <= LEAST_RATE:
            logger.warning(
                "%s is %g, as for all weights; an adapter hardly moves by it. Give about twenty times as much, or set "
                "model.lora to None.", name, rate,
            )  # fmt: skip


def seeded(config: C) -> C:
    """The config with its own ``seed``, if it has one, in the place of every section's."""
    seed = getattr(config, "seed", None)
    if seed is None:
        return config
    changed: dict[str, Any] = {}
    for item in dataclasses.fields(config):  # type: ignore[arg-type]
        section = getattr(config, item.name)
        if dataclasses.is_dataclass(section) and any(inner.name == "seed" for inner in dataclasses.fields(section)):
            changed[item.name] = replace(section, seed=seed)  # type: ignore[type-var]
    return replace(config, **changed)  # type: ignore[type-var]


def check_base(config: MethodConfig) -> None:
    """Refuse a ``start`` made of another model in a method that trains from the model as it was before cloning.

    Raises:
        ConfigError: naming both models.
    """
    if config.start is None or not getattr(config, "from_base", True):
        return
    from trainers.models.loading import read_checkpoint

    recorded = ModelConfig.from_dict(read_checkpoint(config.start)["model"])
    if recorded.name != config.model.name:
        raise ConfigError(
            f"start {str(config.start)!r} was made of the model {recorded.name!r}, and from_base would train "
            f"{config.model.name!r}. Give model.name {recorded.name!r}, or from_base false to go on from the start."
        )
    different = config_difference(replace(recorded, seed=config.model.seed), config.model)
    if different:
        logger.warning("the start was trained with other model settings: %s", "; ".join(different))


def check_watched(config: MethodConfig) -> None:
    """Refuse a training that is to stop early in a run that watches none, or that chooses weights by what its probes
    do not measure.

    Raises:
        ConfigError: naming the section.
    """
    for item in dataclasses.fields(config):
        section = getattr(config, item.name)
        if isinstance(section, OptimizerConfig) and config.probe.tasks:
            check_name(section.probe_metric, PROBE_METRICS, f"{item.name}.probe_metric")
        if isinstance(section, OptimizerConfig) and section.patience and not config.probe.tasks:
            raise ConfigError(
                f"{item.name}.patience is {section.patience}, but probe.tasks is 0, so training is not watched. Give "
                f"probe.tasks, such as 16, or set {item.name}.patience to 0."
            )


def check_objectives(config: MethodConfig) -> None:
    """Load every loss that is named by a dotted path, so that a wrong one is found before training."""
    for item in dataclasses.fields(config):
        section = getattr(config, item.name)
        if isinstance(section, DPOConfig) and ":" in section.objective:
            make_objective(section.objective)


def check_measured(config: MethodConfig) -> None:
    """Refuse a split on which choices are made and that is final too, on another number of tasks: it has one result.

    Raises:
        ConfigError: naming split and numbers.
    """
    asked = config.evaluation
    both = sorted({*asked.splits} & {*asked.final_splits})
    if both and asked.max_tasks != asked.final_max_tasks:
        raise ConfigError(
            f"evaluation.splits and evaluation.final_splits both have {both[0]!r}, on {asked.max_tasks or 'all'} and "
            f"{asked.final_max_tasks or 'all'} tasks. Give max_tasks and final_max_tasks one value, or leave "
            f"{both[0]!r} out of one of them."
        )


def check_splits(config: MethodConfig) -> None:
    """List the tasks of every split that will be played, so that a wrong name is found before training.

    Raises:
        InvalidTask: a split that does not exist or has no tasks.
    """
    trained = list_tasks(config.rollout)
    splits = [config.rollout.split, *config.evaluation.splits, *config.evaluation.final_splits]
    splits += [config.probe.split] if config.probe.tasks else []
    splits += [config.demonstrations.split] if config.demonstrations.file is None else []
    for split in dict.fromkeys(splits):
        tasks = chosen_manifest(replace(config.rollout, split=split, max_tasks=None))
        shared = shared_tasks(tasks, trained)
        if shared and split != config.rollout.split:
            logger.warning("%d tasks of %r stand in %r too", len(shared), split, config.rollout.split)


# ---- the steps of a method --------------------------------------------------------------------
def demonstrated(config: MethodConfig, run: Run) -> Path:
    """The demonstrations D: what the expert showed, played or read from a file."""
    return stages.demonstrate(run, run.path("demonstrations.jsonl"), config.demonstrations, config.rollout)


def cloned(config: MethodConfig, run: Run, demonstrations: Path) -> Path:
    """The clone π that a method begins with (trained, or the one in ``start``), measured where choices are made."""
    policy = config.start
    if policy is None:
        # watched where asked: preference training measures its outcome anyway, before its own first step
        watch = watching(config) if config.sft.probe_every else None
        policy = stages.train_sft(run, run.path("sft"), demonstrations, config.model, config.sft, watch)
    evaluate_splits(run, policy, "sft", config, config.evaluation.splits, config.evaluation.max_tasks)
    return policy


def explored(config: MethodConfig, run: Run, number: int, policy: Start) -> Path:
    """Training tasks as the policy plays them in this iteration; every iteration draws anew."""
    player = explorer(config, number, policy)
    exploration = replace(config.rollout, seed=iteration_seed(config, number))
    return stages.explore(run, run.iteration(number) / "trajectories.jsonl", player, exploration)


def explorer(config: MethodConfig, number: int, policy: Start) -> stages.Player:
    """The policy under the name that this iteration's episodes record."""
    return stages.model_player(policy, f"explore-{number}", config.acting)


def iteration_seed(config: MethodConfig, number: int) -> int:
    """The seed of everything an iteration plays."""
    return derive_seed(config.rollout.seed, "iteration", number)


def contrasted(
    config: MethodConfig,
    run: Run,
    pairs: Path,
    policy: Start,
    dpo: DPOConfig,
    reference: Start | None = None,
) -> Start:
    """The policy after learning from the pairs; as it was where there are none.

    Args:
        reference: what DPO compares with; None: the policy itself as it is now.
    """
    if not stages.facts_of(run, pairs)["pairs"]:
        logger.warning("%s made no pairs; the policy stays as it is", run.name_of(pairs.parent))
        return policy
    return stages.train_dpo(run, pairs.parent / "dpo", pairs, policy, dpo, watching(config), reference)


def watching(config: MethodConfig) -> Watch:
    """How training is watched on dev tasks."""
    # as it is played there, so that other ways of exploring do not train the clone again
    return Watch(config.probe, greedy(config.rollout, config.probe.split, config.probe.tasks or None), config.acting)


# ---- measuring --------------------------------------------------------------------------------
def measured(config: MethodConfig, run: Run, number: int, label: str, policy: Start) -> None:
    """Play the splits that choices are made on, and note what the iteration did."""
    played = evaluate_splits(run, policy, label, config, config.evaluation.splits, config.evaluation.max_tasks)
    stages.note(run.iteration(number) / "metrics.json", iteration_facts(run, number, played))


def concluded(config: MethodConfig, run: Run, policies: Mapping[str, Start]) -> Path | None:
    """Choose among the policies of a run, measure on the final splits, and add up what the run spent.

    Args:
        policies: by label, in the order they came to be; the last one is the method's result unless
            ``evaluation.choose`` says otherwise.

    Returns:
        The chosen checkpoint; None if it is a model that nothing was trained on.
    """
    label = choose(config, run, list(policies))
    if config.evaluation.base and not config.start:
        policies = {"base": config.model, **policies}
    wanted = [name for name in ("base", "sft") if name in policies and not (name == "sft" and config.start)]
    for name in dict.fromkeys([*wanted, label]):
        splits, limit = config.evaluation.final_splits, config.evaluation.final_max_tasks
        evaluate_splits(run, policies[name], name, config, splits, limit)
    stages.note(run.path("chosen.json"), {"label": label, "rule": config.evaluation.choose})
    stages.note(run.path("budget.json"), budget(run))
    chosen = policies[label]
    return chosen if isinstance(chosen, Path) else None


def choose(config: MethodConfig, run: Run, labels: Sequence[str]) -> str:
    """The last policy, or the best one on the first split that choices are made on (of equals the latest)."""
    if config.evaluation.choose == "last":
        return labels[-1]
    metric, split = config.evaluation.choose_by, config.evaluation.splits[0]
    sign = 1 if HIGHER_IS_BETTER[metric] else -1
    scores = {}
    for label in labels:
        path = run.path("evaluation", label, split.replace("/", "_"), "metrics.json")
        found = read_json(path)["metrics"]
        if metric not in found:
            raise ConfigError(
                f"evaluation.choose_by is {metric!r}, which {path} does not have; it has: {', '.join(found)}."
            )
        scores[label] = sign * found[metric]["value"]
    return max(reversed(labels), key=lambda label: scores[label])


def evaluate_splits(
    run: Run, start: Start, label: str, config: MethodConfig, splits: Sequence[str], max_tasks: int | None
) -> list[Path]:
    """Measure one policy greedily on splits; returns ``evaluation/<label>/<split>/metrics.json`` of each."""
    player, written = stages.model_player(start, label, config.acting), []
    for split in splits:
        played = greedy(config.rollout, split, max_tasks, optimal=config.evaluation.optimal_actions)
        out = run.path("evaluation", label, split.replace("/", "_"))
        written.append(stages.evaluate(run, out, player, played, label=label))
    return written
