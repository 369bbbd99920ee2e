"""Presets: they fit the methods that they are for, and hold what was published."""

from __future__ import annotations

import pytest

from icto_gym.errors import ConfigError
from trainers.config import from_mapping
from trainers.methods import METHODS, find_method
from trainers.methods.eto import ETOConfig, dpo_of
from trainers.presets import fit_to, preset_names, preset_values, read_config
from trainers.training.config import OptimizerConfig


def test_etos_published_schedule_is_the_default():
    config = ETOConfig()
    assert [(dpo_of(config, n).beta, dpo_of(config, n).learning_rate) for n in (1, 2, 3)] == [
        (0.1, 1e-6), (0.5, 5e-7), (0.5, 5e-7),
    ]  # fmt: skip
    assert config.dpo.sft_weight == 0 and config.dpo.batch_size == 32 and config.dpo.epochs == 3


@pytest.mark.parametrize("preset", ["smollm2-cpu", "paper-llama2-7b"])
@pytest.mark.parametrize("method", METHODS)
def test_both_presets_speak_to_every_method(preset, method):
    config_class = find_method(method).config_class
    config = from_mapping(config_class, preset_values(preset, fit_to(method, config_class)), preset)
    assert ("llama" in config.model.name.lower()) == (preset == "paper-llama2-7b")


@pytest.mark.parametrize("method", METHODS)
def test_the_preset_for_bfloat16_reaches_every_training_and_the_play_of_every_method(method):
    config_class = find_method(method).config_class
    config = from_mapping(config_class, read_config("smollm2-cpu+bfloat16", fit_to(method, config_class)), method)
    trainings = [part for part in vars(config).values() if isinstance(part, OptimizerConfig)]
    assert config.acting.dtype == "bfloat16" and {part.mixed_precision for part in trainings} <= {"bfloat16"}
    assert trainings or method == "best_of_n"


def test_icto_variants_are_presets_and_each_says_something():
    config_class = find_method("icto").config_class
    variants = [name for name in preset_names() if name.startswith("icto-")]
    assert len(variants) == 14
    for name in variants:
        assert from_mapping(config_class, preset_values(name, fit_to("icto", config_class)), name)
    with pytest.raises(ConfigError, match="says nothing that this method takes"):
        preset_values("icto-without-contrast", fit_to("bc", find_method("bc").config_class))
