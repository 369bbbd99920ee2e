"""The commands of docs/evaluation.md run in order, as a reader would give them."""

import re
import shlex
from pathlib import Path

from trainers.cli.main import main

PAGE = Path(__file__).resolve().parents[3] / "docs" / "evaluation.md"


def test_every_command_of_the_page_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    commands = re.findall(r"^\$ icto (.*)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(commands) == 5
    for command in commands:
        assert main(shlex.split(command)) == 0, command
    text = capsys.readouterr().out
    assert "It matches: all 40 episodes on 20 tasks are the same" in text
    assert "expert is better by" in text
