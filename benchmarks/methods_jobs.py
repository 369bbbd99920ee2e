"""What rows of `methods.py` share, and rows side by side: those that share play come one after another."""

from __future__ import annotations

import ctypes
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from icto_gym.files import read_json

logger = logging.getLogger("benchmark")
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def first_of_its_kind(rows: Sequence[str], groups: Sequence[Sequence[str]]) -> dict[str, set[str]]:
    """For each row those that must be finished before it: in each group the first row plays what the others share."""
    before: dict[str, set[str]] = {row: set() for row in rows}
    for group in groups:
        first, *others = [row for row in rows if row in group] or [""]
        for row in others:
            before[row].add(first)
    return before


def share_stages(first: Path, here: Path, names: tuple[str, ...]) -> None:
    """What was done before and would be done again; stages check by digests that it is alike."""
    for name in names:
        record = first / "stages" / f"{name}.json"
        if record.exists() and not (here / "stages" / record.name).exists():
            for output in (*read_json(record)["outputs"], f"stages/{record.name}"):
                whole = Path(output).parent if Path(output).name == "checkpoint.json" else Path(output)
                _copy(first / whole, here / whole)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    else:
        shutil.copy2(source, target)


def side_by_side(
    before: Mapping[str, set[str]], jobs: int, command: Callable[[str], list[str]], log: Callable[[str], Path]
) -> None:
    """Run ``command(row)`` for every row, ``jobs`` at a time, its output in ``log(row)``; a failure ends all.

    Args:
        before: each row, in the order in which they are begun, with the rows that must be finished first.

    Raises:
        SystemExit: a row failed, naming it and its log. What was finished stays.
    """
    waiting, done, running = list(before), set[str](), dict[str, subprocess.Popen[bytes]]()
    try:
        while waiting or running:
            for row in [row for row in waiting if before[row] <= done][: jobs - len(running)]:
                waiting.remove(row)
                running[row] = _start(command(row), log(row), max(1, (os.cpu_count() or 1) // jobs))
                logger.info("%s: begun (%s)", row, log(row))
            time.sleep(0.2)
            for row in [row for row, process in running.items() if process.poll() is not None]:
                if running.pop(row).returncode:
                    raise SystemExit(f"The row {row} failed; {log(row)} says why. The same command goes on from here.")
                done.add(row)
                logger.info("%s: finished", row)
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait()


def _start(command: list[str], log: Path, threads: int) -> subprocess.Popen[bytes]:
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab") as handle:
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        return subprocess.Popen(command, stdout=handle, stderr=handle, env=environment, preexec_fn=_end_with_parent)


def _end_with_parent() -> None:
    """Have the kernel end this process when its parent dies, however that dies (on Linux; see prctl(2))."""
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
