"""Minari datasets: episodes of text observations and actions, with rewards, for offline reinforcement learning."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import gymnasium as gym

from icto_gym.errors import ConfigError, DataError, require
from icto_gym.trajectory import Trajectory

_ID = re.compile(r"(?:[\w-]+/)*[\w-]+-v\d+")
_ROOT = "MINARI_DATASETS_PATH"


def export_minari(trajectories: Iterable[Trajectory], root: Path, dataset_id: str) -> dict[str, Any]:
    """Write a Minari dataset below ``root``; load it with ``MINARI_DATASETS_PATH=<root>`` and its id.

    Observations and actions are texts; a step's ``infos`` hold response and validity, an episode's options
    its task, policy and score. Episodes without a step have no place in Minari and are counted.

    Args:
        trajectories: the episodes; read twice, since the text spaces name every letter in use.
        root: folder of datasets.
        dataset_id: such as ``icto/webshop-expert-v0``; it must not exist yet.

    Raises:
        ConfigError: the dataset exists, or its id is malformed.
    """
    minari = require("minari", extra="export")
    if not _ID.fullmatch(dataset_id):
        raise ConfigError(f"--dataset-id {dataset_id!r} is no name such as icto/webshop-expert-v0.")
    root = root.resolve()  # Minari joins a relative root with itself
    target = root / dataset_id
    if target.exists():
        raise ConfigError(f"{target} exists. Choose another --dataset-id, such as the next version.")
    steps_of = [len(trajectory.steps) for trajectory in trajectories]
    if not any(steps_of):
        raise DataError(f"There is no episode with a step among {len(steps_of)}, so nothing to put into a dataset.")
    letters, longest, policies = _alphabet(trajectories)
    space = gym.spaces.Text(max_length=max(longest, 1), min_length=0, charset=letters or "a")
    with _draft_in(root, dataset_id) as draft, _datasets_in(draft):
        minari.create_dataset_from_buffers(
            dataset_id,
            [_episode(minari, number, item) for number, item in enumerate(_played(trajectories))],
            observation_space=space,
            action_space=space,
            algorithm_name=", ".join(sorted(policies)),
            description="Text episodes exported from icto_gym trajectories.",
        )
        target.parent.mkdir(parents=True, exist_ok=True)
        _describe_namespace(draft, root, dataset_id)
        os.replace(draft / dataset_id, target)
    empty = steps_of.count(0)
    return {"written": len(steps_of) - empty, "not_kept": {"episodes without a step": empty} if empty else {}}


def _played(trajectories: Iterable[Trajectory]) -> Iterator[Trajectory]:
    return (trajectory for trajectory in trajectories if trajectory.steps)


def _alphabet(trajectories: Iterable[Trajectory]) -> tuple[frozenset[str], int, set[str]]:
    letters: set[str] = set()
    longest, policies = 0, set()
    for trajectory in _played(trajectories):
        _check_storable(trajectory)
        policies.add(trajectory.policy)
        for text in [*_observations(trajectory), *trajectory.actions]:
            letters.update(text)
            longest = max(longest, len(text))
    return frozenset(letters), longest, policies


def _check_storable(trajectory: Trajectory) -> None:
    """Refuse what HDF5, Minari's file format, has no place for, in any text of the episode.

    Raises:
        DataError: naming the episode and the character.
    """
    steps = trajectory.steps
    facts = [text for text in asdict(replace(trajectory, steps=())).values() if isinstance(text, str)]
    texts = [text for step in steps for text in (step.observation, step.response, step.action)]
    found = re.search("[\0\ud800-\udfff]", "".join([*facts, *texts]))
    if found:
        raise DataError(
            f"{trajectory.trajectory_id} holds the character {found.group()!r}, which HDF5 cannot store. "
            "Export it to .jsonl instead, or leave the episode out."
        )


def _observations(trajectory: Trajectory) -> list[str]:
    return [*(step.observation for step in trajectory.steps), trajectory.final_observation]


def _episode(minari: Any, number: int, trajectory: Trajectory) -> Any:
    steps = trajectory.steps
    ends = [False] * (len(steps) - 1)
    facts = {
        "trajectory_id": trajectory.trajectory_id, "task_id": trajectory.task_id, "env_id": trajectory.env_id,
        "policy": trajectory.policy, "score": trajectory.score, "success": trajectory.success,
        "instruction": trajectory.instruction, "system_prompt": trajectory.system_prompt,
        "error": trajectory.error or "",
    }  # fmt: skip
    return minari.data_collector.EpisodeBuffer(
        id=number, seed=trajectory.seed, options=facts, observations=_observations(trajectory),
        actions=list(trajectory.actions), rewards=[float(step.reward) for step in steps],
        terminations=[*ends, trajectory.terminated], truncations=[*ends, trajectory.truncated],
        infos={
            "response": ["", *(step.response for step in steps)],
            "valid_action": [True, *(step.valid for step in steps)],
        },
    )  # fmt: skip


def _describe_namespace(draft: Path, root: Path, dataset_id: str) -> None:
    """Minari keeps a description beside the datasets of a namespace."""
    for folder in Path(dataset_id).parents:
        described = draft / folder / "namespace_metadata.json"
        if described.is_file() and not (root / folder / described.name).exists():
            shutil.copy(described, root / folder / described.name)


@contextmanager
def _draft_in(root: Path, dataset_id: str) -> Iterator[Path]:
    """A hidden folder to write the dataset in; what an export of it left when it was killed is removed first."""
    prefix = f".minari-{dataset_id.replace('/', '.')}@"
    root.mkdir(parents=True, exist_ok=True)
    for left in root.glob(f"{prefix}*"):
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=root) as draft, warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module="minari")  # no author, no environment: so it is
        yield Path(draft)


@contextmanager
def _datasets_in(folder: Path) -> Iterator[None]:
    before = os.environ.get(_ROOT)
    os.environ[_ROOT] = str(folder)
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(_ROOT, None)
        else:
            os.environ[_ROOT] = before
