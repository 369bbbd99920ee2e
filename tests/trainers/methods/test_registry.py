"""Methods by name, and a user's own by dotted path."""

from __future__ import annotations

import pytest

from icto_gym.errors import ConfigError
from trainers.cli.main import main
from trainers.methods import METHODS, find_method

PLUGIN = '''
from dataclasses import dataclass
from pathlib import Path

from trainers.runs import Run


@dataclass(frozen=True)
class Mine:
    """My method."""

    word: str = "hello"
    """What to write."""


def run_mine(config: Mine, run: Run) -> Path:
    run.path("word.txt").write_text(config.word)
    return run.path("word.txt")


def no_method(run):
    return None
'''


def test_every_listed_method_is_there_and_has_a_config():
    for name in METHODS:
        method = find_method(name)
        assert method.name == name
        assert method.config_class()


def test_an_unknown_method_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match="Did you mean 'icto'"):
        find_method("itco")


def test_sft_is_another_name_of_bc_and_the_run_records_bc(tmp_path, capsys):
    method = find_method("sft")
    assert (method.name, method.config_class) == ("bc", find_method("bc").config_class)
    (tmp_path / "config.yaml").write_text("method: bc\nrollout: {split: no-such-split}\n")
    assert main(["run", "sft", "--config", str(tmp_path / "config.yaml"), "--run", str(tmp_path / "run")]) == 2
    assert "no-such-split" in capsys.readouterr().err  # it went as far as looking for tasks
    assert (tmp_path / "run" / "config.yaml").read_text().startswith("method: bc\n")


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    (tmp_path / "my_methods.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_a_users_method_runs_with_its_own_flags_and_yaml(plugin, capsys):
    (plugin / "mine.yaml").write_text("word: from yaml\n")
    words = ["run", "my_methods:run_mine", "--run", str(plugin / "run")]
    assert main([*words, "--config", str(plugin / "mine.yaml")]) == 0
    assert (plugin / "run" / "word.txt").read_text() == "from yaml"
    assert main([*words, "--word", "from a flag"]) == 2
    assert "word: 'from yaml' -> 'from a flag'" in capsys.readouterr().err
    assert main([*words, "--word", "from a flag", "--force-config"]) == 0
    assert (plugin / "run" / "word.txt").read_text() == "from a flag"


def test_what_is_no_method_says_what_one_is(plugin):
    with pytest.raises(ConfigError, match="write a function run"):
        find_method("my_methods:no_method")
    with pytest.raises(ConfigError, match="could not be loaded"):
        find_method("my_methods:nothing")
