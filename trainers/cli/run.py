"""A whole method: ``icto run METHOD``."""

from __future__ import annotations

import logging
from dataclasses import field, make_dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from trainers.cli.parsing import ConfigFile, Flat, parse
from trainers.distributed import EngineConfig, launched, rank
from trainers.methods import METHODS, Method, find_method
from trainers.methods.common import seeded
from trainers.presets import fit_to
from trainers.report import read_run, run_text, write_report
from trainers.runs import Run
from trainers.trackers import TrackerName

logger = logging.getLogger(__name__)

RUN_EXAMPLES = """
icto run icto --config examples/configs/demo.yaml --run runs/demo
icto run icto --config smollm2-cpu --iterations 2 --dpo.beta 0.2 --run runs/beta02
icto run icto --config smollm2-cpu+icto-without-contrast --run runs/without-contrast
icto run eto --config smollm2-cpu --start runs/bc/sft/checkpoint --run runs/eto
icto run bc --config smollm2-cpu --run runs/bc
icto run icto --config smollm2-cpu --tracker tensorboard --run runs/watched
torchrun --nproc_per_node 2 -m -- trainers.cli run icto --engine deepspeed --deepspeed zero2 --run runs/two
torchrun --nproc_per_node 8 -m -- trainers.cli run icto --config paper-llama2-7b --run runs/paper
icto run icto --config runs/demo/config.yaml --dpo.beta 0.2 --run runs/demo-again
icto run my_package.my_module:run_mine --run runs/mine
The same command continues a run that was interrupted, whatever interrupted it.
"""


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
        fit=fit_to(method.name, method.config_class), method=method.name,
    )  # fmt: skip
    with launched(_engine_of(command)), Run(command.run) as opened:
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


def _engine_of(command: Any) -> EngineConfig:
    """What trains: as the method's settings say, or the command beside settings of a user's own that do not."""
    return command.settings if isinstance(command.settings, EngineConfig) else command


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
            ("settings", *settings),
        ],
        bases=() if issubclass(method.config_class, EngineConfig) else (EngineConfig,),
        frozen=True,
        kw_only=True,
    )
    command.__doc__ = method.config_class.__doc__
    return command
