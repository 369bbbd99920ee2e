"""An append-only file of trajectories that survives being killed at any point."""

from __future__ import annotations

import codecs
import fcntl
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from icto_gym.errors import DataError
from icto_gym.trajectory import Trajectory

logger = logging.getLogger(__name__)


class TrajectoryStore:
    """Trajectories in a JSONL file, one per line.

    A line is written whole and synced before `append` returns. If the process dies within a write,
    the torn last line is skipped when reading and moved to ``<file>.torn`` at the next append; both
    are reported in the log. A last line that only lacks its newline, as editors leave it, is whole.
    Several processes may append to one file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def append(self, trajectory: Trajectory) -> None:
        """Add one trajectory and sync it to disk.

        Raises:
            OSError: the disk is full or the folder read-only; the file keeps its last good state.
        """
        data = trajectory.to_json().encode("ascii") + b"\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            whole = self._set_torn_line_aside(descriptor)
            self._write_whole(descriptor, data if whole else b"\n" + data)
        finally:
            os.close(descriptor)

    def __iter__(self) -> Iterator[Trajectory]:
        """Yield the trajectories in the order they were written.

        Raises:
            DataError: naming file, line and field of a line that is whole but wrong.
        """
        if not self.path.exists() or self.path.is_char_device():  # a device such as /dev/full would never end
            return
        with open(self.path, "rb") as handle:
            for number, line in whole_lines(handle, self.path):
                try:
                    yield Trajectory.from_json(line.decode("utf-8"))
                except (DataError, UnicodeDecodeError) as error:
                    raise DataError(f"{self.path} line {number}: {error}.") from error

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def ids(self) -> set[str]:
        """Ids of what is stored: what a resumed run need not play again."""
        return {trajectory.trajectory_id for trajectory in self}

    def filter(self, keep: Callable[[Trajectory], bool]) -> Iterator[Trajectory]:
        """Yield the trajectories for which ``keep`` is true."""
        return (trajectory for trajectory in self if keep(trajectory))

    def _set_torn_line_aside(self, descriptor: int) -> bool:
        """Whether the file now ends with a line's end; if not, its last line lacks nothing else."""
        size = os.fstat(descriptor).st_size
        if size == 0 or os.pread(descriptor, 1, size - 1) == b"\n":
            return True
        start, block = size, 1 << 16
        while start > 0:  # search backwards for the end of the last whole line
            low = max(0, start - block)
            newline = os.pread(descriptor, start - low, low).rfind(b"\n")
            if newline >= 0:
                start = low + newline + 1
                break
            start = low
        last = os.pread(descriptor, size - start, start)
        if not is_torn(last):
            return False
        torn = self.path.with_name(self.path.name + ".torn")
        with open(torn, "ab") as handle:
            handle.write(last + b"\n")
        os.ftruncate(descriptor, start)
        logger.warning("%s ended in a torn line of %d bytes; moved to %s", self.path, size - start, torn)
        return True

    def _write_whole(self, descriptor: int, data: bytes) -> None:
        size = os.fstat(descriptor).st_size
        try:
            written = 0
            while written < len(data):
                written += os.write(descriptor, data[written:])
            os.fsync(descriptor)
        except OSError as error:
            try:
                os.ftruncate(descriptor, size)
            except OSError:  # such as /dev/full: there is nothing to take back
                logger.debug("could not truncate %s", self.path)
            raise OSError(
                error.errno, f"Could not append to {self.path}: {os.strerror(error.errno or 0)}. "
                "What was stored before is whole; free space or choose another run folder, then run again."
            ) from error  # fmt: skip


def whole_lines(handle: Iterable[bytes], path: str | os.PathLike[str]) -> Iterator[tuple[int, bytes]]:
    """Number (from 1) and text of each line of a file of JSON lines, but for a torn last one, which is reported.

    A byte order mark before the first line is passed over.
    """
    for number, line in enumerate(handle, start=1):
        if not line.endswith(b"\n") and is_torn(line):
            logger.warning("%s line %d is torn (%d bytes) and was skipped", path, number, len(line))
            return
        yield number, line.removeprefix(codecs.BOM_UTF8) if number == 1 else line


def is_torn(line: bytes) -> bool:
    """Whether a last line without its newline was cut; no beginning of a JSON object is one itself."""
    try:
        return not isinstance(json.loads(line.decode("utf-8-sig")), dict)
    except (ValueError, RecursionError):
        return True
