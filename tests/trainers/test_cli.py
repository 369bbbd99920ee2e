"""The command line: help that teaches, one clean line for an error, the right exit code."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from icto_gym.errors import BackendError
from icto_gym.store import TrajectoryStore
from trainers.cli.main import VERBS, main

ENV = "icto_gym.testing:Scripted-v0"
PLAY = ["--env-id", ENV]


def test_help_shows_every_verb_and_examples(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"\n  {verb} " in text for verb in VERBS)
    assert "examples:" in text and "exit codes:" in text


def test_no_verb_at_all_is_wrong_usage(capsys):
    assert main([]) == 2


@pytest.mark.parametrize(
    "words", [[verb] for verb in VERBS if verb not in ("run", "train")]
    + [["run", "icto"], ["run", "bc"], ["run"], ["train"], ["train", "sft"], ["train", "dpo"], ["train", "reward"]],
    ids=" ".join,
)  # fmt: skip
def test_the_help_of_every_verb_explains_and_ends_with_examples(words, capsys):
    assert main([*words, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"usage: icto {words[0]}" in text
    assert "examples:" in text and f"icto {words[0]}" in text.partition("examples:")[2]


def test_an_unknown_verb_is_answered_with_the_nearest_one(capsys):
    assert main(["evalute"]) == 2
    assert capsys.readouterr().err == (
        "icto: error: Unknown verb 'evalute'. Did you mean 'evaluate'? Known: " + ", ".join(VERBS) + ".\n"
    )


def test_an_unknown_method_is_answered_with_the_nearest_one(capsys, tmp_path):
    assert main(["run", "ictoo", "--run", str(tmp_path / "run")]) == 2
    assert "Unknown method 'ictoo'. Did you mean 'icto'?" in capsys.readouterr().err


def test_an_unknown_flag_is_wrong_usage_and_names_the_nearest(capsys, tmp_path):
    assert main(["run", "icto", "--run", str(tmp_path / "run"), "--dpo.betta", "0.2"]) == 2
    assert "--dpo.beta" in capsys.readouterr().err


def test_an_unknown_key_in_the_config_is_one_clean_line(capsys, tmp_path):
    (tmp_path / "my.yaml").write_text("dpo:\n  betta: 0.2\n")
    assert main(["run", "icto", "--config", str(tmp_path / "my.yaml"), "--run", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert error == (
        f"icto: error: Unknown key 'betta' in {tmp_path / 'my.yaml'}, section 'dpo'. Did you mean 'beta'?\n"
    )


def test_debug_shows_the_traceback(tmp_path):
    with pytest.raises(Exception, match="Unknown verb"):
        main(["nothing", "--debug"])


def test_a_missing_input_file_is_named(capsys, tmp_path):
    assert main(["judge", str(tmp_path / "none.jsonl"), "--out", str(tmp_path / "verdicts.jsonl")]) == 2
    assert f"There is no file {tmp_path / 'none.jsonl'}." in capsys.readouterr().err


def test_a_broken_line_in_a_file_is_named_and_fails_with_one(capsys, tmp_path):
    (tmp_path / "t.jsonl").write_text('{"trajectory_id": 3}\n')
    assert main(["judge", str(tmp_path / "t.jsonl"), "--out", str(tmp_path / "verdicts.jsonl")]) == 1
    assert f"{tmp_path / 't.jsonl'} line 1: field trajectory_id" in capsys.readouterr().err


def test_an_unknown_environment_or_split_is_wrong_usage(capsys, tmp_path):
    out = ["--out", str(tmp_path / "x")]
    assert main(["evaluate", "random", "--env-id", "icto/WebShopp-v0", *out]) == 2
    assert "icto/WebShop-v0" in capsys.readouterr().err
    assert main(["evaluate", "random", *PLAY, "--split", "tset", *out]) == 2
    assert "'tset'" in capsys.readouterr().err


def test_files_flow_from_verb_to_verb(capsys, tmp_path):
    expert, played = str(tmp_path / "expert.jsonl"), str(tmp_path / "played.jsonl")
    verdicts, rewards, pairs = (str(tmp_path / name) for name in ("v.jsonl", "s.jsonl", "p.jsonl"))
    assert main(["rollout", "expert", *PLAY, "--attempts", "1", "--out", expert]) == 0
    assert main(["rollout", "random", *PLAY, "--attempts", "2", "--out", played]) == 0
    assert main(["judge", played, "--out", verdicts]) == 0
    assert main(["score", played, "--out", rewards]) == 0
    capsys.readouterr()
    words = [played, "--verdicts", verdicts, "--step-rewards", rewards, "--demonstrations", expert, "--out", pairs]
    assert main(["pair", *words]) == 0
    assert json.loads(capsys.readouterr().out)["pairs"] == len((tmp_path / "p.jsonl").read_text().splitlines()) > 0
    assert len(TrajectoryStore(played)) == 24


def test_results_go_to_standard_output_and_the_log_to_standard_error(capsys, tmp_path):
    assert main(["evaluate", "expert", *PLAY, "--split", "test", "--out", str(tmp_path / "e")]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["metrics"]["success_rate"]["value"] == 1.0
    assert "done in" in captured.err
    assert main(["evaluate", "expert", *PLAY, "--split", "test", "--out", str(tmp_path / "e"), "--quiet"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["n_tasks"] == 8
    assert captured.err == ""


def test_a_stage_reads_its_section_of_a_methods_config(tmp_path, capsys):
    (tmp_path / "my.yaml").write_text(f"rollout:\n  env_id: {ENV}\n  max_tasks: 3\n  attempts: 1\nsft: {{epochs: 2}}\n")
    config = ["--config", str(tmp_path / "my.yaml")]
    assert main(["rollout", "expert", *config, "--max-tasks", "2", "--out", str(tmp_path / "t.jsonl")]) == 0
    assert len(TrajectoryStore(tmp_path / "t.jsonl")) == 2


def test_an_evaluation_takes_its_environment_from_a_methods_config_and_never_explores(tmp_path, capsys):
    (tmp_path / "my.yaml").write_text(f"rollout:\n  env_id: {ENV}\n  max_tasks: 1\n  window: 2\n  epsilon: 0.5\n")
    words = ["expert", "--config", str(tmp_path / "my.yaml"), "--split", "test", "--out", str(tmp_path / "e")]
    assert main(["evaluate", *words, "--max-tasks", "3"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["split"], result["n_tasks"], result["decoding"]["window"]) == ("test", 3, 2)
    assert result["metrics"]["success_rate"]["value"] == 1.0
    assert main(["evaluate", "--help"]) == 0
    assert "--epsilon" not in capsys.readouterr().out


def test_tasks_lists_splits_with_sizes_and_digests(capsys):
    assert main(["tasks", ENV]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1:3] for line in lines[1:]] == [["train", "12"], ["dev", "4"], ["test", "8"]]
    assert main(["tasks", ENV, "--split", "dev"]) == 0
    assert capsys.readouterr().out.splitlines()[0].startswith("scripted/dev/12\tfetch\t")


@pytest.mark.parametrize(("env_id", "says"), [("gymnasium:CartPole-v1", "not a TextEnv"), ("foo:bar-v0", "foo")])
def test_environments_without_tasks_are_named(env_id, says, capsys):
    assert main(["tasks", env_id]) in (1, 2)
    err = capsys.readouterr().err
    assert re.search(says, err) and "Traceback" not in err


def test_a_person_plays_with_hints(capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("expert\nactions\nnonsense\nlook\ntake date from bowl 1\n"))
    assert main(["play", ENV, "--index", "3"]) == 0
    text = capsys.readouterr().out
    assert "The expert would do: look   (I should see where it is.)" in text
    assert "knock\ntake date" in text and "What?" in text
    assert "The episode is over: success, score 1 in 3 actions." in text


def test_leaving_a_game_is_not_an_error(capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("look\n"))
    assert main(["play", ENV, "--seed", "1"]) == 0
    assert "You left after 1 actions" in capsys.readouterr().out


def test_doctor_names_extras_machine_and_disk(capsys):
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert "  train " in text and "cores" in text and "GB free" in text and "Java" in text
    assert re.search(r"products \d+\.\d times as fast as in float32", text)


def test_the_run_folder_is_checked_before_any_work(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    words = ["--rollout.env-id", ENV, "--run", str(tmp_path / "file" / "run")]
    assert main(["run", "bc", *words]) == 1
    assert "cannot be written" in capsys.readouterr().err


def test_a_full_disk_within_a_stage_is_one_clean_line_and_the_same_command_goes_on(tmp_path):
    """A real limit on file sizes: the kernel refuses the write, as a full disk would."""
    out = tmp_path / "t.jsonl"
    words = ["rollout", "expert", *PLAY, "--attempts", "1", "--out", str(out)]
    limited = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (8000, 8000)); "
        "from trainers.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    failed = subprocess.run([sys.executable, "-c", limited, *words], capture_output=True, text=True)
    assert failed.returncode == 1, failed.stderr
    assert "icto: error: Could not append" in failed.stderr and "Traceback" not in failed.stderr
    kept = len(TrajectoryStore(out))
    assert 0 < kept < 12
    assert main(words) == 0
    assert len(TrajectoryStore(out)) == 12


def test_control_c_says_how_to_continue(capsys, monkeypatch):
    def interrupted(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("trainers.cli.look.doctor", interrupted)
    assert main(["doctor", "--x", "a b"]) == 130
    assert "continue with:\n  icto doctor --x 'a b'\n" in capsys.readouterr().err


SLOW = """
import time
from trainers.policies.random import RandomPolicy

class Slow(RandomPolicy):
    def act(self, turns):
        time.sleep(0.2)
        return super().act(turns)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_real_interrupt_ends_cleanly_and_keeps_what_was_finished(tmp_path, number):
    (tmp_path / "slow_policy.py").write_text(SLOW)
    out = tmp_path / "t.jsonl"
    words = ["-m", "trainers.cli", "rollout", "slow_policy:Slow", *PLAY, "--batch-size", "1", "--out", str(out)]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    process = subprocess.Popen([sys.executable, *words], stderr=subprocess.PIPE, text=True, env=environment)
    while not (out.exists() and len(TrajectoryStore(out)) > 0):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    process.send_signal(number)
    _, log = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in log
    assert "continue with:\n  icto rollout slow_policy:Slow" in log
    assert 0 < len(TrajectoryStore(out)) < 48


def test_importing_the_command_line_is_light():
    code = "import sys, trainers.cli.main, trainers.cli.run, trainers.cli.train; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_rollout_in_which_every_episode_breaks_fails_and_is_played_once_it_is_mended(tmp_path, capsys, monkeypatch):
    def fall_down(self, task):
        raise BackendError("The bowls fell down.")

    words = ["rollout", "random", *PLAY, "--max-tasks", "2", "--attempts", "1", "--out", str(tmp_path / "t.jsonl")]
    with monkeypatch.context() as patch:
        patch.setattr("icto_gym.testing.ScriptedEnv._begin", fall_down)
        for _ in range(2):
            assert main(words) == 1
            told = capsys.readouterr().err
            assert "Every episode broke (2 of 2)" in told and "The bowls fell down." in told
    assert main(words) == 0 and len(TrajectoryStore(tmp_path / "t.jsonl")) == 2


def test_further_environments_are_played_in_the_same_rollout(tmp_path, capsys):
    more, out = tmp_path / "more.yaml", tmp_path / "mix.jsonl"
    more.write_text("rollout: {env_id: icto/WebShop-v0, max_tasks: 2, attempts: 1, max_episode_steps: 3}")
    words = ["rollout", "random", *PLAY, "--max-tasks", "3", "--attempts", "1", "--out", str(out), "--also", str(more)]
    assert main(words) == 0
    kinds = [trajectory.env_id for trajectory in TrajectoryStore(out)]
    assert sorted(kinds) == 3 * ["Scripted-v0"] + 2 * ["icto/WebShop-v0"]
    before = out.read_bytes()
    assert main(words) == 0 and out.read_bytes() == before
    more.write_text("rollout: {env_idd: icto/WebShop-v0}")
    capsys.readouterr()
    assert main(words) == 2
    assert "env_idd" in (told := capsys.readouterr().err) and "more.yaml" in told


def test_a_missing_package_is_named_with_the_command_that_installs_it(tmp_path):
    """Torch as if it were not installed, in the middle of a method."""
    words = ["run", "bc", "--model.name", "tiny-random", "--rollout.env-id", ENV, "--run", str(tmp_path / "run")]
    without = "import sys; sys.modules['torch'] = None; "
    program = without + "from trainers.cli.main import main; sys.exit(main(sys.argv[1:]))"
    ended = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True)
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1] == (
        "icto: error: 'torch' is not installed. Install it: pip install 'icto-gym[train]'"
    )
    ended = subprocess.run([sys.executable, "-c", without + "import trainers.losses"], capture_output=True, text=True)
    assert "pip install 'icto-gym[train]'" in ended.stderr.splitlines()[-1]


def test_a_report_of_a_folder_that_is_no_run_is_refused(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 2
    assert "is no run folder" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_config_of_a_run_is_a_config_for_the_same_method_alone(tmp_path, capsys):
    from trainers.cli.parsing import parse
    from trainers.cli.run import _run_command
    from trainers.methods import find_method

    saved = tmp_path / "config.yaml"
    saved.write_text("method: bc\nsft:\n  epochs: 7.0\n")
    words = ["--config", str(saved), "--sft.batch-size", "3", "--run", str(tmp_path / "again")]
    told = parse(_run_command(find_method("bc")), words, prog="icto run bc", method="bc")
    assert (told.settings.sft.epochs, told.settings.sft.batch_size) == (7.0, 3)
    assert main(["run", "eto", "--config", str(saved), "--run", str(tmp_path / "other")]) == 2
    assert "is the config of another method than eto" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_a_stage_takes_a_methods_config_that_says_nothing_of_it_and_a_flat_one_that_names_its_kind(tmp_path, capsys):
    played = tmp_path / "t.jsonl"
    assert main(["rollout", "expert", *PLAY, "--max-tasks", "2", "--attempts", "1", "--out", str(played)]) == 0
    (tmp_path / "flat.yaml").write_text("judge: rules\nrules: {min_parse_rate: 0.5}\n")
    (tmp_path / "odd.yaml").write_text("rollout: {attempts: 2}\ncolour: red\n")
    (tmp_path / "whole.yaml").write_text("seed: 3\nmodel: {name: tiny-random}\n")
    for verb, config in (
        ("judge", "smollm2-cpu"),
        ("judge", tmp_path / "flat.yaml"),
        ("pair", tmp_path / "whole.yaml"),
    ):
        out = tmp_path / f"{verb}-{Path(config).stem}.jsonl"
        assert main([verb, str(played), "--config", str(config), "--out", str(out)]) == 0
    assert main(["judge", str(played), "--config", str(tmp_path / "odd.yaml"), "--out", str(tmp_path / "w.jsonl")]) == 2
    assert "Unknown key" in capsys.readouterr().err


def test_flags_that_would_have_no_effect_are_refused(tmp_path, capsys):
    for words, told in (
        (["tasks", "--split", "test"], "--split test is a split of an environment; name it before"),
        (["score", "t.jsonl", "--model", "/nope", "--out", "s.jsonl"], "--model is asked by --source learned only"),
        (
            ["export", __file__, "--format", "trl-sft", "--verdicts", "v.jsonl", "--out", str(tmp_path / "o.jsonl")],
            "--verdicts is for trl-unpaired; trl-sft has no place for it",
        ),
        (
            ["import", __file__, "--format", "trl-sft", "--step-rewards", "s", "--out", str(tmp_path / "o.jsonl")],
            "--step-rewards is for trl-stepwise",
        ),
    ):
        assert main(words) == 2
        assert told in capsys.readouterr().err
