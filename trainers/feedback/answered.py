"""Verdicts kept as they come: a judging that was cut off goes on where it stopped."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from icto_gym.trajectory import Trajectory
from trainers.feedback.base import Judge, judge_all
from trainers.feedback.llm_judge import EndpointJudge
from trainers.records import Verdict, append_record, read_records

logger = logging.getLogger(__name__)


def judge_kept(judge: Judge, trajectories: Sequence[Trajectory], answered: Path) -> list[Verdict]:
    """Judge a set, in order; verdicts that ``answered`` holds stand, and new ones are added to it at once.

    A judge with a ``judge_all`` of its own, other than that of an endpoint, gives its verdicts all together, so none
    of them is kept before the last.

    Raises:
        ConfigError: an answer is no verdict on its trajectory.
    """
    if isinstance(judge, EndpointJudge):
        return judge.judge_all(trajectories, _known(answered), lambda verdicts: _keep(answered, verdicts))
    if getattr(judge, "judge_all", None) is not None:
        return judge_all(judge, trajectories)
    known = {verdict.trajectory_id: verdict for verdict in _known(answered)}
    return [known.get(item.trajectory_id) or _judge_one(judge, item, answered) for item in trajectories]


def _judge_one(judge: Judge, trajectory: Trajectory, answered: Path) -> Verdict:
    verdicts = judge_all(judge, [trajectory])
    _keep(answered, verdicts)
    return verdicts[0]


def _keep(answered: Path, verdicts: Sequence[Verdict]) -> None:
    for verdict in verdicts:
        append_record(answered, verdict)


def _known(answered: Path) -> list[Verdict]:
    if not answered.exists():
        return []
    verdicts = read_records(answered, Verdict)
    # the code of a user's own judge may have changed since, which nothing here can see
    logger.info("%d verdicts of a judging that was cut off stand; to ask anew, remove %s", len(verdicts), answered)
    return verdicts
