"""Every example runs as its docstring says."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
from packages import installed

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def load(name: str):
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_example_says_how_to_run_it():
    for path in EXAMPLES.glob("*.py"):
        assert f"python examples/{path.name}" in path.read_text(), path.name


@pytest.mark.parametrize("env_id", ["icto/WebShop-v0", "icto/ALFWorld-v0"])
def test_random_play(env_id):
    assert 0.0 <= load("play_random").main(env_id) <= 1.0


@pytest.mark.parametrize("env_id", ["icto/WebShop-v0", "icto/ALFWorld-v0"])
def test_the_expert_succeeds_and_is_recorded(env_id, tmp_path):
    assert load("watch_expert").main(env_id, str(tmp_path / "expert.jsonl")) == 1.0


@pytest.mark.scienceworld
def test_scienceworld_is_one_word_away(tmp_path):
    installed("scienceworld", extra="scienceworld")
    assert 0.0 <= load("play_random").main("icto/ScienceWorld-v0") <= 1.0
    assert load("watch_expert").main("icto/ScienceWorld-v0", str(tmp_path / "expert.jsonl")) == 1.0


def test_a_custom_policy_is_measured(tmp_path):
    metrics = load("custom_policy").main(str(tmp_path / "t.jsonl"), tasks=20)
    assert 0.7 < metrics["average_reward"] <= 1.0
    assert metrics["mean_actions"] > 3.5  # it chooses options, beyond searching, opening and buying


def test_the_whole_method_runs_with_a_tiny_model(tmp_path):
    command = [sys.executable, str(EXAMPLES / "icto_tiny.py"), str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "ICTO 1 − cloned" in done.stdout
    assert (tmp_path / "run" / "report.html").stat().st_size > 10_000


@pytest.mark.slow
def test_trl_trains_on_our_pairs(tmp_path):
    for module, extra in (("trl", "dev"), ("datasets", "export"), ("torch", "train")):
        installed(module, extra=extra)
    command = [sys.executable, str(EXAMPLES / "trl_dpo.py"), str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    losses = json.loads(done.stdout.rpartition("losses ")[2])
    assert abs(losses[0] - 0.6931) < 1e-3  # policy equals reference at the first step
    assert len(losses) == 3


def test_a_custom_judge_gives_reasons(tmp_path):
    reasons = load("custom_judge").main(str(tmp_path), tasks=6)
    assert sum(reasons.values()) == 12
    assert 4 <= reasons["accepted"] <= 6  # of the expert's; a random player does not win
    assert reasons["failed"] >= 6


def test_an_endpoint_is_measured_over_http(monkeypatch):
    installed("openai", extra="openai")
    monkeypatch.setenv("OPENAI_API_KEY", "none-needed")
    metrics = load("evaluate_endpoint").main(tasks=10)
    assert metrics["average_reward"] > 0.2
    assert metrics["invalid_action_share"] == 0.0


@pytest.mark.parametrize("env_id", ["icto/WebShop-v0", "icto/ALFWorld-v0"])
def test_several_environments_play_at_once(env_id):
    assert len(load("vectorised_play").main(env_id, 3)) == 3


def test_a_reward_model_is_fitted_to_collected_steps(tmp_path):
    found = load("reward_model").main(str(tmp_path / "reward"))
    assert found and all(item.source.startswith("learned") for item in found)


def test_a_method_of_ones_own_out_of_parts_of_ones_own_runs(tmp_path):
    command = [sys.executable, str(EXAMPLES / "custom_method.py"), str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "mine-1" in done.stdout
    assert '"judge": "short"' in (tmp_path / "run" / "iteration-01" / "verdicts.jsonl").read_text()
    assert '"source": "last-step"' in (tmp_path / "run" / "iteration-01" / "step_rewards.jsonl").read_text()
