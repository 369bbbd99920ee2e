"""Dataclasses, YAML and flags say the same thing, and wrong ones say what is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from icto_gym.errors import ConfigError
from trainers.cli.flags import parse_flags
from trainers.config import (
    config_difference,
    from_mapping,
    load_config,
    merged,
    read_yaml,
    save_config,
    to_mapping,
)
from trainers.presets import fit_to, preset_names, preset_path, read_config
from trainers.training.config import DPOConfig

EXAMPLES = sorted(Path(__file__).parents[2].glob("examples/configs/*.yaml"))


@dataclass(frozen=True)
class Inner:
    """An inner section."""

    beta: float = 0.1
    """Strength."""
    rank: int = 8
    names: tuple[str, ...] = ("dev",)
    mode: Literal["nf4", "int8"] | None = None
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    """Passed on."""
    target: str | tuple[str, ...] = "all"

    def __post_init__(self) -> None:
        if self.beta <= 0:
            raise ConfigError(f"beta is {self.beta!r}; give a number above 0.")


@dataclass(frozen=True)
class Outer:
    """A whole config."""

    seed: int = 0
    deep: bool = False
    path: Path | None = None
    dpo: Inner = field(default_factory=Inner)
    extra: Inner | None = None


def write(folder: Path, text: str) -> Path:
    (folder / "dpo.yaml").write_text(text)
    return folder / "dpo.yaml"


def test_defaults_yield_to_yaml_and_yaml_to_flags(tmp_path):
    path = write(tmp_path, "seed: 3\ndpo:\n  beta: 0.2\n  rank: 4\n")
    from_file = load_config(Outer, path)
    assert (from_file.seed, from_file.dpo.beta, from_file.dpo.rank, from_file.deep) == (3, 0.2, 4, False)
    flagged = parse_flags(Outer, ["--dpo.beta", "0.3", "--deep"], default=from_file)
    assert (flagged.seed, flagged.dpo.beta, flagged.dpo.rank, flagged.deep) == (3, 0.3, 4, True)


def test_an_unknown_key_is_named_with_file_section_and_the_nearest_one(tmp_path):
    path = write(tmp_path, "dpo:\n  betta: 0.2\n")
    with pytest.raises(ConfigError) as caught:
        load_config(Outer, path)
    assert str(caught.value) == f"Unknown key 'betta' in {path}, section 'dpo'. Did you mean 'beta'?"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: many", "seed is 'many' (str); expected int"),
        ("seed: true", "seed is True (bool); expected int"),
        ("seed: 1.5", "seed is 1.5 (float); expected int"),
        ("deep: 1", "deep is 1 (int); expected bool"),
        ("dpo: 3", "dpo is 3 (int); expected a section"),
        ("dpo: {beta: big}", "dpo.beta is 'big' (str); expected float"),
        ("dpo: {names: dev}", "dpo.names is 'dev' (str); expected tuple"),
        ("dpo: {names: [1]}", "dpo.names[0] is 1 (int); expected str"),
        ("dpo: {mode: nf5}", "dpo.mode is 'nf5'; expected one of 'nf4', 'int8'. Did you mean 'nf4'?"),
        ("dpo: {kwargs: [1]}", "dpo.kwargs is [1] (list); expected"),
        ("dpo: {beta: -1}", "section 'dpo': beta is -1.0; give a number above 0."),
        ("- a list", "found list"),
        ("a: [", "not valid YAML"),
    ],
)
def test_a_wrong_value_is_named_with_place_value_and_what_was_expected(tmp_path, text, message):
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_config(Outer, path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_float_written_without_a_dot_is_a_float(tmp_path):
    assert load_config(Outer, write(tmp_path, "dpo: {beta: 5e-5}")).dpo.beta == 5e-5
    assert load_config(Outer, write(tmp_path, "dpo: {beta: 1}")).dpo.beta == 1.0


def test_a_missing_file_is_a_config_error(tmp_path):
    with pytest.raises(ConfigError, match="Cannot read the config"):
        load_config(Outer, tmp_path / "none.yaml")


def test_an_empty_file_gives_the_defaults(tmp_path):
    assert load_config(Outer, write(tmp_path, "")) == Outer()


def test_what_is_saved_is_read_back_as_it_was(tmp_path):
    config = Outer(
        seed=5,
        path=Path("a/b"),
        extra=Inner(target=("q", "v")),
        dpo=Inner(mode="nf4", kwargs={"data": "mini", "n": [1]}),
    )
    save_config(config, tmp_path / "config.yaml")
    assert load_config(Outer, tmp_path / "config.yaml") == config


def test_flags_take_tuples_mappings_and_none():
    flagged = parse_flags(Outer, ["--dpo.names", "dev", "test", "--dpo.kwargs", "{data: mini}", "--path", "None"])
    assert flagged.dpo.names == ("dev", "test")
    assert flagged.dpo.kwargs == {"data": "mini"}
    assert flagged.path is None


def test_a_wrong_flag_exits_with_two(capsys):
    with pytest.raises(SystemExit) as caught:
        parse_flags(Outer, ["--dpo.betta", "0.2"])
    assert caught.value.code == 2
    assert "--dpo.beta" in capsys.readouterr().err


def test_every_field_explains_itself_in_help(capsys):
    with pytest.raises(SystemExit) as caught:
        parse_flags(Outer, ["--help"])
    assert caught.value.code == 0
    assert "Strength." in capsys.readouterr().out


def test_the_difference_of_two_configs_names_every_value():
    assert config_difference(Outer(), Outer()) == []
    lines = config_difference(Outer(), Outer(seed=1, dpo=Inner(beta=0.2), extra=Inner()))
    assert lines[:2] == ["seed: 0 -> 1", "dpo.beta: 0.1 -> 0.2"]
    assert lines[2].startswith("extra: None -> {")


def test_sections_are_merged_key_by_key():
    assert merged({"a": {"x": 1, "y": 2}, "b": 1}, {"a": {"y": 3}, "c": 4}) == {"a": {"x": 1, "y": 3}, "b": 1, "c": 4}


def test_mappings_hold_plain_values_only():
    assert to_mapping(Outer(path=Path("x")))["dpo"]["names"] == ["dev"]
    assert from_mapping(Outer, to_mapping(Outer(path=Path("x"))), "memory") == Outer(path=Path("x"))


def test_an_unknown_preset_is_answered_with_the_nearest_one():
    assert "smollm2-cpu" in preset_names()
    with pytest.raises(ConfigError, match="Did you mean 'smollm2-cpu'"):
        preset_path("smollm2-gpu")


@dataclass(frozen=True)
class Starting:
    """A config whose sections start from other defaults than their class."""

    dpo: Inner = field(default_factory=lambda: Inner(beta=0.5, rank=2))
    extra: Inner | None = field(default_factory=lambda: Inner(rank=3))


def test_a_section_named_in_part_keeps_the_rest_of_what_its_owner_starts_from(tmp_path):
    config = load_config(Starting, write(tmp_path, "dpo: {rank: 4}\nextra: {beta: 0.7}\n"))
    assert (config.dpo.beta, config.dpo.rank) == (0.5, 4)
    assert (config.extra.beta, config.extra.rank) == (0.7, 3)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_every_example_config_fits_the_schema_of_icto(path):
    from trainers.methods.icto import ICTOConfig

    values = read_config(str(path), fit_to("icto", ICTOConfig))
    assert from_mapping(ICTOConfig, values, path.name) != ICTOConfig()


def test_every_preset_has_only_what_some_method_takes():
    from trainers.methods import METHODS, find_method

    classes = {name: find_method(name).config_class for name in METHODS}
    for preset in preset_names():
        fitting = {name: fit_to(name, cls)(read_yaml(preset_path(preset))) for name, cls in classes.items()}
        for name, values in fitting.items():
            if name == preset.partition("-")[0] or preset in ("smollm2-cpu", "paper-llama2-7b"):
                assert isinstance(from_mapping(classes[name], values, preset), classes[name])
        known = {key for values in fitting.values() for key in values}
        assert set(read_yaml(preset_path(preset))) - {"methods"} <= known, preset


def test_presets_are_laid_over_one_another_for_the_method_that_asks(tmp_path):
    from trainers.methods.eto import ETOConfig
    from trainers.methods.icto import ICTOConfig

    fit = fit_to("icto", ICTOConfig)
    both = from_mapping(ICTOConfig, read_config("smollm2-cpu+icto-step", fit), "both")
    assert both.dpo.objective == "step" and both.dpo.sft_weight == 0.1 and both.rollout.max_tasks == 120
    path = write(tmp_path, "preset: [smollm2-cpu, icto-3]\nrollout: {attempts: 2}\n")
    config = from_mapping(ICTOConfig, read_config(str(path), fit), "file")
    assert (config.iterations, config.rollout.attempts, config.rollout.max_tasks) == (3, 2, 120)
    eto = from_mapping(ETOConfig, read_config("smollm2-cpu", fit_to("eto", ETOConfig)), "eto")
    assert eto.rollout.temperature == 0.0 and eto.learning_rates == (2e-5, 1e-5)


def test_a_folder_with_the_name_of_a_preset_is_not_that_preset(tmp_path, monkeypatch):
    before = read_config("smollm2-cpu")
    (tmp_path / "smollm2-cpu").mkdir()
    monkeypatch.chdir(tmp_path)
    assert read_config("smollm2-cpu") == before


def test_a_file_builds_on_the_preset_it_names(tmp_path):
    from trainers.methods.icto import ICTOConfig

    path = write(tmp_path, "preset: paper-llama2-7b\nsft: {epochs: 3}\n")
    config = from_mapping(ICTOConfig, read_config(str(path), fit_to("icto", ICTOConfig)), "file")
    assert (config.sft.epochs, config.sft.batch_size, config.sft.learning_rate) == (3.0, 64, 5e-5)
    assert config.model.lora is None


def test_a_number_without_end_and_a_key_that_stands_twice_are_refused(tmp_path):
    path = tmp_path / "c.yaml"
    for text, words in (
        ("learning_rate: .inf", "learning_rate is inf"),
        ("learning_rate: .nan", "learning_rate is nan"),
        ("beta: 0.1\nepochs: 1\nbeta: 0.2", r"c\.yaml: not valid YAML \(the key 'beta' stands here a second time"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=words):
            load_config(DPOConfig, path)
    path.write_text("a: &a {beta: 0.2}\nb: {<<: *a, beta: 0.3}\nc: *a\n")  # merging is no repetition
    assert read_yaml(path) == {"a": {"beta": 0.2}, "b": {"beta": 0.3}, "c": {"beta": 0.2}}
