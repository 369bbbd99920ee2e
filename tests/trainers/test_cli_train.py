"""``icto train``, one verb after the other, down to a policy that plays."""

from __future__ import annotations

import json

import pytest

from trainers.cli.main import main
from trainers.records import StepRewards, read_records

ENV = ["--env-id", "icto_gym.testing:Scripted-v0"]
MODEL = ["--model.name", "tiny-random", "--model.lora.r", "4"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Demonstrations, explored episodes, pairs, and a cloned policy."""
    folder = tmp_path_factory.mktemp("train")
    expert, played, pairs = (str(folder / name) for name in ("expert.jsonl", "played.jsonl", "pairs.jsonl"))
    play = [*ENV, "--max-tasks", "4"]
    assert main(["rollout", "expert", *play, "--attempts", "1", "--out", expert]) == 0
    assert main(["rollout", "random", *play, "--attempts", "2", "--out", played]) == 0
    assert main(["pair", played, "--demonstrations", expert, "--out", pairs]) == 0
    assert main(["train", "sft", expert, *MODEL, "--epochs", "1", "--out", str(folder / "sft")]) == 0
    return folder


def test_a_cloned_policy_plays(files, capsys):
    checkpoint = files / "sft" / "checkpoint"
    words = [
        f"hf:{checkpoint}",
        *ENV,
        "--max-tasks",
        "1",
        "--max-episode-steps",
        "2",
        "--out",
        str(files / "played-sft"),
    ]
    assert main(["evaluate", *words, "--policy-options", "{max_new_tokens: 6}"]) == 0
    assert json.loads(capsys.readouterr().out)["decoding"]["max_new_tokens"] == 6


def test_training_again_is_skipped_and_says_so(files, capsys):
    assert (
        main(["train", "sft", str(files / "expert.jsonl"), *MODEL, "--epochs", "1", "--out", str(files / "sft")]) == 0
    )
    captured = capsys.readouterr()
    assert "sft: complete, skipped" in captured.err
    said = json.loads(captured.out)
    assert (said["checkpoint"], said["trajectories"]) == (str(files / "sft" / "checkpoint"), 4)
    assert (said["truncated"], said["dropped"]) == (0, 0)


def test_pairs_train_a_policy_from_a_checkpoint(files, capsys):
    words = [str(files / "pairs.jsonl"), "--start", str(files / "sft" / "checkpoint"), "--epochs", "1"]
    assert main(["train", "dpo", *words, "--beta", "0.3", "--out", str(files / "dpo")]) == 0
    record = json.loads((files / "dpo" / "checkpoint" / "checkpoint.json").read_text())
    assert record["config"]["beta"] == 0.3
    steps = [json.loads(line)["step"] for line in (files / "dpo" / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(len(steps)))


def test_a_reward_model_scores_steps(files):
    played, out = str(files / "played.jsonl"), files / "rewards.jsonl"
    assert main(["train", "reward", played, *MODEL, "--epochs", "1", "--out", str(files / "reward")]) == 0
    model = ["--source", "learned", "--model", str(files / "reward" / "checkpoint")]
    assert main(["score", played, *model, "--out", str(out)]) == 0
    assert len(read_records(out, StepRewards)) == 8


def test_a_reward_model_is_not_read_as_what_it_was_not_fitted_to(files, capsys):
    played, out = str(files / "played.jsonl"), files / "literal"
    words = [played, *MODEL, "--epochs", "1", "--targets.targets", "recorded", "--out", str(out)]
    assert main(["train", "reward", *words]) == 0
    model = ["--source", "learned", "--model", str(out / "checkpoint")]
    assert main(["score", played, *model, "--out", str(files / "misread.jsonl")]) == 2
    assert "was fitted to 'recorded' targets" in capsys.readouterr().err
    assert main(["score", played, *model, "--targets", "recorded", "--out", str(files / "literal.jsonl")]) == 0
    assert {item.source for item in read_records(files / "literal.jsonl", StepRewards)} == {"learned:literal"}


@pytest.mark.parametrize("verb", ["dpo", "preference"])
def test_no_pairs_is_a_clear_failure(files, capsys, verb):
    empty = files / "empty.jsonl"
    empty.write_text("")
    assert main(["train", verb, str(empty), *MODEL, "--out", str(files / f"nothing-{verb}")]) == 1
    assert "holds no pairs, so there is nothing to learn from" in capsys.readouterr().err


def test_ppo_raises_the_rating_of_a_model_of_preferences(files, capsys):
    turns, rater, policy = files / "turns.jsonl", files / "preference", files / "ppo"
    pair = ["pair", str(files / "played.jsonl"), "--demonstrations", str(files / "expert.jsonl")]
    assert main([*pair, "--granularity", "step", "--out", str(turns)]) == 0
    start = ["--start", str(files / "sft" / "checkpoint")]
    assert main(["train", "preference", str(turns), *start, "--epochs", "1", "--out", str(rater)]) == 0
    capsys.readouterr()
    small = ["--iterations", "1", "--rollout-size", "4", "--batch-size", "4", "--max-new-tokens", "6"]
    words = [str(turns), "--reward", str(rater / "checkpoint"), *start, *small, "--out", str(policy)]
    assert main(["train", "ppo", *words]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["checkpoint"] == str(policy / "checkpoint") and said["response_tokens"] > 0
    lines = [json.loads(line) for line in (policy / "metrics.jsonl").read_text().splitlines()]
    assert "rollout/reward" in lines[0] and "final/reward" in lines[-1]


def test_a_kind_of_training_that_there_is_not_is_named(capsys):
    assert main(["train", "pop", "x.jsonl"]) == 2
    assert "ppo" in capsys.readouterr().err


def test_the_model_of_a_config_file_is_trained_and_flags_win_over_it(files, tmp_path):
    config = tmp_path / "all-weights.yaml"
    config.write_text("model: {name: tiny-random, seed: 3, lora: null}\nsft: {epochs: 1}\n")
    told = ["train", "sft", str(files / "expert.jsonl"), "--config", str(config), "--model.name", "tiny-random:7"]
    assert main([*told, "--out", str(tmp_path / "sft")]) == 0
    record = json.loads((tmp_path / "sft" / "checkpoint" / "checkpoint.json").read_text())
    assert record["kind"] == "full" and record["model"]["name"] == "tiny-random:7" and record["model"]["seed"] == 3
    config.write_text("model: {nmae: tiny-random}\nsft: {epochs: 1}\n")
    assert main([*told, "--out", str(tmp_path / "other")]) != 0


def test_a_start_that_is_not_there_is_said_before_anything_is_fetched(files, tmp_path, capsys):
    told = ["train", "sft", str(files / "expert.jsonl"), "--start", str(tmp_path / "nope")]
    assert main([*told, "--out", str(tmp_path / "sft")]) != 0
    assert "There is no file" in capsys.readouterr().err and not (tmp_path / "sft").exists()
