"""How much memory a policy may keep its conversations in, where no one says it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

SHARE = 3
"""Of what is free a third: the rest is for a training that is being watched, and for others."""
UNKNOWN = 9 << 30
"""Taken to be free on systems that do not say."""

sharers = 1
"""Policies that this one shares the memory with, itself included: processes that begin at once all see it free."""


def room_for_conversations(device: Any) -> int:
    """Bytes that keys and values may take on a device: a third of what is free there now, or this one's part of it."""
    return free_memory(device) // (SHARE * sharers)


def free_memory(device: Any) -> int:
    """Bytes that are free on a card, or to this process in main memory (a container's or a job's bound counts)."""
    if device.type == "cuda":
        import torch

        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + cached
    return min(_told(), default=UNKNOWN)


def _told(root: Path = Path("/")) -> Iterator[int]:
    """What Linux says: of the machine, and of the control groups that this process is in (version 2, version 1)."""
    for line in _lines(root / "proc/meminfo", "MemAvailable:"):
        yield int(line.split()[1]) * 1024
    for line in _lines(root / "proc/self/cgroup") or ["0::/", "0:memory:/"]:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            yield from _bounds(root / "sys/fs/cgroup", path, "memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            top = root / "sys/fs/cgroup/memory"
            yield from _bounds(top, path, "memory.limit_in_bytes", "memory.usage_in_bytes")


def _bounds(top: Path, path: str, bound: str, taken: str) -> Iterator[int]:
    """What is left in a group and in those above it; files that were read count as taken there, and give way."""
    group = top / path.strip("/")
    for folder in dict.fromkeys([*(each for each in (group, *group.parents) if each.is_relative_to(top)), top]):
        numbers = [int(line) for name in (bound, taken) for line in _lines(folder / name) if line.isdecimal()]
        statistics = _lines(folder / "memory.stat", "inactive_file ") + _lines(folder / "memory.stat", "active_file ")
        if len(numbers) == 2:
            yield max(0, numbers[0] - numbers[1] + sum(int(line.split()[1]) for line in statistics))


def _lines(path: Path, beginning: str = "") -> list[str]:
    try:
        return [line for line in path.read_text(encoding="ascii").splitlines() if line.startswith(beginning)]
    except (OSError, UnicodeDecodeError):
        return []
