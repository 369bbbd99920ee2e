"""A run is a folder: its config, its metrics, what each stage read and whether it is complete."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from icto_gym.errors import ConfigError, DataError, IctoError
from icto_gym.files import drop_drafts, read_json, remove, write_json
from trainers import distributed
from trainers.config import config_difference, deciding, read_yaml, save_config, to_mapping
from trainers.digests import digest
from trainers.stage_clock import Spent, StageClock
from trainers.trackers import Tracker, open_tracker

logger = logging.getLogger(__name__)

CONFIG, METRICS, LOCK, STAGES = "config.yaml", "metrics.jsonl", ".lock", "stages"
SUPERSEDED = "superseded.json"
"""Stages that were finished before another config was forced upon the run, and that it has not asked for since."""
KEPT_ALWAYS = "nonfinite-*"
"""What broke a training, kept for inspection though the training is begun anew."""
_SPARE_BYTES = 16 << 20  # less free space than this cannot hold even the smallest checkpoint


class RunError(IctoError, RuntimeError):
    """A run folder that cannot be used: taken, read-only, full."""


class Run:
    """Everything a run knows about itself, in one folder that one process may write at a time.

    Use it as a context manager: entering checks that the folder can be written and takes its lock,
    leaving releases it. The kernel drops the lock of a process that dies, so nothing stale stays.
    """

    def __init__(self, folder: str | os.PathLike[str], *, redo: bool = True) -> None:
        """Args:
        folder: made when entering.
        redo: a stage whose inputs have changed starts anew; False: that is an error.
        """
        self.folder = Path(folder)
        self.redo = redo
        self._lock: int | None = None
        self._logged: set[tuple[str, int]] | None = None
        self._tracker: Tracker | None = None
        self._tracker_name = "none"

    # ---- opening ------------------------------------------------------------------------------
    def __enter__(self) -> Run:
        distributed.on_first(self._open)  # of several processes one writes
        return self

    def _open(self) -> None:
        self._check_writable()
        self._take_lock()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.track("none")
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _check_writable(self) -> None:
        probe = self.folder / f".probe-{os.getpid()}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                probe.write_bytes(b"x" * 4096)
            finally:  # a full disk holds its name
                probe.unlink(missing_ok=True)
            free = shutil.disk_usage(self.folder).free
        except OSError as error:
            raise RunError(
                f"The run folder {self.folder} cannot be written: {error.strerror}. Choose another with --run or --out."
            ) from error
        if free < _SPARE_BYTES:
            raise RunError(
                f"The disk of {self.folder} has {free >> 20} MB left; a run needs at least {_SPARE_BYTES >> 20} MB. "
                "Free space or choose another folder with --run or --out."
            )

    def _take_lock(self) -> None:
        descriptor = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.read(descriptor, 200).decode("utf-8", "replace").strip() or "another process"
            os.close(descriptor)
            raise RunError(
                f"{self.folder} is being written by {owner}. Wait for it, or give this run another folder with --run."
            ) from error
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        self._lock = descriptor

    def save_config(self, config: Any, method: str = "", *, force: bool = False) -> None:
        """Write the resolved config; refuse one that differs from what the folder was started with.

        Fields that decide no result, such as the number of workers, may differ (see `trainers.config.MACHINE`).

        Args:
            config: a dataclass.
            method: the name of the method, kept in the file's first key.
            force: accept the new config; stages whose inputs changed run again.

        Raises:
            ConfigError: listing every difference.
        """
        distributed.on_first(lambda: self._save_config(config, method, force))

    def _save_config(self, config: Any, method: str, force: bool) -> None:
        path = self.folder / CONFIG
        new = {"method": method, **to_mapping(config)} if method else to_mapping(config)
        if path.exists():
            old = dict(read_yaml(path))
            changes = config_difference(deciding(config, old), deciding(config, new))
            if changes and not force:
                listed = "\n  ".join(changes)
                raise ConfigError(
                    f"{self.folder} was started with another config:\n  {listed}\n"
                    "Give the new config its own folder with --run, or accept it with --force-config "
                    "(stages whose inputs changed run again)."
                )
            if changes:
                logger.warning("%s: config changed: %s", self.folder, "; ".join(changes))
                records = map(read_json, self.path(STAGES).glob("*.json"))
                write_json(self.path(SUPERSEDED), sorted({record["stage"] for record in records}))
            elif not config_difference(old, new):
                return
        save_config(new, path)

    # ---- paths --------------------------------------------------------------------------------
    def path(self, *parts: str) -> Path:
        """A path inside the run folder."""
        return self.folder.joinpath(*parts)

    def iteration(self, number: int) -> Path:
        """The folder of an iteration, counted from 1: ``iteration-01``."""
        return self.folder / f"iteration-{number:02d}"

    def name_of(self, path: Path) -> str:
        """``path`` as messages and records name it: relative to the run folder where it lies inside."""
        return str(path.relative_to(self.folder)) if path.is_relative_to(self.folder) else str(path)

    # ---- metrics ------------------------------------------------------------------------------
    def log_metrics(self, stage: str, step: int, values: Mapping[str, Any]) -> None:
        """Append one line to ``metrics.jsonl``; a step that is already there is not written twice.

        A resumed stage repeats the steps since its last saved state; they are the same numbers.
        """
        if distributed.rank():
            return
        if self._logged is None:
            self._logged = {(str(line.get("stage")), int(line.get("step", -1))) for line in self.metrics()}
        if (stage, step) in self._logged:
            return
        line = json.dumps({**values, "stage": stage, "step": step}, sort_keys=True) + "\n"
        with open(self.folder / METRICS, "ab") as handle:
            handle.write(line.encode())
        self._logged.add((stage, step))
        if self._tracker is not None:
            self._tracker.show(json.loads(line))

    def track(self, name: str) -> None:
        """Show the metrics in a tracker too, those logged so far included; ``"none"`` ends that."""
        if self._tracker is not None:
            self._tracker.close()
        self._tracker, self._tracker_name = None, "none"
        if name != "none":
            self._tracker, self._tracker_name = open_tracker(name, self.folder, self.metrics()), name

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of ``metrics.jsonl``; a torn last line is cut off the file."""
        path = self.folder / METRICS
        if not path.exists():
            return []
        data = path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data) and self._lock is not None:
            os.truncate(path, whole)
        return [self._metrics_line(number, line) for number, line in enumerate(data[:whole].split(b"\n")[:-1], start=1)]

    def _metrics_line(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            values = json.loads(line)
        except ValueError as error:
            raise DataError(f"{self.folder / METRICS} line {number}: not valid JSON ({error}).") from error
        if not isinstance(values, dict):
            raise DataError(f"{self.folder / METRICS} line {number}: expected an object, found {line[:60]!r}.")
        return values

    def forget_metrics(self, stage: str) -> None:
        """Drop the lines of a stage that is about to start anew with other inputs."""
        lines = self.metrics()
        kept = [line for line in lines if line.get("stage") != stage]
        if len(kept) < len(lines):
            text = "".join(json.dumps(line, sort_keys=True) + "\n" for line in kept)
            temporary = self.folder / (METRICS + ".tmp")
            temporary.write_text(text)
            os.replace(temporary, self.folder / METRICS)
            self.track(self._tracker_name)
        self._logged = None

    def metric_logger(self, stage: str) -> Callable[[Mapping[str, Any]], None]:
        """A ``log(dict)`` for a trainer: the dict's ``step`` keys the line (else lines are counted)."""
        count = 0

        def log(values: Mapping[str, Any]) -> None:
            nonlocal count
            count = int(values.get("step", count + 1))
            self.log_metrics(stage, count, values)

        return log

    # ---- stages -------------------------------------------------------------------------------
    def stage(
        self,
        name: str,
        work: Callable[[], Mapping[str, Any] | None],
        *,
        inputs: Mapping[str, Any],
        outputs: Sequence[Path],
        partial: Sequence[Path] = (),
        together: bool = False,
        adds: bool = False,
    ) -> dict[str, Any]:
        """Do the work of a stage unless it is complete; returns the facts of its record.

        A stage is complete if and only if its record ``stages/<name>.json`` exists, names the same
        inputs, and its outputs are there. A half-done stage continues from what it left, unless its
        inputs have changed: then what it left is removed first.

        Args:
            name: such as ``"iteration-01/judge"``.
            work: does it and returns facts (counts) for the record.
            inputs: by name: a path (its content counts), or a config or value (its value counts).
            outputs: what the stage leaves.
            partial: files beside the outputs that hold unfinished work.
            together: of several processes all do the work, not the first alone.
            adds: the work adds to an output that is there, whoever made it.

        Raises:
            ConfigError: an output is an input, or (without ``redo``) was made of other inputs or by no stage.
        """
        _check_places(inputs, outputs)
        digests = {key: digest(value) for key, value in inputs.items()}
        found = distributed.on_first(lambda: self._begin(name, digests, outputs, partial, adds))
        return self._work(name, work, digests, outputs, together) if found is None else found

    def _begin(
        self, name: str, digests: dict[str, str], outputs: Sequence[Path], partial: Sequence[Path], adds: bool
    ) -> dict[str, Any] | None:
        """The facts of a stage that is complete; None where there is work, for which all is prepared."""
        started, done = self._record(name, "started"), self._record(name, "done")
        self._count_again(name)
        found = self._read_record(done)
        if found and found["inputs"] == digests and all(path.exists() for path in outputs):
            logger.info("%s: complete, skipped", name)
            return found["facts"]
        before = self._read_record(started) or found
        left = any(path.exists() for path in (*outputs, *partial))
        strange = [path for path in outputs if path.exists()]
        if strange and not (before or self.redo or adds or any(path.exists() for path in partial)):
            raise ConfigError(
                f"{strange[0]} is there, and was not made by {name} in {self.folder}, so it would be lost. "
                "Choose another --out, or remove it first."
            )
        if before and before["inputs"] != digests and left:
            changed = sorted(key for key in digests if before["inputs"].get(key) != digests[key]) or ["inputs"]
            if not self.redo:
                raise ConfigError(
                    f"{name} in {self.folder} was made with other inputs ({', '.join(changed)} changed). "
                    "Choose another --out, or remove the old output first."
                )
            logger.warning("%s: %s changed, starts anew", name, ", ".join(changed))
            self._clear(name, [*outputs, *partial])
        elif before and left:
            logger.info("%s: continues", name)
        done.unlink(missing_ok=True)
        drop_drafts([*outputs, *partial, started, done])
        write_json(started, {"stage": name, "inputs": digests, **_earlier(before, digests)})
        return None

    def _work(
        self,
        name: str,
        work: Callable[[], Mapping[str, Any] | None],
        digests: dict[str, str],
        outputs: Sequence[Path],
        together: bool,
    ) -> dict[str, Any]:
        logger.info("%s: starts", name)
        with StageClock(self._record(name, "started"), running=not distributed.rank()) as clock:
            facts = dict(work() or {}) if together else distributed.on_first(lambda: dict(work() or {}))
            spent = clock.spent()
        engine = distributed.engine_facts() if together else {}
        return distributed.on_first(lambda: self._end(name, facts, digests, outputs, spent, engine))

    def _end(
        self,
        name: str,
        facts: dict[str, Any],
        digests: dict[str, str],
        outputs: Sequence[Path],
        spent: Spent,
        engine: dict[str, Any],
    ) -> dict[str, Any]:
        missing = [self.name_of(path) for path in outputs if not path.exists()]
        if missing:
            raise RunError(f"{name} ended without writing {', '.join(missing)}.")
        record = {
            "stage": name, "inputs": digests, "outputs": [self.name_of(path) for path in outputs], "facts": facts,
            **engine, "seconds": round(spent.seconds, 2), "cpu_seconds": round(spent.cpu_seconds, 2),
            "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }  # fmt: skip
        write_json(self._record(name, "done"), record)
        self._record(name, "started").unlink(missing_ok=True)
        logger.info("%s: done in %.1f s%s", name, spent.seconds, _in_words(facts))
        return facts

    def _count_again(self, name: str) -> None:
        others = superseded(self.folder)
        if name in others:
            write_json(self.path(SUPERSEDED), sorted(others - {name}))

    def is_complete(self, name: str) -> bool:
        """Whether the stage has its done-record."""
        return self._record(name, "done").exists()

    def has_begun(self, name: str) -> bool:
        """Whether the stage is complete or under way here, so that what lies at its outputs is its own."""
        return self.is_complete(name) or self._record(name, "started").exists()

    def stage_record(self, name: str) -> dict[str, Any] | None:
        """The done-record of a stage (inputs, outputs, facts, seconds), or None."""
        return self._read_record(self._record(name, "done"))

    def _record(self, name: str, state: str) -> Path:
        suffix = ".json" if state == "done" else f".{state}.json"
        return self.folder / STAGES / (name.replace("/", ".") + suffix)

    @staticmethod
    def _read_record(path: Path) -> dict[str, Any] | None:
        if not path.exists():
            return None
        record = read_json(path)
        if not isinstance(record, dict) or not isinstance(record.get("inputs"), dict):
            raise DataError(f"{path} is no record of a stage. Remove it, and the stage is done again.")
        return record

    def _clear(self, name: str, paths: Sequence[Path]) -> None:
        for path in paths:
            remove(path, spare=KEPT_ALWAYS)
        self.forget_metrics(name)


def _earlier(before: Mapping[str, Any] | None, digests: Mapping[str, str]) -> dict[str, float]:
    """What sessions that were cut short spent on the same work; a finished one that is done again counts anew."""
    same = before is not None and "facts" not in before and before["inputs"] == digests
    return {key: before[key] for key in Spent._fields if key in before} if before and same else {}


def superseded(folder: Path) -> set[str]:
    """Names of the stages in a run folder that belong to a config it no longer has."""
    path = folder / SUPERSEDED
    return set(read_json(path)) if path.exists() else set()


def _check_places(inputs: Mapping[str, Any], outputs: Sequence[Path]) -> None:
    places = {path.resolve() for path in outputs}
    for key, value in inputs.items():
        if isinstance(value, Path) and value.resolve() in places:
            raise ConfigError(f"{value} is given as {key} and as the output. A stage never edits its input.")


def _in_words(facts: Mapping[str, Any]) -> str:
    shown = [f"{key.replace('_', ' ')} {value}" for key, value in facts.items() if isinstance(value, (int, float, str))]
    return ": " + ", ".join(shown) if shown else ""
