"""How much memory a policy may keep its conversations in, where no one says it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

SHARE = 3
"""Of what is free a third: the rest is for a training that is being watched, and for others."""
UNKNOWN = 9 << 30
"""Taken to be free on systems that do not say."""


def room_for_conversations(device: Any) -> int:
    """Bytes that keys and values may take on a device: a third of what is free there now."""
    return free_memory(device) // SHARE


def free_memory(device: Any) -> int:
    """Bytes that are free on a card, or to this process in main memory (a container's bound counts)."""
    if device.type == "cuda":
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    return min(_told(), default=UNKNOWN)


def _told(root: Path = Path("/")) -> Iterator[int]:
    """What Linux says: of the machine, and of the container in either version of control groups."""
    for line in _lines(root / "proc/meminfo", "MemAvailable:"):
        yield int(line.split()[1]) * 1024
    for folder, bound, taken in (
        ("sys/fs/cgroup", "memory.max", "memory.current"),
        ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        numbers = [int(line) for name in (bound, taken) for line in _lines(root / folder / name) if line.isdecimal()]
        files = [int(line.split()[1]) for line in _lines(root / folder / "memory.stat", "inactive_file ")]
        if len(numbers) == 2:  # files that were read count as taken, and give way
            yield max(0, numbers[0] - numbers[1] + sum(files))


def _lines(path: Path, beginning: str = "") -> list[str]:
    try:
        return [line for line in path.read_text(encoding="ascii").splitlines() if line.startswith(beginning)]
    except (OSError, UnicodeDecodeError):
        return []
