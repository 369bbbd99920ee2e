"""Import: a file of others, record by record, to trajectories or pairs, and an account of what was changed."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

from icto_gym.errors import ConfigError, DataError, check_name
from icto_gym.files import atomic_open
from trainers.exchange.options import FORMATS, PAIRS, BadField, ImportOptions, check_labels
from trainers.exchange.pairs import read_pair
from trainers.exchange.reading import Reading
from trainers.exchange.rows import read_rows, refuse_folder
from trainers.exchange.trajectories import read_trajectory
from trainers.records import Record

logger = logging.getLogger(__name__)

_LISTED = 20


def import_file(
    source: Path,
    format_name: str,
    out: Path,
    options: ImportOptions | None = None,
    *,
    step_rewards: Path | None = None,
    verdicts: Path | None = None,
) -> dict[str, Any]:
    """Read ``source`` into ``out`` (our trajectories or pairs, JSON lines); all files appear only when complete.

    Args:
        source: a .jsonl, .json or .parquet file, or a folder of such files or of a saved dataset.
        format_name: one of `FORMATS`.
        out: the new file.
        options: what the records do not say.
        step_rewards: where the labels of steps go (trl-stepwise).
        verdicts: where the labels of episodes go (trl-unpaired).

    Returns:
        Counts: records read, written and left out, and ``notes``: everything changed or unknown, by its name.

    Raises:
        DataError: naming file, record, field and mend of the first record that cannot be used.
    """
    options = options or ImportOptions()
    check_name(format_name, [name for name in FORMATS if name != "minari"], "format")
    check_labels(format_name, verdicts=verdicts, step_rewards=step_rewards)
    _check(options, format_name, source, [out, *filter(None, (step_rewards, verdicts))])
    reading = Reading(format_name, options)
    make: Callable[[Mapping[str, Any], Reading], Any] = read_pair if format_name in PAIRS else read_trajectory
    counts: Counter[str] = Counter(read=0, written=0, malformed=0)
    with ExitStack() as stack:
        files = {name: stack.enter_context(atomic_open(path)) for name, path in
                 (("main", out), ("step_rewards", step_rewards), ("verdicts", verdicts)) if path}  # fmt: skip
        for record in _records(source, make, reading, counts):
            _put(files["main"], record)
            for name, item in reading.beside.items():
                if name in files:
                    _put(files[name], item)
                else:
                    reading.notes[f"labels not kept (name a file with --{name.replace('_', '-')})"] += 1
        if not counts["written"]:
            raise DataError(f"{source} gave no record that could be used ({counts['malformed']} malformed).")
    return {**counts, "notes": dict(sorted(reading.notes.items()))}


def _check(options: ImportOptions, format_name: str, source: Path, outs: list[Path]) -> None:
    if options.score is not None and not 0 <= options.score <= 1:
        raise ConfigError(f"--score {options.score:g} is outside of 0 to 1.")
    if options.margin is not None and not 0 < options.margin < float("inf"):
        raise ConfigError(f"--margin {options.margin:g} is not above 0.")
    if not 0 < options.reward_scale < float("inf"):
        raise ConfigError(f"--reward-scale {options.reward_scale:g} is not above 0.")
    if options.example_messages < 0 or options.example_messages % 2:
        raise ConfigError(f"--example-messages {options.example_messages}: give an even number from 0.")
    for flag, given in (("--example-messages", options.example_messages), ("--system-prompt", options.system_prompt)):
        if format_name in PAIRS and given:
            raise ConfigError(f"{flag} is for conversations, not for pairs, which keep their prompts as they are.")
    places = [path.resolve() for path in (source, *outs)]
    if len(set(places)) < len(places):
        raise ConfigError("The input and every output need a name of their own.")
    for out in outs:
        refuse_folder(out)


def _records(
    source: Path, make: Callable[[Mapping[str, Any], Reading], Any], reading: Reading, counts: Counter[str]
) -> Iterator[Any]:
    for place, row in read_rows(source):
        counts["read"] += 1
        reading.beside.clear()
        try:
            record = make(_usable(row), reading)
        except BadField as error:
            if not reading.options.skip_malformed:
                raise DataError(
                    f"{place}: {error}. Mend the record, or leave such records out with --skip-malformed."
                ) from error
            counts["malformed"] += 1
            if counts["malformed"] <= _LISTED:
                logger.warning("%s: %s; left out", place, error)
            continue
        counts["written"] += 1
        yield record


def _usable(row: dict[str, Any] | BadField) -> dict[str, Any]:
    if isinstance(row, BadField):
        raise row
    return row


def _put(handle: IO[str], record: Record) -> None:
    handle.write(record.to_json() + "\n")
