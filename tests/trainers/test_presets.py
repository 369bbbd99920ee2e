"""Presets: they fit the methods that they are for, and hold what was published."""

from __future__ import annotations

import pytest

from icto_gym.errors import ConfigError
from trainers.cli.parsing import parse
from trainers.cli.train import PPOCommand
from trainers.config import from_mapping
from trainers.evaluation.evaluate import greedy
from trainers.methods import METHODS, find_method
from trainers.methods.common import prepared
from trainers.methods.eto import ETOConfig, dpo_of
from trainers.presets import fit_to, preset_names, preset_values, read_config
from trainers.training.config import OptimizerConfig

PAPER = "paper-llama2-7b"


def test_etos_published_schedule_is_the_default():
    config = ETOConfig()
    assert [(dpo_of(config, n).beta, dpo_of(config, n).learning_rate) for n in (1, 2, 3)] == [
        (0.1, 1e-6), (0.5, 5e-7), (0.5, 5e-7),
    ]  # fmt: skip
    assert config.dpo.sft_weight == 0 and config.dpo.batch_size == 32 and config.dpo.epochs == 3


@pytest.mark.parametrize("preset", ["smollm2-cpu", PAPER])
@pytest.mark.parametrize("method", METHODS)
def test_both_presets_speak_to_every_method(preset, method):
    config_class = find_method(method).config_class
    config = from_mapping(config_class, preset_values(preset, fit_to(method, config_class)), preset)
    assert ("llama" in config.model.name.lower()) == (preset == PAPER)


@pytest.mark.parametrize(("preset", "size"), [("smollm2-cpu", 32), (PAPER, 256)])
def test_both_presets_speak_to_ppo_by_itself(preset, size):
    command = ["pairs.jsonl", "--reward", "r", "--out", "o", "--config", preset]
    assert parse(PPOCommand, command, prog="icto train ppo", section="ppo").settings.rollout_size == size


def paper(method, *over):
    """What `paper-llama2-7b`, and what is laid over it, says to a method."""
    config_class = find_method(method).config_class
    return from_mapping(config_class, read_config("+".join([PAPER, *over]), fit_to(method, config_class)), PAPER)


def trainings(config):
    """Every training of a method, by the name of its section."""
    return {name: part for name, part in vars(config).items() if isinstance(part, OptimizerConfig)}


@pytest.mark.parametrize(
    ("method", "sections"),
    [("bc", {"sft"}), ("rft", {"sft"}), ("nat", {"sft"}), ("icto", {"sft", "dpo", "reward"})],
)
def test_the_papers_preset_trains_as_the_paper_says(method, sections):
    config = paper(method)
    assert trainings(config).keys() == sections
    for name, training in trainings(config).items():
        assert (training.epochs, training.batch_size, training.optimizer) == (2, 64, "adamw"), name
        assert (training.schedule, training.warmup_ratio, training.learning_rate) == ("cosine", 0.03, 5e-5), name
    assert (config.engine, config.deepspeed, config.model.lora) == ("deepspeed", "zero2", None)


@pytest.mark.parametrize("method", METHODS)
def test_every_training_of_the_papers_preset_fits_a_card(method):
    found = trainings(paper(method)).items()
    limits = {name: (part.activation_checkpointing, part.micro_batch_tokens) for name, part in found}
    assert set(limits.values()) == {(True, 8192)}, limits


@pytest.mark.parametrize("preset", ["smollm2-cpu", PAPER])
@pytest.mark.parametrize("method", METHODS)
def test_all_methods_of_a_preset_stand_under_one_protocol(preset, method):
    """Only how a method explores and trains is its own; what is shown, imitated, played and measured is not."""
    one, other = (
        from_mapping(cls, preset_values(preset, fit_to(name, cls)), preset)
        for name, cls in ((name, find_method(name).config_class) for name in ("bc", method))
    )
    for section in ("engine", "deepspeed", "model", "acting", "demonstrations", "probe", "evaluation"):
        assert getattr(one, section) == getattr(other, section), section
    assert greedy(one.rollout, "test") == greedy(other.rollout, "test")
    assert other.rollout.split == one.rollout.split and other.rollout.max_tasks == one.rollout.max_tasks


def test_a_rate_for_all_weights_is_told_where_an_adapter_is_trained(caplog):
    config_class = find_method("ipr").config_class
    values = read_config("smollm2-cpu+ipr-outcomes-only", fit_to("ipr", config_class))
    prepared(from_mapping(config_class, values, "the test"))
    assert "dpo.learning_rate is 1e-07, as for all weights" in caplog.text
    caplog.clear()
    prepared(ETOConfig())
    assert "learning_rates is 5e-07, as for all weights" in caplog.text and "dpo." not in caplog.text
    caplog.clear()
    prepared(from_mapping(config_class, {**values, "model": {**values["model"], "lora": None}}, "the test"))
    assert "learning_rate" not in caplog.text


def test_what_etos_and_iprs_sources_publish_stays_theirs():
    eto, ipr = paper("eto"), paper("ipr")
    assert (eto.sft.learning_rate, eto.sft.epochs, eto.sft.batch_size, eto.sft.train_acknowledgement) == (
        2e-5, 3, 64, True,
    )  # fmt: skip
    assert (ipr.sft.learning_rate, ipr.sft.epochs, ipr.sft.batch_size, ipr.sft.train_acknowledgement) == (
        2e-5, 3, 48, True,
    )  # fmt: skip
    assert [(dpo_of(eto, n).beta, dpo_of(eto, n).learning_rate) for n in (1, 2)] == [(0.1, 1e-6), (0.5, 5e-7)]
    for dpo in (eto.dpo, ipr.dpo):
        assert (dpo.epochs, dpo.schedule, dpo.warmup_ratio, dpo.beta) == (3, "constant", 0.1, 0.1)
    assert (eto.dpo.batch_size, ipr.dpo.batch_size, ipr.dpo.learning_rate) == (32, 48, 3e-6)
    assert (eto.rollout.attempts, eto.rollout.temperature, ipr.rollout.temperature) == (1, 0.0, 0.0)
    assert paper("ipr", "ipr-alfworld").rollout.max_episode_steps == 20
    assert paper("eto", "eto-alfworld").iterations == 1


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


def test_a_misspelt_preset_is_told_and_blanks_around_plus_do_not_matter():
    joined = read_config("smollm2-cpu + icto-anchored")
    assert joined == read_config("smollm2-cpu+icto-anchored")
    for name, words in (
        ("smolm2-cpu", "Did you mean 'smollm2-cpu'"),
        ("smollm2-cpu+icto-anchord", "Did you mean 'icto-anchored'"),
        ("smollm2-cpu+", "Unknown preset ''"),
        ("no/such/file.yaml", "Cannot read the config"),
    ):
        with pytest.raises(ConfigError, match=words):
            read_config(name)
