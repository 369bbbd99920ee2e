"""A copy of ``metrics.jsonl`` in a tracker, on request: tensorboard, trackio or wandb. Nothing is sent without it."""

from __future__ import annotations

import json
import logging
import math
import os
import secrets
import shutil
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from icto_gym.errors import check_name, require
from icto_gym.files import write_text

logger = logging.getLogger(__name__)

TrackerName = Literal["none", "tensorboard", "trackio", "wandb"]
PROJECT = "icto-gym"
_EXTRA = "tracking"


class Tracker(Protocol):
    """Takes lines of ``metrics.jsonl``; a line it has already is not shown twice."""

    def show(self, line: Mapping[str, Any]) -> None:
        """Take a line."""

    def close(self) -> None:
        """Write what is pending."""


def open_tracker(name: str, folder: Path, lines: Sequence[Mapping[str, Any]]) -> Tracker:
    """Open a tracker for a run and bring it up to ``lines``, what the run has logged so far.

    Raises:
        ConfigError: no tracker of that name.
        DependencyNotInstalled: its package is missing.
    """
    known: dict[str, Callable[[Path], Tracker]]
    known = {"tensorboard": _TensorBoard, "trackio": _Trackio, "wandb": _WandB}
    tracker = known[check_name(name, known, "tracker")](folder)
    for line in lines:
        tracker.show(line)
    return tracker


def numbers(line: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers of a line, by ``<stage>/<name>``; the line's own step is not among them."""
    return {
        f"{line.get('stage', 'run')}/{name}": float(value)
        for name, value in line.items()
        if name not in ("stage", "step")
        and isinstance(value, (int, float))
        and not isinstance(value, bool)
        and math.isfinite(value)
    }


def run_name(folder: Path) -> str:
    """The last two names of the run's folder and an id kept in it, such as ``runs-demo-3fa9c1``.

    A tracker's store is shared: without the id, ``runs/demo`` of two places would be one run there.
    """
    kept = folder / ".tracker"
    if not kept.exists():
        write_text(kept, secrets.token_hex(3) + "\n")
    return "-".join([*folder.resolve().parts[-2:], kept.read_text(encoding="utf-8").strip()]).strip("/")


def _key(line: Mapping[str, Any]) -> tuple[str, int]:
    return str(line.get("stage", "run")), int(line.get("step", 0))


class _TensorBoard:
    """Event files in ``<run>/tensorboard``, written anew at every start: a copy cannot repeat or lack a step."""

    def __init__(self, folder: Path) -> None:
        files = require("tensorboard.summary.writer.event_file_writer", extra=_EXTRA)
        self._event = require("tensorboard.compat.proto.event_pb2", extra=_EXTRA).Event
        place = folder / "tensorboard"
        shutil.rmtree(place, ignore_errors=True)
        self._writer = files.EventFileWriter(str(place))

    def show(self, line: Mapping[str, Any]) -> None:
        event = self._event(step=_key(line)[1])
        for tag, value in numbers(line).items():
            event.summary.value.add(tag=tag, simple_value=value)
        self._writer.add_event(event)

    def close(self) -> None:
        self._writer.close()


class _Trackio:
    """Trackio's own local store (``$TRACKIO_DIR``); what it holds already is asked of it."""

    def __init__(self, folder: Path) -> None:
        trackio = require("trackio", extra=_EXTRA)
        storage = require("trackio.sqlite_storage", extra=_EXTRA).SQLiteStorage
        name = run_name(folder)
        held = storage.get_logs(PROJECT, name)
        self._held = {_stage_step(entry) for entry in held}
        self._next = max((int(entry.get("step", 0)) for entry in held), default=0) + 1
        self._run = trackio.init(
            PROJECT, name=name, resume="allow", embed=False, auto_log_gpu=False, auto_log_cpu=False
        )  # fmt: skip

    def show(self, line: Mapping[str, Any]) -> None:
        if _key(line) in self._held:
            return
        stage, step = _key(line)
        self._run.log({**numbers(line), f"{stage}/step": step}, step=self._next)
        self._held.add(_key(line))
        self._next += 1

    def close(self) -> None:
        self._run.finish()


def _stage_step(entry: Mapping[str, Any]) -> tuple[str, int] | None:
    """Which line an entry of Trackio is: it holds ``<stage>/step``."""
    found = [(name.removesuffix("/step"), int(value)) for name, value in entry.items() if name.endswith("/step")]
    return found[0] if found else None


class _WandB:
    """Weights & Biases; offline (``wandb sync`` sends later) where there is no network.

    What was shown is noted before it is shown, so that a resumed run repeats nothing; a kill in between may leave
    one line out.
    """

    def __init__(self, folder: Path) -> None:
        wandb = require("wandb", extra=_EXTRA)
        place = folder / "wandb"
        place.mkdir(exist_ok=True)
        self._noted = place / "shown.jsonl"
        lines = self._noted.read_text().splitlines() if self._noted.exists() else []
        self._held = {tuple(json.loads(line)) for line in lines if line.endswith("]")}
        mode = os.environ.get("WANDB_MODE") or ("online" if _reaches("api.wandb.ai") else "offline")
        if mode == "offline":
            logger.warning("wandb: offline; send the run later with: wandb sync %s", place / "offline-run-*")
        self._run = wandb.init(
            project=PROJECT, name=run_name(folder), id=run_name(folder), resume="allow", dir=str(folder), mode=mode,
            settings=wandb.Settings(silent=True, console="off"),
        )  # fmt: skip

    def show(self, line: Mapping[str, Any]) -> None:
        if _key(line) in self._held:
            return
        with open(self._noted, "a") as handle:
            handle.write(json.dumps(_key(line)) + "\n")
        self._held.add(_key(line))
        stage, step = _key(line)
        self._run.log({**numbers(line), f"{stage}/step": step})

    def close(self) -> None:
        self._run.finish()


def _reaches(host: str) -> bool:
    try:
        with socket.create_connection((host, 443), timeout=3):
            return True
    except OSError:
        return False
