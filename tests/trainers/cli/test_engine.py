"""What trains is a setting like others: from a file or preset, flags win, and it is written to the run."""

import json
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from packages import installed

from icto_gym.errors import ConfigError
from trainers.cli import run as run_verb
from trainers.cli import train as train_verb
from trainers.cli.main import main
from trainers.cli.parsing import parse
from trainers.config import read_yaml
from trainers.distributed import ZERO, EngineConfig, splits_weights
from trainers.methods import Method, find_method
from trainers.methods.bc import BCConfig
from trainers.methods.common import prepared
from trainers.methods.rlcd import RLCDConfig, run_rlcd
from trainers.presets import fit_to
from trainers.runs import Run
from trainers.training.deepspeed import PRESETS

DOCS = Path(__file__).parents[3] / "docs"
PAPER = ["--config", "paper-llama2-7b"]
SMALL = [
    "--model.name", "tiny-random", "--model.dtype", "float32", "--rollout.env-id", "icto_gym.testing:Scripted-v0",
    "--rollout.no-example", "--acting.max-new-tokens", "6", "--demonstrations.max-tasks", "4", "--sft.epochs", "1",
    "--evaluation.max-tasks", "1", "--evaluation.final-max-tasks", "1", "--evaluation.no-base",
]  # fmt: skip


def told(method, words):
    """The engine that ``icto run`` would start."""
    command = parse(
        run_verb._run_command(method), [*words, "--run", "r"], prog="icto run", method=method.name,
        fit=fit_to(method.name, method.config_class),
    )  # fmt: skip
    found = run_verb._engine_of(command)
    return found.engine, found.deepspeed


def trained(words):
    command = parse(train_verb.SFTCommand, ["t.jsonl", "--out", "o", *words], prog="icto train sft", section="sft")
    return command.engine, command.deepspeed


def test_a_preset_says_what_trains_and_flags_win():
    assert told(find_method("icto"), PAPER) == ("deepspeed", "zero2")
    assert told(find_method("icto"), [*PAPER, "--deepspeed", "zero3"]) == ("deepspeed", "zero3")
    assert told(find_method("icto"), [*PAPER, "--engine", "local"]) == ("local", "zero2")
    assert told(find_method("icto"), ["--config", "smollm2-cpu"]) == ("local", "zero2")
    assert trained(PAPER) == ("deepspeed", "zero2")
    assert trained([*PAPER, "--engine", "local"]) == ("local", "zero2")


def test_a_file_says_it_too_for_a_method_and_for_a_training(tmp_path, capsys):
    file = tmp_path / "mine.yaml"
    for text in ("engine: deepspeed\ndeepspeed: zero1\n", "preset: paper-llama2-7b\ndeepspeed: zero1\n"):
        file.write_text(text)
        assert told(find_method("bc"), ["--config", str(file)]) == ("deepspeed", "zero1")
    file.write_text("engine: deepspeed\nlearning_rate: 0.5\n")  # the settings of a training alone
    assert trained(["--config", str(file)]) == ("deepspeed", "zero2")
    file.write_text("engine: deepsped\n")
    for verb in (["run", "bc", "--run", str(tmp_path / "run")], ["train", "sft", "t.jsonl", "--out", "o"]):
        assert main([*verb, "--config", str(file)]) == 2
        assert "engine is 'deepsped'" in (said := capsys.readouterr().err) and "Did you mean 'deepspeed'?" in said


@pytest.mark.parametrize("method", ["bc", "rlcd"])  # of which the second checks more of its settings
def test_a_misspelt_zero_is_found_before_there_is_a_run(tmp_path, capsys, method):
    words = ["--config", "smollm2-cpu", "--deepspeed", "zero-3", "--run", str(tmp_path / "r")]
    assert main(["--quiet", "run", method, *words]) == 2
    assert "Unknown DeepSpeed preset 'zero-3'. Did you mean 'zero3'" in capsys.readouterr().err
    assert not (tmp_path / "r").exists()
    assert {*ZERO} == {file.stem for file in PRESETS.glob("*.json")}


def test_a_deepspeed_file_that_is_not_there_is_found_before_there_is_a_run(tmp_path, capsys):
    words = ["--engine", "deepspeed", "--deepspeed", "mine.json", "--run", str(tmp_path / "r")]
    assert main(["--quiet", "run", "bc", "--config", "smollm2-cpu", *words]) == 2
    assert "There is no DeepSpeed file 'mine.json'. Give one, or a preset: zero1" in capsys.readouterr().err
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("deepspeed", ["zero3", "zero3-offload", "mine.json"])
def test_weights_that_are_split_are_not_watched_which_is_said_before_any_work(tmp_path, deepspeed):
    (tmp_path / "mine.json").write_text('{"zero_optimization": {"stage": 3}}')
    told = EngineConfig("deepspeed", str(tmp_path / deepspeed) if deepspeed == "mine.json" else deepspeed)
    assert splits_weights(told) and not splits_weights(replace(told, engine="local"))
    config = replace(BCConfig(), engine=told.engine, deepspeed=told.deepspeed)
    with pytest.raises(ConfigError, match=r"probe.tasks is 16.*zero2"):
        prepared(config)
    asked = replace(RLCDConfig(objective="rm_ppo"), engine=told.engine, deepspeed=told.deepspeed)
    with pytest.raises(ConfigError, match=r"objective is 'rm_ppo' and deepspeed"), Run(tmp_path / "r") as run:
        run_rlcd(asked, run)


def test_other_files_split_no_weights(tmp_path):
    for text in ("[]", "{}", '{"zero_optimization": {"stage": 2}}'):
        (tmp_path / "mine.json").write_text(text)
        assert not splits_weights(EngineConfig("deepspeed", str(tmp_path / "mine.json")))


def test_a_method_whose_settings_do_not_say_it_is_told_beside_them(tmp_path):
    @dataclass(frozen=True)
    class Own:
        rounds: int = 1

    method, file = Method("own", lambda config, run: None, Own), tmp_path / "mine.yaml"
    file.write_text("rounds: 2\nengine: deepspeed\n")
    assert told(method, ["--config", str(file)]) == ("deepspeed", "zero2")
    assert told(method, ["--config", str(file), "--engine", "local"]) == ("local", "zero2")


def test_a_run_goes_on_with_another_engine_and_notes_it(tmp_path):
    with Run(tmp_path) as run:
        run.save_config(BCConfig(engine="deepspeed", deepspeed="zero3"), "bc")
        assert read_yaml(tmp_path / "config.yaml")["deepspeed"] == "zero3"
        run.save_config(BCConfig(), "bc")
    assert read_yaml(tmp_path / "config.yaml")["engine"] == "local"


def test_a_run_of_before_engines_stood_in_configs_goes_on(tmp_path):
    with Run(tmp_path) as run:
        run.save_config(BCConfig(), "bc")
        lines = (tmp_path / "config.yaml").read_text().splitlines(keepends=True)
        (tmp_path / "config.yaml").write_text("".join(line for line in lines if line[:6] not in ("engine", "deepsp")))
        run.save_config(BCConfig(engine="deepspeed"), "bc")
    assert read_yaml(tmp_path / "config.yaml")["engine"] == "deepspeed"


def test_a_program_that_forgot_to_start_deepspeed_is_told():
    with pytest.raises(ConfigError, match=r"was not started\. Call the method within `with trainers\.distributed"):
        prepared(BCConfig(engine="deepspeed"))


def test_where_deepspeed_is_missing_the_mend_is_named(tmp_path):
    program = "import sys; sys.modules['deepspeed'] = None; from trainers.cli.main import main; sys.exit(main())"
    words = ["run", "bc", *PAPER, *SMALL, "--run", str(tmp_path / "run")]
    ended = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True)
    assert ended.returncode == 1 and not (tmp_path / "run").exists()
    last = ended.stderr.splitlines()[-1]
    assert "pip install 'icto-gym[deepspeed]'" in last and last.endswith("--engine local.")


def launches():
    """Every command for torchrun that a page or help text shows."""
    pages = [run_verb.RUN_EXAMPLES, *(page.read_text() for page in sorted(DOCS.glob("*.md")))]
    return re.findall(r"^(?:\$ )?(torchrun (?:.*\\\n)*.*)", "\n".join(pages), re.MULTILINE)


def test_torchrun_understands_the_commands_that_are_shown():
    from torch.distributed.run import parse_args

    assert len(launches()) >= 5
    for command in launches():
        words = shlex.split(command, comments=True)
        told = parse_args(words[1:])  # which would take --run for one of its own
        assert (told.training_script, told.module, told.training_script_args[0]) == ("trainers.cli", True, "run")
        assert "--run" in told.training_script_args


def test_a_training_notes_in_its_record_what_trained(tmp_path):
    with Run(tmp_path) as run:
        for name, together in (("sft", True), ("pairs", False)):
            run.stage(name, dict, inputs={}, outputs=[], together=together)
        assert run.stage_record("sft")["engine"] == "local" and "engine" not in run.stage_record("pairs")


def test_an_optimiser_that_deepspeed_does_not_split_is_refused_with_both_mends():
    installed("deepspeed", extra="deepspeed", note="it compiles when it is installed, after torch")
    import torch

    from trainers.training.config import SFTConfig
    from trainers.training.deepspeed import DeepSpeedEngine

    with pytest.raises(ConfigError, match=r"optimizer is 'adamw8bit'\. Use 'adamw' or engine 'local'"):
        DeepSpeedEngine(torch.nn.Linear(1, 1), SFTConfig(optimizer="adamw8bit"), 1)


@pytest.mark.slow
def test_the_preset_trains_under_deepspeed_without_a_launcher_and_its_run_goes_on_without_it(tmp_path):
    installed("deepspeed", extra="deepspeed", note="it compiles when it is installed, after torch")
    folder = tmp_path / "run"
    words = ["-m", "trainers.cli", "run", "bc", *PAPER, *SMALL, "--run", str(folder)]
    ended = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=600)
    assert ended.returncode == 0, ended.stderr[-3000:]
    record = json.loads((folder / "stages" / "sft.json").read_text())
    assert (record["engine"], record["deepspeed"], record["processes"]) == ("deepspeed", "zero2", 1)
    saved = read_yaml(folder / "config.yaml")
    assert (saved["engine"], saved["deepspeed"]) == ("deepspeed", "zero2")
    assert main([*words[2:], "--engine", "local"]) == 0
    assert read_yaml(folder / "config.yaml")["engine"] == "local"
    assert json.loads((folder / "stages" / "sft.json").read_text()) == record  # trained once
