"""``icto report``: run folders to one HTML page and tables for the terminal."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from icto_gym.errors import ConfigError
from icto_gym.trajectory import Trajectory
from trainers import stages
from trainers.cli.parsing import parse
from trainers.config import from_mapping
from trainers.models.config import ModelConfig
from trainers.report import read_run, run_text, write_report
from trainers.report.contrasts import choose_contrasts
from trainers.report.data import RunData
from trainers.report.episodes import MOST_EPISODES
from trainers.report.likelihoods import BASE, checkpoint_of, likelihood_file, weights_digest
from trainers.runs import Run

logger = logging.getLogger(__name__)

EXAMPLES = """
icto report runs/demo                                         the page is runs/demo/report.html
icto report runs/demo --likelihoods                           with the probability of each action before and after
icto report runs/demo runs/beta02 --out comparison.html       several runs side by side: ablations, seeds
icto report runs/* --episodes 200 --out small.html            fewer episodes in the viewer
"""


@dataclass(frozen=True)
class ReportCommand:
    """Write one HTML page about one or several runs, and print their tables. The page needs no network."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run folders; differences are to the first."""
    out: Path | None = None
    """The page; left out: report.html in the first run's folder."""
    likelihoods: bool = False
    """Have the policies before and after training say how likely they find the actions of the pairs that are set side
    by side (needs the extra train); the answers are kept in the run's folder likelihoods and shown from then on."""
    episodes: int = MOST_EPISODES
    """At most so many episodes in the viewer, telling ones first."""


def report(arguments: list[str]) -> None:
    """``icto report``."""
    command = parse(ReportCommand, arguments, prog="icto report", examples=EXAMPLES)
    _check(command)
    for folder in command.runs:
        if command.likelihoods:
            with Run(folder):
                rate_contrasts(read_run(folder))
        print(run_text(read_run(folder)))
    out = command.out or command.runs[0] / "report.html"
    page = write_report(command.runs, out, most_episodes=command.episodes)
    print(f"The page with curves, causes and episodes: {page}")


def _check(command: ReportCommand) -> None:
    if not command.runs:
        raise ConfigError("Name at least one run folder, such as runs/demo.")
    if command.episodes < 0:
        raise ConfigError(f"--episodes is {command.episodes}; give 0 or more.")
    for folder in command.runs:
        if not folder.is_dir():
            raise ConfigError(f"There is no run folder {folder}.")
        if not any((folder / name).exists() for name in ("config.yaml", "stages", "metrics.jsonl")):
            raise ConfigError(f"{folder} is no run folder: it has no config.yaml, stages or metrics.jsonl.")


def rate_contrasts(run: RunData) -> None:
    """Have the start and the result of each training rate the episodes that the report sets side by side."""
    wanted: dict[str, dict[str, Trajectory]] = {}
    for item in choose_contrasts(run):
        for rater in item.raters:
            wanted.setdefault(rater, {}).update({side.trajectory_id: side for side in (item.left, item.right)})
    if not wanted:
        logger.warning("%s: no pair of episodes with a checkpoint before and after, so nothing is rated", run.folder)
    for rater, episodes in wanted.items():
        weights = weights_digest(run, rater)
        if weights is None:
            logger.warning("%s: the checkpoint of %s is gone; its probabilities are not shown", run.folder, rater)
            continue
        start: stages.Start = checkpoint_of(run, rater)
        if rater == BASE:
            start = from_mapping(ModelConfig, run.config["model"], str(run.folder / "config.yaml"), "model")
        out = likelihood_file(run.folder, rater)
        count = stages.rate(out, list(episodes.values()), start, rater, weights)
        logger.info("%s: %s rated %d of %d episodes, the others were known", run.folder, rater, count, len(episodes))
