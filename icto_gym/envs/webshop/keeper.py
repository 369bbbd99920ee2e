"""A small process that outlives its parent by a moment, to leave nothing of a browser behind.

Run as ``python keeper.py FOLDER``. The folder's name is unique, and stands in the command line of everything that was
started for one browser. When standard input ends, or the parent is gone (killed with -9, say), whatever names the
folder is killed and the folder removed.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import time

GLANCE = 1.0
"""Seconds between looks at whether the parent still lives."""


def processes(folder: str) -> list[int]:
    """Ids of the processes, other than this one and keepers, whose command line names the folder."""
    found = []
    for number, command in _command_lines():
        if folder in command and __file__ not in command and number != os.getpid():
            found.append(number)
    return found


def _command_lines() -> list[tuple[int, str]]:
    lines = []
    if os.path.isdir("/proc/self"):
        for entry in os.listdir("/proc"):
            with contextlib.suppress(OSError):  # not ours, or gone
                if entry.isdigit():
                    with open(f"/proc/{entry}/cmdline", "rb") as handle:
                        lines.append((int(entry), handle.read().replace(b"\0", b" ").decode("utf-8", "replace")))
        return lines
    listed = subprocess.run(["ps", "-axww", "-o", "pid=,command="], capture_output=True, text=True, check=False).stdout
    for line in listed.splitlines():
        number, _, command = line.strip().partition(" ")
        lines.append((int(number), command))
    return lines


def clear_away(folder: str, patience: float = 5.0) -> None:
    """Kill what names the folder until nothing does, then remove the folder."""
    end = time.monotonic() + patience
    while (left := processes(folder)) and time.monotonic() < end:
        for number in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(number, signal.SIGKILL)
        time.sleep(0.02)
    while os.path.isdir(folder) and time.monotonic() < end:
        shutil.rmtree(folder, ignore_errors=True)  # a dying process may still write
        time.sleep(0.02)


def keep(folder: str) -> None:
    """Wait for the parent's end, then clear away."""
    parent = os.getppid()
    while os.getppid() == parent:
        ready, _, _ = select.select([sys.stdin], [], [], GLANCE)
        if ready and not os.read(sys.stdin.fileno(), 1):
            break
    clear_away(folder)
    time.sleep(0.5)  # what was being started when the parent died
    clear_away(folder)


if __name__ == "__main__":
    keep(sys.argv[1])
