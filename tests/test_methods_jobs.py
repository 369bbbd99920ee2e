"""Rows side by side: real processes, begun when what they share is there, and all ended by the first that fails."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
import methods_jobs
from methods_jobs import first_of_its_kind, side_by_side


def test_the_first_row_of_a_group_plays_what_the_others_share():
    rows = ["icto", "retry", "rft", "again", "imitation"]
    before = first_of_its_kind(rows, (("icto", "retry", "rft", "imitation"), ("imitation", "rft"), ("elsewhere",)))
    assert before == {
        "icto": set(), "retry": {"icto"}, "rft": {"icto"}, "again": set(), "imitation": {"icto", "rft"},
    }  # fmt: skip
    assert list(before) == rows


def noting(path, seconds=0.3, code=0):
    """A program that notes when it begins and ends."""
    note = f"open({str(path)!r}, 'a').write"
    return (
        f"import sys, time; name = sys.argv[1]; {note}(f'begin {{name}}\\n'); time.sleep({seconds}); "
        f"{note}(f'end {{name}}\\n'); print('said', name); sys.exit({code})"
    )


def test_rows_run_side_by_side_and_wait_for_what_they_share(tmp_path):
    before = {"first": set(), "after": {"first"}, "beside": set(), "last": {"after", "beside"}}
    program = noting(tmp_path / "notes")
    side_by_side(before, 2, lambda row: [sys.executable, "-c", program, row], lambda row: tmp_path / f"{row}.log")
    notes = (tmp_path / "notes").read_text().splitlines()
    assert set(notes[:2]) == {"begin first", "begin beside"}
    assert notes.index("end first") < notes.index("begin after") < notes.index("end after") < notes.index("begin last")
    assert (tmp_path / "last.log").read_text().strip() == "said last" and len(notes) == 8


def test_a_row_that_fails_is_named_with_its_log_and_ends_the_others(tmp_path):
    programs = {"bad": noting(tmp_path / "notes", 0.3, 3), "long": noting(tmp_path / "notes", 60), "never": ""}
    before = {"bad": set(), "long": set(), "never": {"bad"}}
    with pytest.raises(SystemExit, match=r"row bad failed; .*bad\.log"):
        side_by_side(
            before, 2, lambda row: [sys.executable, "-c", programs[row], row], lambda row: tmp_path / f"{row}.log"
        )
    assert "end long" not in (tmp_path / "notes").read_text() and not (tmp_path / "never.log").exists()


PARENT = """
import sys
from pathlib import Path

folder = Path(sys.argv[1])
from methods_jobs import side_by_side

row = "import os, sys, time; open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(600)"
command = [sys.executable, "-c", row, str(folder / "pid")]
side_by_side({"long": set()}, 1, lambda name: command, lambda name: folder / "log")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other kernels do not end a process with its parent")
def test_rows_end_with_a_parent_that_is_killed(tmp_path):
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)], cwd=Path(methods_jobs.__file__).parent)
    assert eventually(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    row = Path("/proc", (tmp_path / "pid").read_text())
    assert row.exists()
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    assert eventually(lambda: not row.exists() or " Z " in (row / "stat").read_text())


def eventually(holds, seconds=60.0):
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        time.sleep(0.05)
    return holds()
