"""Sections that may be left out are switched off by name, wherever a verb has them."""

import pytest

from icto_gym.errors import ConfigError
from trainers.cli.flags import parse_flags, take_option
from trainers.cli.train import SFTCommand
from trainers.methods.icto import ICTOConfig
from trainers.models import LoRAConfig, ModelConfig

SFT = ["t.jsonl", "--out", "o"]


@pytest.mark.parametrize("off", [["--model.lora", "none"], ["--model.lora", "None"], ["--model.lora=null"]])
def test_an_adapter_is_switched_off_by_a_flag(off):
    told = parse_flags(SFTCommand, [*SFT, *off, "--model.name", "tiny-random", "--learning-rate", "0.5"])
    assert told.model == ModelConfig("tiny-random", lora=None)
    assert (str(told.trajectories), told.settings.learning_rate) == ("t.jsonl", 0.5)


def test_it_is_switched_off_in_a_methods_config_too():
    default = ICTOConfig(model=ModelConfig("tiny-random", lora=LoRAConfig(r=3)))
    assert parse_flags(ICTOConfig, [], default=default).model.lora == LoRAConfig(r=3)
    assert parse_flags(ICTOConfig, ["--model.lora", "none"], default=default).model == ModelConfig(
        "tiny-random", lora=None
    )


def test_what_is_required_is_still_asked_for(capsys):
    with pytest.raises(SystemExit):
        parse_flags(SFTCommand, ["t.jsonl", "--model.lora", "none"])
    assert "--out" in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong", [["--model", "none"], ["--model.lora", "nome"], ["--model.lora", "none", "--model.lora.r", "3"]]
)
def test_nothing_else_is_switched_off(wrong, capsys):
    with pytest.raises((SystemExit, ConfigError)):
        parse_flags(SFTCommand, [*SFT, *wrong])


def test_the_help_says_how(capsys):
    with pytest.raises(SystemExit):
        parse_flags(SFTCommand, ["--help"])
    assert "--model.lora none" in " ".join(capsys.readouterr().out.replace("│", " ").split())


def test_an_option_is_read_ahead_in_either_spelling():
    assert [take_option(words, "--config") for words in (["--config", "a"], ["--config=b"], ["x"])] == ["a", "b", None]


@pytest.mark.parametrize("number", ["nan", "inf"])
def test_numbers_without_end_are_refused_as_in_yaml(number):
    with pytest.raises(ConfigError, match=r"--pairing\.min-margin is .*; give a finite number"):
        parse_flags(ICTOConfig, ["--pairing.min-margin", number], default=ICTOConfig())
