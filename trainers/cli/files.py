"""One file in, one file out: ``icto rollout | judge | score | pair``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from icto_gym.errors import ConfigError
from trainers import stages
from trainers.cli.parsing import ConfigFile, Flat, parse, read_section
from trainers.config import read_yaml
from trainers.feedback import JudgeConfig, StepRewardConfig
from trainers.pairing import PairingConfig
from trainers.rollout import RolloutConfig
from trainers.runs import Run

ROLLOUT_EXAMPLES = """
icto rollout expert --env-id icto/WebShop-v0 --split train --max-tasks 50 --attempts 1 --out runs/a/expert.jsonl
icto rollout hf:runs/demo/sft/checkpoint --config examples/configs/demo.yaml --out runs/a/trajectories.jsonl
icto rollout random --env-id icto/WebShop-v0 --epsilon 0 --out runs/a/random.jsonl
icto rollout openai:my-model --policy-options '{base_url: "http://localhost:8000/v1"}' --out runs/a/remote.jsonl
icto rollout expert --env-id icto/ScienceWorld-v0 --workers processes:4 --max-tasks 20 --out runs/a/science.jsonl
icto rollout expert --also alfworld.yaml scienceworld.yaml --max-tasks 20 --out runs/a/mix.jsonl
"""
JUDGE_EXAMPLES = """
icto judge runs/a/trajectories.jsonl --out runs/a/verdicts.jsonl
"""
SCORE_EXAMPLES = """
icto score runs/a/trajectories.jsonl --out runs/a/step_rewards.jsonl
"""
PAIR_EXAMPLES = """
icto pair runs/a/trajectories.jsonl --verdicts runs/a/verdicts.jsonl --out runs/a/pairs.jsonl
icto pair runs/a/trajectories.jsonl --demonstrations runs/a/expert.jsonl --granularity step --out runs/a/steps.jsonl
"""


def show(facts: Mapping[str, Any]) -> None:
    """Print a stage's result on standard output."""
    print(json.dumps(facts, indent=2))


def in_folder(out: Path) -> Run:
    """A run in the folder that holds the output: there its record and lock are kept."""
    return Run(out.parent, redo=False)


def existing(path: Path) -> Path:
    """An input file.

    Raises:
        ConfigError: it is not there.
    """
    if not path.exists():
        raise ConfigError(f"There is no file {path}.")
    return path


# ---- rollout ----------------------------------------------------------------------------------
@dataclass(frozen=True)
class RolloutCommand:
    """Play episodes and keep every one; what --out holds already is not played again."""

    policy: Annotated[str, tyro.conf.Positional]
    """random, expert, hf:<model or checkpoint>, openai:<model>, or package.module:Name."""
    out: Path
    """File for the trajectories."""
    policy_options: dict[str, Any] = field(default_factory=dict)
    """Arguments of the policy."""
    also: tuple[Path, ...] = ()
    """YAML files with the settings of further environments, played in the same rollout."""
    config: ConfigFile = None
    settings: Annotated[RolloutConfig, Flat] = field(default_factory=RolloutConfig)


def rollout(arguments: list[str]) -> None:
    """``icto rollout``."""
    command = parse(RolloutCommand, arguments, prog="icto rollout", examples=ROLLOUT_EXAMPLES, section="rollout")
    player = stages.named_player(command.policy, command.policy_options)
    others = [read_section(RolloutConfig, read_yaml(existing(path)), str(path), "rollout") for path in command.also]
    with in_folder(command.out) as run:
        stages.explore(run, command.out, player, command.settings, *others)
        show(stages.facts_of(run, command.out))


# ---- judge, score, pair -----------------------------------------------------------------------
@dataclass(frozen=True)
class JudgeCommand:
    """Decide which trajectories may be learned from; every verdict has a reason, nothing is deleted."""

    trajectories: Annotated[Path, tyro.conf.Positional]
    """File of trajectories."""
    out: Path
    """File for the verdicts."""
    config: ConfigFile = None
    settings: Annotated[JudgeConfig, Flat] = field(default_factory=JudgeConfig)


def judge(arguments: list[str]) -> None:
    """``icto judge``."""
    command = parse(JudgeCommand, arguments, prog="icto judge", examples=JUDGE_EXAMPLES, section="judge")
    with in_folder(command.out) as run:
        stages.judge(run, command.out, existing(command.trajectories), command.settings)
        show(stages.facts_of(run, command.out))


@dataclass(frozen=True)
class ScoreCommand:
    """Give every step of every trajectory a reward."""

    trajectories: Annotated[Path, tyro.conf.Positional]
    """File of trajectories."""
    out: Path
    """File for the step rewards."""
    model: Path | None = None
    """Checkpoint of the reward model, where one predicts the rewards."""
    config: ConfigFile = None
    settings: Annotated[StepRewardConfig, Flat] = field(default_factory=StepRewardConfig)


def score(arguments: list[str]) -> None:
    """``icto score``."""
    command = parse(ScoreCommand, arguments, prog="icto score", examples=SCORE_EXAMPLES, section="step_rewards")
    if command.model is not None and command.settings.source != "learned":
        raise ConfigError(f"--model is asked by --source learned only, and --source is {command.settings.source}.")
    with in_folder(command.out) as run:
        stages.score_steps(run, command.out, [existing(command.trajectories)], command.settings, command.model)
        show(stages.facts_of(run, command.out))


@dataclass(frozen=True)
class PairCommand:
    """Set failures against successes of the same task."""

    trajectories: Annotated[Path, tyro.conf.Positional]
    """File of explored trajectories."""
    out: Path
    """File for the pairs."""
    verdicts: Path | None = None
    """What a judge said; left out: everything is accepted."""
    step_rewards: Path | None = None
    """Rewards of steps; left out: as the environment gave them."""
    demonstrations: Path | None = None
    """Trajectories of the expert, each a success of its task."""
    config: ConfigFile = None
    settings: Annotated[PairingConfig, Flat] = field(default_factory=PairingConfig)


def pair(arguments: list[str]) -> None:
    """``icto pair``."""
    command = parse(PairCommand, arguments, prog="icto pair", examples=PAIR_EXAMPLES, section="pairing")
    others: dict[str, Any] = {
        "verdicts": command.verdicts,
        "step_rewards": command.step_rewards,
        "demonstrations": command.demonstrations,
    }
    for path in (command.trajectories, *filter(None, others.values())):
        existing(path)
    with in_folder(command.out) as run:
        stages.pair(run, command.out, command.trajectories, command.settings, **others)
        show(stages.facts_of(run, command.out))
