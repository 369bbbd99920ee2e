"""``icto play``: a person at a real terminal, hints that do not give all away, and a record like any policy's."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import subprocess
import sys

import pytest

from icto_gym import TrajectoryStore
from trainers.cli.main import main

ENV = "icto_gym.testing:Scripted-v0"


def play(monkeypatch, typed, *arguments):
    monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
    return main(["play", ENV, "--split", "train", "--index", "3", *arguments])


def test_a_person_is_told_what_can_be_asked(capsys, monkeypatch):
    assert play(monkeypatch, "?\n\nhint\nactions bowl 2\nactions zebra\ngoal\nlook again\nquit\n") == 0
    text = capsys.readouterr().out
    assert text.count("what the expert would do, and why") == 2  # asked for, and after an empty line
    assert "It begins with: look ...   (about 2 actions to go)" in text
    assert "take date from bowl 2\n" in text and "None of them holds 'zebra'." in text
    assert text.count("Bring the date.") == 2 and text.count("Three bowls stand here.") == 2


def test_a_finished_episode_is_recorded_as_conversation(capsys, monkeypatch, tmp_path):
    record = tmp_path / "me.jsonl"
    typed = "nonsense\nI should look first. Action: look\ntake date from bowl 1\n"
    assert play(monkeypatch, typed, "--record", str(record), "--policy", "anna") == 0
    assert "Recorded in" in capsys.readouterr().out
    (kept,) = TrajectoryStore(record)
    assert kept.policy == "anna" and kept.success and kept.actions == ("nonsense", "look", "take date from bowl 1")
    assert [step.thought for step in kept.steps] == ["", "I should look first.", ""]
    assert [step.valid for step in kept.steps] == [False, True, True]
    assert main(["judge", str(record), "--out", str(tmp_path / "verdicts.jsonl")]) == 0


def test_an_episode_that_was_left_is_not_recorded(monkeypatch, tmp_path):
    assert play(monkeypatch, "look\nquit\n", "--record", str(tmp_path / "me.jsonl")) == 0
    assert not (tmp_path / "me.jsonl").exists() or not list(TrajectoryStore(tmp_path / "me.jsonl"))


@pytest.mark.parametrize("ending", [b"quit\n", b"\x04", b"\x03"], ids=["quit", "end of input", "interrupt"])
def test_a_real_terminal_can_be_left_in_every_way(ending):
    mine, theirs = pty.openpty()
    command = [sys.executable, "-m", "trainers.cli", "play", ENV, "--index", "3"]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
                               preexec_fn=lambda: _control(theirs))  # fmt: skip
    os.close(theirs)
    _read_until(mine, b"> ")
    os.write(mine, b"look\n")
    assert b"bowl 1" in _read_until(mine, b"> ")
    assert _answer(mine, ending, process) == (130 if ending == b"\x03" else 0)
    os.close(mine)


def _answer(terminal, ending, process, tries=4):
    """The exit code. Like a person, it presses again where nothing happens: Python notices an interrupt that comes
    between its last look at signals and its wait for a line only with the next key."""
    for _ in range(tries):
        os.write(terminal, ending)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(10)
    process.kill()
    pytest.fail(f"still there after {ending!r} was typed {tries} times; it wrote {os.read(terminal, 4096)!r}")


def _control(terminal):
    import fcntl
    import termios

    fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)


def _read_until(terminal, end):
    seen = b""
    while not seen.endswith(end):
        seen += os.read(terminal, 1024)
    return seen


def test_a_task_and_its_place_are_not_both_given(capsys, monkeypatch):
    assert play(monkeypatch, "quit\n", "--task-id", "scripted/train/03") == 2
    assert "either 'task_id' or 'index'" in capsys.readouterr().err
