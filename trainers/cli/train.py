"""One training: ``icto train sft | dpo | reward | preference | ppo``."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from icto_gym.errors import check_name
from trainers import method_stages, stages
from trainers.cli.files import existing, show
from trainers.cli.parsing import ConfigFile, Flat, parse
from trainers.distributed import EngineConfig, launched, rank
from trainers.feedback import StepRewardConfig
from trainers.models.config import ModelConfig
from trainers.runs import Run
from trainers.stages import Start
from trainers.training.config import DPOConfig, PPOConfig, RewardConfig, SFTConfig

logger = logging.getLogger(__name__)
TRAIN_HELP = """usage: icto train sft|dpo|reward|preference|ppo ...

  sft         trajectories -> a policy that imitates them
  dpo         pairs -> a policy that prefers their chosen sides
  reward      trajectories -> a model that predicts what each step is worth
  preference  pairs -> a model that rates a reply, where it ends (Bradley-Terry)
  ppo         pairs and such a model -> a policy whose own replies to the pairs' prompts it rates higher

examples:
  icto train sft --help
"""
EXAMPLES = {
    "sft": """
icto train sft runs/a/demonstrations.jsonl --out runs/a/sft
icto train sft runs/a/demonstrations.jsonl --config smollm2-cpu --learning-rate 5e-4 --out runs/a/sft
""",
    "dpo": """
icto train dpo runs/a/pairs.jsonl --start runs/a/sft/checkpoint --beta 0.2 --out runs/a/dpo
""",
    "reward": """
icto train reward runs/a/trajectories.jsonl --targets.gamma 0.95 --out runs/a/reward
""",
    "preference": """
icto train preference runs/a/pairs.jsonl --start runs/a/sft/checkpoint --out runs/a/preference
""",
    "ppo": """
icto train ppo runs/a/pairs.jsonl --reward runs/a/preference/checkpoint --start runs/a/sft/checkpoint --out runs/a/ppo
""",
}
StartAt = Annotated[
    Path | None, tyro.conf.arg(help="Checkpoint folder to start from; left out: the model that --model.* describe.")
]


@dataclass(frozen=True, kw_only=True)
class _Training(EngineConfig):
    """What every training is told."""

    out: Path
    """Folder; the result is in its subfolder checkpoint."""
    start: StartAt = None
    model: ModelConfig = field(default_factory=ModelConfig)
    config: ConfigFile = None


@dataclass(frozen=True, kw_only=True)
class SFTCommand(_Training):
    """Imitate trajectories: negative log-likelihood of what the agent wrote, and of nothing else."""

    trajectories: Annotated[Path, tyro.conf.Positional]
    """File of trajectories."""
    settings: Annotated[SFTConfig, Flat] = field(default_factory=SFTConfig)


@dataclass(frozen=True, kw_only=True)
class DPOCommand(_Training):
    """Learn from preference pairs; the start is the frozen reference."""

    pairs: Annotated[Path, tyro.conf.Positional]
    """File of pairs."""
    settings: Annotated[DPOConfig, Flat] = field(default_factory=DPOConfig)


@dataclass(frozen=True, kw_only=True)
class RewardCommand(_Training):
    """Fit a reward model to rewards of steps by mean squared error."""

    trajectories: Annotated[Path, tyro.conf.Positional]
    """File of trajectories."""
    targets: StepRewardConfig = field(default_factory=StepRewardConfig)
    """What is fitted."""
    settings: Annotated[RewardConfig, Flat] = field(default_factory=RewardConfig)


@dataclass(frozen=True, kw_only=True)
class PreferenceCommand(_Training):
    """Fit a reward model to preferences (Bradley-Terry), read where a side's last reply ends."""

    pairs: Annotated[Path, tyro.conf.Positional]
    """File of pairs."""
    settings: Annotated[RewardConfig, Flat] = field(default_factory=RewardConfig)


@dataclass(frozen=True, kw_only=True)
class PPOCommand(_Training):
    """Raise a reward model's rating of the policy's own replies; the start is the frozen reference."""

    pairs: Annotated[Path, tyro.conf.Positional]
    """File of pairs; only their prompts are read."""
    reward: Path
    """Checkpoint folder of a reward model that `icto train preference` fitted."""
    settings: Annotated[PPOConfig, Flat] = field(default_factory=PPOConfig)


def train(arguments: list[str]) -> None:
    """``icto train sft|dpo|reward|preference|ppo``."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(TRAIN_HELP, end="")
        raise SystemExit(0 if arguments else 2)
    name, rest = arguments[0], arguments[1:]
    command, work, section = VERBS[check_name(name, VERBS, "kind of training")]
    told = parse(command, rest, prog=f"icto train {name}", examples=EXAMPLES[name], section=section)
    _warn_of_unused(told)
    start = existing(told.start) if told.start else told.model  # a folder that is not there would be asked of the hub
    with launched(told), Run(told.out, redo=False) as run:
        work(run, told, start)
        if not rank():
            show({"checkpoint": str(told.out / "checkpoint"), **stages.facts_of(run, told.out)})


def _warn_of_unused(told: Any) -> None:
    """Say which settings have nothing to act on here; a preset for whole methods may bring them along."""
    if told.start and told.model != ModelConfig():
        logger.warning("--model.* is not read: the model is that of the start, %s", told.start)
    asked = [name for name in ("probe_every", "probe_at_start") if getattr(told.settings, name)]
    if asked:
        names = " and ".join(f"--{name.replace('_', '-')}" for name in asked)
        logger.warning("%s: nothing is played here, so the last weights are kept; icto run keeps the best", names)


def _sft(run: Run, told: SFTCommand, start: Start) -> None:
    stages.train_sft(run, told.out, existing(told.trajectories), start, told.settings)


def _dpo(run: Run, told: DPOCommand, start: Start) -> None:
    stages.train_dpo(run, told.out, existing(told.pairs), start, told.settings)


def _reward(run: Run, told: RewardCommand, start: Start) -> None:
    stages.train_reward(run, told.out, [existing(told.trajectories)], told.targets, start, told.settings)


def _preference(run: Run, told: PreferenceCommand, start: Start) -> None:
    method_stages.train_preference_reward(run, told.out, existing(told.pairs), start, told.settings)


def _ppo(run: Run, told: PPOCommand, start: Start) -> None:
    method_stages.train_ppo(run, told.out, existing(told.pairs), existing(told.reward), start, told.settings)


# by name: what it is told, what it does, and the section of a config file that is its own
VERBS: dict[str, tuple[type[Any], Callable[[Run, Any, Start], None], str]] = {
    "sft": (SFTCommand, _sft, "sft"),
    "dpo": (DPOCommand, _dpo, "dpo"),
    "reward": (RewardCommand, _reward, "reward"),
    "preference": (PreferenceCommand, _preference, "reward"),
    "ppo": (PPOCommand, _ppo, "ppo"),
}
