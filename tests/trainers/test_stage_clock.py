"""What a stage spent, whatever became of the process that worked."""

import os
import signal
import subprocess
import sys
import time

import pytest

from icto_gym.files import read_json, write_json
from trainers import stage_clock
from trainers.runs import Run
from trainers.stage_clock import StageClock

WORKING = """
import sys, time
from pathlib import Path
from trainers import stage_clock
from trainers.runs import Run

stage_clock.EVERY = 0.05
folder = Path(sys.argv[1])

def work():
    (folder / "half").write_text("done")
    while True:
        sum(range(10_000))

with Run(folder) as run:
    run.stage("dig", work, inputs={"depth": 3}, outputs=[folder / "hole"], partial=[folder / "half"])
"""


def dig(folder, depth=3):
    with Run(folder) as run:
        run.stage(
            "dig", lambda: (folder / "hole").write_text("deep") and {}, inputs={"depth": depth},
            outputs=[folder / "hole"], partial=[folder / "half"],
        )  # fmt: skip
        return run.stage_record("dig")


@pytest.fixture
def killed(tmp_path):
    """A run folder whose stage was killed at work, and what its record says of the time."""
    process = subprocess.Popen([sys.executable, "-c", WORKING, str(tmp_path)])
    record = tmp_path / "stages" / "dig.started.json"
    while process.poll() is None and not (record.exists() and read_json(record).get("cpu_seconds", 0) > 0.1):
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    return tmp_path, read_json(record)


def test_the_time_of_a_session_that_was_killed_counts(killed):
    folder, before = killed
    assert before["seconds"] >= before["cpu_seconds"] > 0.1
    after = dig(folder)
    for name in ("seconds", "cpu_seconds"):
        assert before[name] <= after[name]
    assert not list(folder.joinpath("stages").glob("*started*"))


def test_time_spent_on_other_inputs_does_not(killed):
    folder, before = killed
    assert dig(folder, depth=4)["cpu_seconds"] < before["cpu_seconds"]


def test_a_stage_that_is_done_again_counts_anew(killed):
    folder, before = killed
    dig(folder)
    (folder / "hole").unlink()
    assert dig(folder)["cpu_seconds"] < before["cpu_seconds"]


def test_an_attempt_that_failed_counts(tmp_path):
    def fail():
        sum(range(3_000_000))
        raise ValueError("no spade")

    with Run(tmp_path) as run, pytest.raises(ValueError, match="no spade"):
        run.stage("dig", fail, inputs={"depth": 3}, outputs=[tmp_path / "hole"])
    spent = read_json(tmp_path / "stages" / "dig.started.json")["cpu_seconds"]
    assert 0 < spent <= dig(tmp_path)["cpu_seconds"]


def test_a_record_that_cannot_be_written_stops_nobody(tmp_path, monkeypatch, caplog):
    write_json(tmp_path / "record.json", {"stage": "dig"})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(stage_clock, "write_json", full)
    with caplog.at_level("DEBUG"), StageClock(tmp_path / "record.json") as clock:
        assert clock.spent().seconds >= 0
    assert "No space left on device" in caplog.text
    assert read_json(tmp_path / "record.json") == {"stage": "dig"}
