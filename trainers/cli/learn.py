"""Learning: ``icto train`` (one stage) and ``icto run`` (a whole method)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from icto_gym.errors import check_name
from trainers import stages
from trainers.cli.files import existing, show
from trainers.cli.parsing import ConfigFile, Flat, parse
from trainers.distributed import EngineConfig, launched, rank
from trainers.feedback import StepRewardConfig
from trainers.methods import METHODS, Method, find_method
from trainers.methods.common import seeded
from trainers.models.config import ModelConfig
from trainers.presets import fit_to
from trainers.report import read_run, run_text, write_report
from trainers.runs import Run
from trainers.trackers import TrackerName
from trainers.training.config import DPOConfig, RewardConfig, SFTConfig

logger = logging.getLogger(__name__)

TRAIN_HELP = """usage: icto train sft|dpo|reward ...

  sft     trajectories -> a policy that imitates them
  dpo     pairs -> a policy that prefers their chosen sides
  reward  trajectories -> a model that predicts what each step is worth

examples:
  icto train sft --help
"""
SFT_EXAMPLES = """
icto train sft runs/a/demonstrations.jsonl --out runs/a/sft
icto train sft runs/a/demonstrations.jsonl --config smollm2-cpu --optimizer.learning-rate 5e-4 --out runs/a/sft
"""
DPO_EXAMPLES = """
icto train dpo runs/a/pairs.jsonl --start runs/a/sft/checkpoint --beta 0.2 --out runs/a/dpo
"""
REWARD_EXAMPLES = """
icto train reward runs/a/trajectories.jsonl --targets.gamma 0.95 --out runs/a/reward
"""
RUN_EXAMPLES = """
icto run icto --config examples/configs/demo.yaml --run runs/demo
icto run icto --config smollm2-cpu --iterations 2 --dpo.beta 0.2 --run runs/beta02
icto run icto --config smollm2-cpu+icto-without-contrast --run runs/without-contrast
icto run eto --config smollm2-cpu --start runs/bc/sft/checkpoint --run runs/eto
icto run bc --config smollm2-cpu --run runs/bc
icto run icto --config smollm2-cpu --tracker tensorboard --run runs/watched
torchrun --nproc_per_node 2 -m trainers.cli run icto --engine deepspeed --deepspeed zero2 --run runs/two
icto run my_package.my_module:run_mine --run runs/mine
The same command continues a run that was interrupted, whatever interrupted it.
"""
EngineName = Annotated[
    Literal["local", "deepspeed"],
    tyro.conf.arg(help="What trains: this process, or DeepSpeed over all processes that torchrun started."),
]
DeepSpeedName = Annotated[
    str, tyro.conf.arg(help="zero1, zero2, zero3, zero2-offload, zero3-offload, or a DeepSpeed JSON file.")
]
StartAt = Annotated[
    Path | None, tyro.conf.arg(help="Checkpoint folder to start from; left out: the model that --model.* describe.")
]


# ---- train ------------------------------------------------------------------------------------
@dataclass(frozen=True)
class SFTCommand:
    """Imitate trajectories: negative log-likelihood of what the agent wrote, and of nothing else."""

    trajectories: Annotated[Path, tyro.conf.Positional]
    """File of trajectories."""
    out: Path
    """Folder; the result is in its subfolder checkpoint."""
    start: StartAt = None
    model: ModelConfig = field(default_factory=ModelConfig)
    config: ConfigFile = None
    engine: EngineName = "local"
    deepspeed: DeepSpeedName = "zero2"
    settings: Annotated[SFTConfig, Flat] = field(default_factory=SFTConfig)


@dataclass(frozen=True)
class DPOCommand:
    """Learn from preference pairs; the start is the frozen reference."""

    pairs: Annotated[Path, tyro.conf.Positional]
    """File of pairs."""
    out: Path
    """Folder; the result is in its subfolder checkpoint."""
    start: StartAt = None
    model: ModelConfig = field(default_factory=ModelConfig)
    config: ConfigFile = None
    engine: EngineName = "local"
    deepspeed: DeepSpeedName = "zero2"
    settings: Annotated[DPOConfig, Flat] = field(default_factory=DPOConfig)


@dataclass(frozen=True)
class RewardCommand:
    """Fit a reward model to rewards of steps by mean squared error."""

    trajectories: Annotated[Path, tyro.conf.Positional]
    """File of trajectories."""
    out: Path
    """Folder; the result is in its subfolder checkpoint."""
    targets: StepRewardConfig = field(default_factory=StepRewardConfig)
    """What is fitted."""
    start: StartAt = None
    model: ModelConfig = field(default_factory=ModelConfig)
    config: ConfigFile = None
    engine: EngineName = "local"
    deepspeed: DeepSpeedName = "zero2"
    settings: Annotated[RewardConfig, Flat] = field(default_factory=RewardConfig)


def train(arguments: list[str]) -> None:
    """``icto train sft|dpo|reward``."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(TRAIN_HELP, end="")
        raise SystemExit(0 if arguments else 2)
    verbs: dict[str, Callable[[list[str]], None]] = {"sft": _train_sft, "dpo": _train_dpo, "reward": _train_reward}
    verbs[check_name(arguments[0], verbs, "kind of training")](arguments[1:])


def _train_sft(arguments: list[str]) -> None:
    command = parse(SFTCommand, arguments, prog="icto train sft", examples=SFT_EXAMPLES, section="sft")
    with launched(EngineConfig(command.engine, command.deepspeed)), Run(command.out, redo=False) as run:
        start = command.start or command.model
        stages.train_sft(run, command.out, existing(command.trajectories), start, command.settings)
        _show({"checkpoint": str(command.out / "checkpoint"), **stages.facts_of(run, command.out)})


def _train_dpo(arguments: list[str]) -> None:
    command = parse(DPOCommand, arguments, prog="icto train dpo", examples=DPO_EXAMPLES, section="dpo")
    with launched(EngineConfig(command.engine, command.deepspeed)), Run(command.out, redo=False) as run:
        start = command.start or command.model
        stages.train_dpo(run, command.out, existing(command.pairs), start, command.settings)
        _show({"checkpoint": str(command.out / "checkpoint"), **stages.facts_of(run, command.out)})


def _train_reward(arguments: list[str]) -> None:
    command = parse(RewardCommand, arguments, prog="icto train reward", examples=REWARD_EXAMPLES, section="reward")
    with launched(EngineConfig(command.engine, command.deepspeed)), Run(command.out, redo=False) as run:
        start, files = command.start or command.model, [existing(command.trajectories)]
        stages.train_reward(run, command.out, files, command.targets, start, command.settings)
        _show({"checkpoint": str(command.out / "checkpoint"), **stages.facts_of(run, command.out)})


def _show(result: dict[str, Any]) -> None:
    if not rank():
        show(result)


# ---- run --------------------------------------------------------------------------------------
def run(arguments: list[str]) -> None:
    """``icto run METHOD``."""
    if not arguments or arguments[0].startswith("-"):
        print(
            f"usage: icto run {{{','.join(METHODS)}}} ...\n\nexamples:" + RUN_EXAMPLES.replace("\n", "\n  ").rstrip(" ")
        )
        raise SystemExit(0 if arguments and arguments[0] in ("-h", "--help") else 2)
    method = find_method(arguments[0])
    command = parse(
        _run_command(method), arguments[1:], prog=f"icto run {arguments[0]}", examples=RUN_EXAMPLES,
        fit=fit_to(method.name, method.config_class),
    )  # fmt: skip
    with launched(EngineConfig(command.engine, command.deepspeed)), Run(command.run) as opened:
        settings = seeded(command.settings)
        opened.save_config(settings, method.name, force=command.force_config)
        if not rank():
            opened.track(command.tracker)
        checkpoint = method.run(settings, opened)
        logger.info("%s: finished; the last checkpoint is %s", command.run, checkpoint)
        if rank():
            return  # the first process reports
        page = write_report(opened.folder, opened.path("report.html"))
    print(run_text(read_run(command.run)))
    print(f"The page with curves, causes and episodes: {page}")


def _run_command(method: Method) -> type[Any]:
    words = tyro.conf.arg
    settings = (Annotated[method.config_class, Flat], field(default_factory=method.config_class))
    command = make_dataclass(
        "RunCommand",
        [
            ("run", Annotated[Path, words(help="The run's folder; an unfinished run in it is continued.")]),
            ("config", ConfigFile, None),
            ("force_config", Annotated[bool, words(help="Accept a config that differs from the folder's.")], False),
            (
                "tracker",
                Annotated[TrackerName, words(help="Show the metrics there too; nothing is sent without it.")],
                "none",
            ),
            ("engine", EngineName, "local"),
            ("deepspeed", DeepSpeedName, "zero2"),
            ("settings", *settings),
        ],
        frozen=True,
    )
    command.__doc__ = method.config_class.__doc__
    return command
