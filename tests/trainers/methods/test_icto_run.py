"""ICTO, its ablations and behavioural cloning, each run whole with a model of two layers."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import pytest
from packages import installed

from icto_gym.errors import ConfigError, DependencyNotInstalled, InvalidTask
from icto_gym.files import read_json
from icto_gym.store import TrajectoryStore
from trainers.config import from_mapping, merged
from trainers.methods.bc import BCConfig, run_bc
from trainers.methods.icto import ICTOConfig, run_icto
from trainers.methods.rft import RFTConfig, run_rft
from trainers.records import StepRewards, read_records
from trainers.retries import ask_branches
from trainers.rollout import RolloutConfig
from trainers.runs import Run

SMALL = {
    "model": {"name": "tiny-random", "lora": {"r": 4, "alpha": 8}},
    "rollout": {
        "env_id": "icto_gym.testing:Scripted-v0", "max_tasks": 2, "attempts": 2, "max_episode_steps": 3,
    },
    "acting": {"max_new_tokens": 8},
    "demonstrations": {"max_tasks": 4},
    "sft": {"epochs": 1, "batch_size": 2},
    "dpo": {"epochs": 1, "batch_size": 2, "probe_every": 1, "probe_at_start": True},
    "reward": {"epochs": 1, "batch_size": 2},
    "probe": {"tasks": 1},
    "evaluation": {"max_tasks": 1, "final_max_tasks": 2},
}  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread():
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def icto(folder, **settings):
    config = from_mapping(ICTOConfig, merged(SMALL, settings), "the test")
    with Run(folder) as run:
        return run, run_icto(config, run)


def weights(checkpoint):
    return read_json(checkpoint / "checkpoint.json")["weights_digest"]


def labels(run):
    return sorted(path.parent.parent.name + " " + path.parent.name for path in run.path().rglob("metrics.json")
                  if "evaluation" in path.parts)  # fmt: skip


def test_each_iteration_starts_from_the_previous_policy_and_contrasts_against_it(tmp_path):
    run, checkpoint = icto(tmp_path, iterations=2, seed=1)
    assert checkpoint == tmp_path / "iteration-02" / "dpo" / "checkpoint"
    first, second = (read_json(run.iteration(k) / "dpo" / "training.json")["start"]["weights"] for k in (1, 2))
    assert first == weights(tmp_path / "sft" / "checkpoint")
    assert second == weights(tmp_path / "iteration-01" / "dpo" / "checkpoint")
    explorers = {item.policy for k in (1, 2) for item in TrajectoryStore(run.iteration(k) / "trajectories.jsonl")}
    assert explorers == {"explore-1", "explore-2"}
    assert labels(run) == ["base test", "icto-1 dev", "icto-2 dev", "icto-2 test", "sft dev", "sft test"]


def test_retries_stand_behind_the_explored_episodes_and_in_the_numbers(tmp_path):
    run, _ = icto(tmp_path, retries={"branches": 2, "others": 1.0}, iterations=1)
    here = run.iteration(1)
    explored, judged = (list(TrajectoryStore(here / name)) for name in ("trajectories.jsonl", "with-retries.jsonl"))
    assert judged[: len(explored)] == explored
    facts = read_json(here / "metrics.json")
    assert facts["retried"]["places"] == len((here / "branches.jsonl").read_text().splitlines()) > 0
    assert facts["retried"]["response_tokens"] > 0
    assert facts["judged"]["trajectories"] == len(judged)


def test_an_iteration_leaves_the_numbers_that_would_reveal_a_collapse(tmp_path):
    run, _ = icto(tmp_path)
    facts = read_json(run.iteration(1) / "metrics.json")
    assert facts["explored"]["episodes"] == 4 and facts["judged"]["trajectories"] == 4
    assert facts["pairs"]["pairs"] == len((run.iteration(1) / "pairs.jsonl").read_text().splitlines())
    assert facts["pairs"]["counts"]["tasks"] == 2 and facts["pairs"]["balance"]["pairs"] == facts["pairs"]["pairs"]
    assert facts["training"]["first"]["pairs/chosen_logp_change"] == 0.0
    assert {"pairs/chosen_logp_change", "pairs/rejected_logp_change"} <= facts["training"]["last"].keys()
    probes = facts["training"]["probes"]
    assert probes[0]["step"] == 0 and probes[-1]["step"] == facts["training"]["steps"]
    kept = [probe for probe in probes if probe["step"] == facts["training"]["kept_step"]]
    assert [{"step": probe["step"], **facts["training"]["kept_probe"]} for probe in kept] == kept
    assert facts["training"]["pairs"] == facts["pairs"]["pairs"]  # what went in, as the stage's record has it
    assert {"dev/success_rate", "dev/average_reward", "dev/invalid_action_share"} <= probes[0].keys()
    assert facts["evaluation"]["dev"]["success_rate"]["n"] == 1


def test_probes_and_passes_that_only_score_are_counted_by_stage(tmp_path):
    run, _ = icto(tmp_path, step_rewards={"source": "learned"}, pairing={"granularity": "step"})
    spent = read_json(run.path("budget.json"))
    dpo = spent["stages"]["iteration-01/dpo"]
    probes = read_json(run.iteration(1) / "metrics.json")["training"]["probes"]
    read = sum(probe["cost/prompt_tokens"] + probe["cost/response_tokens"] for probe in probes)
    assert dpo["probe_tokens"] == read > 0
    # of one epoch; the pass under the reference has larger batches, in which pairs share more
    assert 0 < dpo["scoring_tokens"] <= dpo["trained_tokens"]
    assert spent["stages"]["iteration-01/step_rewards"]["scoring_tokens"] > 0


def test_metrics_have_one_line_per_optimiser_step(tmp_path):
    run, _ = icto(tmp_path)
    lines = [json.loads(line) for line in run.path("metrics.jsonl").read_text().splitlines()]
    keys = [(line["stage"], line["step"]) for line in lines]
    assert len(set(keys)) == len(keys)
    assert {stage for stage, _ in keys} == {"sft", "iteration-01/dpo"}


def test_without_contrast_successes_are_imitated(tmp_path):
    run, checkpoint = icto(tmp_path, contrast=False)
    here = run.iteration(1)
    assert checkpoint == here / "sft" / "checkpoint"
    assert not (here / "pairs.jsonl").exists()
    assert {item.policy for item in TrajectoryStore(here / "successes.jsonl")} >= {"expert"}
    assert read_json(here / "sft" / "training.json")["start"]["weights"] == weights(run.path("sft", "checkpoint"))
    assert read_json(here / "metrics.json")["imitated"]["others"] == 4


def test_with_imitation_contrast_begins_where_rft_ends(tmp_path):
    run, checkpoint = icto(tmp_path / "icto", imitation=True, iterations=2, seed=1)
    for number in (1, 2):
        here = run.iteration(number)
        assert read_json(here / "sft" / "training.json")["start"]["model"]["name"] == "tiny-random"
        assert read_json(here / "dpo" / "training.json")["start"]["weights"] == weights(here / "sft" / "checkpoint")
        facts = read_json(here / "metrics.json")
        assert facts["imitated"]["others"] == 4 and facts["pairs"]["pairs"]
        assert "pairs/chosen_logp_change" in facts["training"]["first"]
        imitation = [line for line in run.metrics() if line["stage"] == f"{here.name}/sft"]
        assert facts["imitation"]["steps"] == len(imitation) and facts["imitation"]["last"]["train/loss"] > 0
    assert checkpoint == run.iteration(2) / "dpo" / "checkpoint"
    # the same episodes are imitated, so the weights that contrast begins with are those of RFT
    own = {key: value for key, value in SMALL.items() if key not in ("dpo", "reward")}
    explored = {
        "epsilon": RolloutConfig().epsilon,
        "branch_fraction": RolloutConfig().branch_fraction,
    }  # as ICTO explores
    config = from_mapping(RFTConfig, merged(own, {"seed": 1, "rollout": explored}), "the test")
    with Run(tmp_path / "rft") as other:
        run_rft(config, other)
    assert weights(other.iteration(1) / "sft" / "checkpoint") == weights(run.iteration(1) / "sft" / "checkpoint")


def test_what_succeeded_when_it_was_taken_up_again_is_imitated_if_asked(tmp_path, monkeypatch):
    def looking(*arguments):  # a model of two layers finds no command
        for item in ask_branches(*arguments):
            yield replace(item, responses=("Thought: hm\nAction: look",) * len(item.responses))

    monkeypatch.setattr("trainers.playing_on.ask_branches", looking)
    settings = {
        "retries": {"branches": 2, "others": 1.0}, "imitation": True, "pairing": {"success_threshold": 0.0},
        "evaluation": {"max_tasks": 1, "final_splits": []}, "dpo": {"probe_every": 0},
    }  # fmt: skip
    explorers = {}
    for asked, iterations in ((False, 1), (True, 2)):
        run, _ = icto(tmp_path / str(asked), **settings, imitate_retries=asked, iterations=iterations)
        kept = TrajectoryStore(run.iteration(iterations) / "successes.jsonl")
        explorers[asked] = {item.policy for item in kept if "retried_step" in (item.extra or {})}
    assert explorers == {False: set(), True: {"explore-1", "explore-2"}}  # those of earlier rounds stay


@pytest.mark.parametrize("off", ["cloning", "contrast"])
def test_imitation_needs_cloning_and_contrast(off):
    with pytest.raises(ConfigError, match="needs both cloning and contrast"):
        ICTOConfig(imitation=True, **{off: False})


def test_without_cloning_the_base_model_explores(tmp_path):
    run, checkpoint = icto(tmp_path, cloning=False)
    assert not run.path("sft").exists()
    assert read_json(run.iteration(1) / "dpo" / "training.json")["start"]["model"]["name"] == "tiny-random"
    assert checkpoint == run.iteration(1) / "dpo" / "checkpoint"
    assert labels(run) == ["base test", "icto-1 dev", "icto-1 test"]


def test_step_rewards_may_come_from_a_reward_model(tmp_path):
    run, _ = icto(
        tmp_path, step_rewards={"source": "learned"}, pairing={"granularity": "step"}, dpo={"objective": "step"}
    )
    here = run.iteration(1)
    assert (here / "reward" / "checkpoint" / "checkpoint.json").exists()
    rewards = read_records(here / "step_rewards.jsonl", StepRewards)
    assert {item.source for item in rewards} == {"learned:increment"}
    assert len(rewards) == 4 + 4  # explored and demonstrated


def test_step_rewards_may_be_sampled_by_playing_on(tmp_path):
    run, _ = icto(tmp_path, step_rewards={"source": "monte_carlo"}, monte_carlo={"samples": 1})
    here = run.iteration(1)
    rewards = {item.trajectory_id: item for item in read_records(here / "step_rewards.jsonl", StepRewards)}
    assert {item.source for item in rewards.values()} == {"monte_carlo:increment"}
    for episode in TrajectoryStore(run.path("demonstrations.jsonl")):
        assert sum(rewards[episode.trajectory_id].rewards) == pytest.approx(episode.score)
    played = list(TrajectoryStore(here / "continuations" / "demonstrations.jsonl"))
    assert len(played) == 4 and all(item.extra["prefix_steps"] == 1 for item in played)


def test_an_iteration_without_pairs_leaves_the_policy_as_it_is(tmp_path, caplog):
    run, checkpoint = icto(tmp_path, pairing={"use_expert": False})
    assert checkpoint == run.path("sft", "checkpoint")
    assert "made no pairs" in caplog.text
    assert read_json(run.iteration(1) / "metrics.json")["pairs"]["pairs"] == 0
    assert "icto-1 test" in labels(run)


def test_a_wrong_split_is_found_before_any_work(tmp_path):
    with pytest.raises(InvalidTask, match="'tset'"):
        icto(tmp_path, evaluation={"final_splits": ["tset"]})
    assert not (tmp_path / "demonstrations.jsonl").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        {"pairing": {"granularity": "no_such_module:mine"}},
        {"judge": {"judge": "no_such_module:Mine"}},
        {"step_rewards": {"source": "no_such_module:Mine"}},
    ],
)
def test_a_wrong_plug_in_is_found_before_any_work(tmp_path, wrong):
    with pytest.raises(ConfigError, match="no_such_module"):
        icto(tmp_path, **wrong)
    assert not (tmp_path / "demonstrations.jsonl").exists()


def test_a_judge_behind_an_endpoint_without_a_key_is_found_before_any_work(tmp_path, monkeypatch):
    installed("openai", extra="openai")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(ConfigError, match="OPENAI_API_KEY holds no key"):
        icto(tmp_path, judge={"judge": "endpoint:wise"})
    assert not (tmp_path / "demonstrations.jsonl").exists()


def test_a_judge_behind_an_endpoint_without_its_package_is_found_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(DependencyNotInstalled, match="openai"):
        icto(tmp_path, judge={"judge": "endpoint:wise", "endpoint": {"base_url": "http://127.0.0.1:9/v1"}})
    assert not (tmp_path / "demonstrations.jsonl").exists()


def test_behavioural_cloning_demonstrates_imitates_and_measures(tmp_path):
    small = {key: value for key, value in SMALL.items() if key not in ("dpo", "reward")}
    with Run(tmp_path) as run:
        checkpoint = run_bc(from_mapping(BCConfig, small, "the test"), run)
        assert checkpoint == tmp_path / "sft" / "checkpoint"
        assert labels(run) == ["base test", "sft dev", "sft test"]
