"""Export: trajectories or pairs to the files of others. Every row is read back, and what it lost is counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from icto_gym.errors import ConfigError, DataError, check_name
from icto_gym.store import TrajectoryStore
from icto_gym.trajectory import Step, Trajectory
from trainers.exchange.options import FORMATS, PAIRS, ImportOptions, check_labels
from trainers.exchange.pairs import read_pair
from trainers.exchange.reading import Reading
from trainers.exchange.rows import check_writable, write_rows
from trainers.exchange.trajectories import read_trajectory
from trainers.exchange.writing import COLUMNS, write_row
from trainers.records import PreferencePair, StepRewards, Verdict, read_records


@dataclass(frozen=True)
class ExportOptions:
    """What a format needs that a trajectory does not say."""

    threshold: float = 0.0
    """trl-stepwise: a step is right if its reward is above this."""
    dataset_id: str = "icto/exported-v0"
    """minari: the dataset's id, such as icto/webshop-expert-v0."""


def export_file(
    source: Path,
    format_name: str,
    out: Path,
    options: ExportOptions | None = None,
    *,
    verdicts: Path | None = None,
    step_rewards: Path | None = None,
) -> dict[str, Any]:
    """Write trajectories (or pairs, for the preference formats) in another format.

    Args:
        source: our file of JSON lines.
        format_name: one of `FORMATS`.
        out: ends in .jsonl, .json or .parquet; for minari the folder of its datasets.
        options: thresholds and names.
        verdicts: labels of trl-unpaired; left out: the environment's own success.
        step_rewards: rewards behind the labels of trl-stepwise; left out: as recorded.

    Returns:
        How many records were written, and under ``not_kept`` how many were left out (TRL's formats have no place for
        episodes without a step) and how many would come back with another value of a field.

    Raises:
        DataError: naming file, line and field of what cannot be used; the file holds nothing.
    """
    options = options or ExportOptions()
    check_name(format_name, FORMATS, "format")
    check_labels(format_name, verdicts=verdicts, step_rewards=step_rewards)
    if not source.is_file():
        raise ConfigError(f"There is no file {source}.")
    if out.resolve() in {path.resolve() for path in (source, verdicts, step_rewards) if path}:
        raise ConfigError(f"{out} is the input too. Give the output a name of its own.")
    if format_name == "minari":
        from trainers.exchange.minari import export_minari

        return export_minari(TrajectoryStore(source), out, options.dataset_id)
    check_writable(out)
    labels = {} if verdicts is None else {item.trajectory_id: item.accepted for item in read_records(verdicts, Verdict)}
    rewards = {} if step_rewards is None else {
        item.trajectory_id: item for item in read_records(step_rewards, StepRewards)
    }  # fmt: skip
    lost: Counter[str] = Counter()

    def rows() -> Iterator[dict[str, Any]]:
        reading = Reading(format_name, ImportOptions())
        for record in _with_steps(_records(source, format_name), source, format_name, lost):
            label, given = None, None
            if isinstance(record, Trajectory):
                label = _known(labels, record, verdicts) if verdicts else None
                given = _known(rewards, record, step_rewards).check(record) if step_rewards else None
            row = write_row(record, format_name, label=label, rewards=given, threshold=options.threshold)
            lost.update(_differences(record, row, reading))
            yield row

    count = write_rows(out, rows(), COLUMNS[format_name])
    return {"written": count, "not_kept": dict(sorted(lost.items()))}


def _records(source: Path, format_name: str) -> Iterator[Any]:
    wanted, count = "pairs" if format_name in PAIRS else "trajectories", 0
    try:
        found = read_records(source, PreferencePair) if wanted == "pairs" else TrajectoryStore(source)
        for record in found:
            count += 1
            yield record
    except DataError as error:
        raise DataError(f"{error} (--format {format_name} takes a file of {wanted})") from error
    if not count:
        raise DataError(f"{source} holds no {wanted}, so there is nothing to export.")


def _with_steps(records: Iterable[Any], source: Path, format_name: str, lost: Counter[str]) -> Iterator[Any]:
    """Without the episodes that TRL cannot read: a conversation in which nobody responds is an error of its collators.

    Raises:
        DataError: no episode has a step.
    """
    count = 0
    for record in records:
        if format_name.startswith("trl-") and isinstance(record, Trajectory) and not record.steps:
            lost["episodes without a step"] += 1
            continue
        count += 1
        yield record
    if not count:
        raise DataError(f"{source} holds no episode with a step, so there is nothing to export as {format_name}.")


def _known(found: dict[str, Any], trajectory: Trajectory, path: Path | None) -> Any:
    if trajectory.trajectory_id not in found:
        raise DataError(f"{path} says nothing of {trajectory.trajectory_id!r}. Judge or score these very trajectories.")
    return found[trajectory.trajectory_id]


def _differences(record: Any, row: dict[str, Any], reading: Reading) -> Iterator[str]:
    """Names of the fields that differ once the row is read again."""
    reader: Callable[..., Any] = read_trajectory if isinstance(record, Trajectory) else read_pair
    try:
        back = reader(row, reading)
    except DataError as error:
        yield f"whole record ({error})"[:120]
        return
    for field in fields(record):
        before, after = getattr(record, field.name), getattr(back, field.name)
        if before == after:
            continue
        if field.name == "steps" and len(before) == len(after):
            for part in fields(Step):
                changed = sum(
                    getattr(a, part.name) != getattr(b, part.name) for a, b in zip(before, after, strict=True)
                )
                yield from [f"steps.{part.name}"] * changed
        else:
            yield field.name
