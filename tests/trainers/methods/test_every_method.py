"""RFT, ETO, IPR, RLCD, NAT and Best-of-N, each run whole with a model of two layers on a toy game."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace

import pytest
from episodes import terse_demonstrations

from icto_gym.errors import ConfigError, DataError
from icto_gym.files import read_json
from icto_gym.store import TrajectoryStore
from trainers.config import from_mapping, merged
from trainers.feedback.monte_carlo import beginning
from trainers.methods import find_method
from trainers.methods.common import evaluate_splits, seeded
from trainers.presets import fit_to, preset_values
from trainers.records import PreferencePair, read_records, write_records
from trainers.runs import Run

SMALL = {
    "seed": 1,
    "model": {"name": "tiny-random", "lora": {"r": 4, "alpha": 8}},
    "rollout": {"env_id": "icto_gym.testing:Scripted-v0", "max_tasks": 3, "max_episode_steps": 3},
    "acting": {"max_new_tokens": 8},
    "demonstrations": {"max_tasks": 3},
    "sft": {"epochs": 1, "batch_size": 2},
    "probe": {"tasks": 0},
    "evaluation": {"max_tasks": 1, "final_max_tasks": 2, "base": False},
}
DPO = {"epochs": 1, "batch_size": 2, "learning_rate": 1e-3}


@pytest.fixture(autouse=True)
def one_thread():
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """One clone and its demonstrations, shared by all methods as in a fair table."""
    folder = tmp_path_factory.mktemp("clone")
    run_method("bc", folder)
    return {"start": folder / "sft" / "checkpoint", "demonstrations": {"file": folder / "demonstrations.jsonl"}}


def run_method(name, folder, **settings):
    method = find_method(name)
    config = from_mapping(method.config_class, merged(SMALL, settings), "the test")
    with Run(folder) as run:
        return run, method.run(config, run)


def weights(checkpoint):
    return read_json(checkpoint / "checkpoint.json")["weights_digest"]


def facts(run, stage):
    return read_json(run.path("stages", f"{stage}.json"))["facts"]


def test_rft_trains_from_the_model_on_demonstrations_and_distinct_successes(clone, tmp_path):
    run, checkpoint = run_method("rft", tmp_path, **clone, success_threshold=0.0, rollout={"attempts": 2})
    kept = list(TrajectoryStore(run.iteration(1) / "successes.jsonl"))
    assert facts(run, "iteration-01.successes")["others"] == 3 and len(kept) > 3
    assert len({(item.task_id, item.actions) for item in kept}) == len(kept)
    started = read_json(run.iteration(1) / "sft" / "training.json")["start"]
    assert started["model"]["name"] == "tiny-random" and "weights" not in started
    assert checkpoint == run.iteration(1) / "sft" / "checkpoint"


def test_rft_keeps_the_distinct_successes_of_all_rounds(clone, tmp_path):
    """Yuan et al. train on the union of what was sampled; what a later round repeats counts once."""
    settings = {"success_threshold": 0.0, "rollout": {"attempts": 2, "max_episode_steps": 1}}
    run, _ = run_method("rft", tmp_path, **clone, **settings, iterations=2)
    first, both = (list(TrajectoryStore(run.iteration(number) / "successes.jsonl")) for number in (1, 2))
    own = [item.trajectory_id for item in first if "@explore-1#" in item.trajectory_id]
    assert own and [item.trajectory_id for item in both][: len(own)] == own
    assert any("@explore-2#" in item.trajectory_id for item in both)
    assert len({(item.task_id, item.actions) for item in both}) == len(both)
    played = list(TrajectoryStore(run.iteration(2) / "trajectories.jsonl"))
    found = facts(run, "iteration-02.successes")
    assert found["own"] + found.get("repeated", 0) == 2 * len(played) and found["own"] == len(both) - found["others"]


def test_eto_moves_its_reference_and_follows_its_schedule(clone, tmp_path):
    run, checkpoint = run_method("eto", tmp_path, **clone, dpo=DPO, learning_rates=[1e-3, 5e-4])
    first, second = (read_json(run.iteration(number) / "dpo" / "training.json") for number in (1, 2))
    assert first["reference"]["weights"] == first["start"]["weights"] == weights(clone["start"])
    assert second["reference"]["weights"] == second["start"]["weights"] == weights(run.iteration(1) / "dpo/checkpoint")
    assert [item["config"]["beta"] for item in (first, second)] == [0.1, 0.5]
    assert [item["config"]["learning_rate"] for item in (first, second)] == [1e-3, 5e-4]
    counts = facts(run, "iteration-01.pairs")["counts"]
    assert counts["expert won"] == 3 and counts["pairs"] == 3
    assert read_json(tmp_path / "chosen.json")["label"] == "eto-2"
    assert checkpoint == run.iteration(2) / "dpo" / "checkpoint"


def test_ipr_keeps_the_clone_as_reference_and_values_steps_by_playing_on(clone, tmp_path):
    run, _ = run_method("ipr", tmp_path, **clone, dpo=DPO, iterations=2, monte_carlo={"samples": 2})
    for number in (1, 2):
        reference = read_json(run.iteration(number) / "dpo" / "training.json")["reference"]
        assert reference["weights"] == weights(clone["start"])
    starts = [(item.extra or {})["prefix_steps"] for item in TrajectoryStore(run.iteration(1) / "trajectories.jsonl")]
    assert sorted(starts) == [0, 0, 0, 1, 1, 1]
    first, second = (list(TrajectoryStore(run.iteration(number) / "continuations.jsonl")) for number in (1, 2))
    compared = facts(run, "iteration-01.continuations")["compared"]
    assert not run.path("expert_continuations.jsonl").exists() and compared and len(first) <= 2 * compared
    begun = [Counter(beginning(item) for item in played) for played in (first, second)]
    assert {count for counted in begun for count in counted.values()} <= {2}  # as many samples of each
    assert not set(begun[0]) & set(begun[1])  # an iteration plays on from nothing that an earlier one did
    counts = facts(run, "iteration-01.pairs")["counts"]
    assert sum(count for name, count in counts.items() if name != "pairs") == 6
    assert {pair.granularity for pair in read_records(run.iteration(1) / "pairs.jsonl", PreferencePair)} >= {
        "trajectory"
    }
    anchor = [json.loads(line) for line in run.path("metrics.jsonl").read_text().splitlines()][-1]["train/chosen_nll"]
    assert anchor > 50  # a sum over tokens, not a mean


def test_ipr_makes_the_same_contrasts_where_all_steps_are_continued(clone, tmp_path):
    """As published, every step is valued; what pairs read is but a part of it."""
    settings = {**clone, "dpo": DPO, "iterations": 1}
    few, _ = run_method("ipr", tmp_path / "few", **settings, monte_carlo={"samples": 1, "temperature": 0.0})
    every, _ = run_method(
        "ipr", tmp_path / "all", **settings, monte_carlo={"samples": 1, "temperature": 0.0, "steps": "all"}
    )
    known = list(TrajectoryStore(every.path("expert_continuations.jsonl")))
    assert len(known) == 3 and all(item.extra["prefix_steps"] == 1 for item in known)
    assert facts(few, "iteration-01.pairs")["counts"] == facts(every, "iteration-01.pairs")["counts"]


def test_ipr_takes_a_reward_model_in_the_place_of_sampling(clone, tmp_path):
    reward = {"epochs": 1, "batch_size": 2, "holdout": 0.2}
    run, _ = run_method("ipr", tmp_path, **clone, dpo=DPO, iterations=1, values="reward_model", reward=reward)
    assert not run.path("expert_continuations.jsonl").exists()
    assert facts(run, "iteration-01.reward")["holdout/mse"] >= 0


def test_outcomes_alone_decide_where_no_step_margin_is_given(clone, tmp_path):
    preset = preset_values("ipr-outcomes-only", fit_to("ipr", find_method("ipr").config_class))
    settings = merged(merged(preset, clone), {"dpo": {"epochs": 1, "batch_size": 2}, "iterations": 1})
    run, _ = run_method("ipr", tmp_path, **settings)
    assert not (run.iteration(1) / "step_rewards.jsonl").exists()
    pairs = read_records(run.iteration(1) / "pairs.jsonl", PreferencePair)
    assert pairs and all(len(pair.chosen) == len(pair.rejected) == 1 for pair in pairs)
    assert any(len(pair.prompt) == 3 for pair in pairs)  # the very first step is among them


def test_of_two_demonstrations_of_a_task_the_first_is_followed(clone, tmp_path):
    shown = list(TrajectoryStore(clone["demonstrations"]["file"]))
    other = replace(shown[0], trajectory_id=shown[0].trajectory_id + "-again", steps=shown[0].steps[:1])
    write_records(tmp_path / "shown.jsonl", [*shown, other])
    settings = {**clone, "demonstrations": {"file": tmp_path / "shown.jsonl"}, "values": "reward_model"}
    run, _ = run_method("ipr", tmp_path / "run", **settings, dpo=DPO, iterations=1)
    starts = [item.extra["prefix_steps"] for item in TrajectoryStore(run.iteration(1) / "trajectories.jsonl")]
    assert sorted(starts) == [0, 0, 0, 1, 1, 1]


def test_etos_schedule_says_where_it_overrules(clone, tmp_path, caplog):
    with caplog.at_level("WARNING"):
        run_method("eto", tmp_path, **clone, dpo=DPO, learning_rates=[5e-4], iterations=1)
    assert "dpo.learning_rate is 0.001, but learning_rates is [0.0005] and decides" in caplog.text


@pytest.mark.parametrize("method", ["rft", "nat"])
def test_the_model_that_is_trained_again_is_the_one_the_clone_was_made_of(clone, tmp_path, method, caplog):
    with pytest.raises(ConfigError, match=r"made of the model 'tiny-random'.*Give model.name 'tiny-random'"):
        run_method(method, tmp_path, **clone, model={"name": "tiny-random:7"})
    assert not (tmp_path / "demonstrations.jsonl").exists()


def test_the_untrained_model_is_measured_by_every_method_that_clones(tmp_path):
    run, _ = run_method("rft", tmp_path, evaluation={"base": True})
    assert run.path("evaluation", "base", "test", "metrics.json").exists()
    assert not run.path("evaluation", "base", "dev").exists()


@pytest.mark.parametrize("unit", ["turn", "trajectory"])
def test_rlcd_labels_by_instruction_and_says_how_often_the_outcome_agrees(clone, tmp_path, unit):
    pairing = {"unit": unit, "agreement_pairs": 2}
    run, _ = run_method("rlcd", tmp_path, **clone, dpo=DPO, pairing=pairing)
    found = facts(run, "iteration-01.pairs")
    assert set(found["label_agreement"]) == {"pairs", "agrees", "disagrees", "ties", "agreement"}
    plain = next(iter(TrajectoryStore(run.path("demonstrations.jsonl")))).system_prompt
    for pair in read_records(run.iteration(1) / "pairs.jsonl", PreferencePair):
        assert pair.prompt[0].content == plain
    total = sum(count for name, count in found["counts"].items())
    turns = sum(len(item.steps) for item in TrajectoryStore(run.iteration(1) / "trajectories.jsonl"))
    assert total == (turns if unit == "turn" else 3)


def test_rlcd_in_its_original_form_fits_a_reward_model_and_raises_it_by_ppo(tmp_path):
    write_records(tmp_path / "terse.jsonl", terse_demonstrations())
    settings = {
        "model": {"name": "tiny-random", "lora": None},
        "demonstrations": {"file": tmp_path / "terse.jsonl"},
        "sft": {"epochs": 40, "batch_size": 2, "learning_rate": 3e-3},
        "acting": {"max_new_tokens": 12},
        "rollout": {"max_tasks": 4, "max_episode_steps": 6},
        "objective": "rm_ppo",
        "pairing": {"agreement_pairs": 0},
        "reward": {"epochs": 1, "batch_size": 2, "holdout": 0.2},
        "ppo": {"iterations": 2, "rollout_size": 4, "batch_size": 2, "epochs": 2, "max_new_tokens": 8, "kl_coef": 0.1},
    }
    run, checkpoint = run_method("rlcd", tmp_path / "run", **settings)
    here, clone = run.iteration(1), {"start": run.path("sft", "checkpoint")}
    assert checkpoint == here / "ppo" / "checkpoint" and not (here / "dpo").exists()
    for stage in ("reward", "ppo"):
        assert read_json(here / stage / "training.json")["start"]["weights"] == weights(clone["start"])
    assert read_json(here / "ppo" / "training.json")["reward_model"]["weights"] == weights(here / "reward/checkpoint")
    assert read_json(here / "ppo" / "training.json")["config"]["kl_coef"] == 0.1
    assert weights(checkpoint) != weights(clone["start"])
    assert facts(run, "iteration-01.reward").keys() >= {"pairs", "held_out", "holdout/accuracy"}
    assert facts(run, "iteration-01.ppo").keys() >= {"prompts", "trained_tokens", "final/reward", "final/kl"}
    lines = [line for line in run.metrics() if line["stage"] == "iteration-01/ppo"]
    assert [line["step"] for line in lines] == list(range(1, 9))
    assert all({"rollout/reward", "rollout/kl", "train/clip_fraction"} <= line.keys() for line in lines)
    spent = read_json(run.path("budget.json"))
    ppo, kinds = spent["stages"]["iteration-01/ppo"], spent["sums"]
    assert ppo["prompt_tokens"] > 12 * ppo["response_tokens"] / 8 >= 12  # two iterations and the result: 12 answers
    assert kinds["training"]["response_tokens"] == ppo["response_tokens"]
    played = [spent["stages"][f"iteration-01/{name}"] for name in ("trajectories", "contrasts")]
    assert kinds["play"]["response_tokens"] == sum(stage["response_tokens"] for stage in played)
    assert all(stage["response_tokens"] for stage in played)
    noted = read_json(here / "metrics.json")
    assert noted["training"]["steps"] == 8 and "holdout/accuracy" in noted["reward_model"]["last"]
    assert read_json(run.path("chosen.json"))["label"] == "rlcd-1"


def test_ppo_of_whole_episodes_and_unknown_objectives_are_refused_before_any_work(tmp_path):
    with pytest.raises(ConfigError, match=r"pairing\.unit is 'trajectory'"):
        run_method("rlcd", tmp_path, objective="rm_ppo", pairing={"unit": "trajectory"})
    assert not (tmp_path / "demonstrations.jsonl").exists()
    with pytest.raises(ConfigError, match="rm_ppo"):
        run_method("rlcd", tmp_path, objective="rm_poo")


def test_nat_asks_for_the_good_kind_wherever_its_checkpoint_acts(clone, tmp_path):
    from trainers.policies.hf import HFPolicy
    from trainers.policies.players import ActingConfig, model_player

    run, checkpoint = run_method("nat", tmp_path, **clone, rollout={"attempts": 3})
    marked = list(TrajectoryStore(run.iteration(1) / "marked.jsonl"))
    assert [item.extra["marker"]["text"] for item in marked[:3]] == ["[Correct]"] * 3
    assert all(item.extra["marker"]["text"] != "[Correct]" for item in marked[3:])
    assert facts(run, "iteration-01.marked")["negatives"] <= 6
    assert HFPolicy.load(str(checkpoint)).marker.text == "[Correct]"
    assert model_player(checkpoint, "nat", ActingConfig()).load().marker.text == "[Correct]"
    assert HFPolicy.load(str(clone["start"])).marker is None
    record = read_json(checkpoint / "checkpoint.json")
    assert record["markers"]["cuts"] == [1.0, 0.4, 0.0]
    record["markers"].pop("cuts")
    (checkpoint / "checkpoint.json").write_text(json.dumps(record))
    with pytest.raises(DataError, match="markers"):
        HFPolicy.load(str(checkpoint))


def test_best_of_n_keeps_the_best_attempt_and_says_that_it_is_a_bound(clone, tmp_path):
    run, _ = run_method("best_of_n", tmp_path, **clone, samples=3)
    here = run.path("evaluation", "best-of-3", "test")
    record = read_json(here / "metrics.json")
    assert "upper bound" in record["decoding"]["note"] and record["decoding"]["temperature"] == 0.7
    attempts = list(TrajectoryStore(here / "attempts.jsonl"))
    kept = {item.task_id: item.score for item in TrajectoryStore(here / "trajectories.jsonl")}
    assert len(attempts) == 6 and len(kept) == 2
    for task_id, score in kept.items():
        assert score == max(item.score for item in attempts if item.task_id == task_id)


def test_a_run_adds_up_what_it_spent(clone, tmp_path):
    run_method("eto", tmp_path, **clone, dpo=DPO, iterations=1)
    spent = read_json(tmp_path / "budget.json")
    assert spent["stages"]["iteration-01/dpo"]["trained_tokens"] > 0
    assert spent["stages"]["iteration-01/trajectories"]["response_tokens"] > 0
    assert {"play", "training", "evaluation"} == set(spent["sums"])
    assert spent["sums"]["training"]["trained_tokens"] == spent["stages"]["iteration-01/dpo"]["trained_tokens"]


def test_a_run_goes_on_with_other_workers_and_does_nothing_again(clone, tmp_path, caplog):
    """Where and how many at once it plays decides no result: neither the config nor a stage's inputs are others."""
    settings = merged(SMALL, clone)
    for rollout in ({}, {"workers": "threads:2", "batch_size": 3}):
        caplog.clear()
        method = find_method("rft")
        config = from_mapping(method.config_class, merged(settings, {"rollout": rollout}), "the test")
        with caplog.at_level("INFO"), Run(tmp_path) as run:
            run.save_config(config, "rft")
            method.run(config, run)
    done = [record.message for record in caplog.records if record.name == "trainers.runs"]
    assert done and all(message.endswith("complete, skipped") for message in done)
    assert "threads:2" in run.path("config.yaml").read_text()


def test_other_ways_of_exploring_do_not_train_the_clone_again(tmp_path, caplog):
    settings = {"iterations": 1, "dpo": DPO, "probe": {"tasks": 1}, "sft": {"epochs": 1, "probe_every": 1}}
    for attempts in (1, 2):
        caplog.clear()
        with caplog.at_level("INFO"):
            run_method("icto", tmp_path, **settings, rollout={"attempts": attempts, "epsilon": 0.1 * attempts})
    done = {record.message for record in caplog.records if record.name == "trainers.runs"}
    assert "sft: complete, skipped" in done and "iteration-01/trajectories: starts" in done


def test_a_shared_clone_is_measured_alike_however_a_method_explores(clone, tmp_path):
    inputs = []
    for temperature in (0.9, 0.3):
        here = tmp_path / str(temperature)
        run, _ = run_method("icto", here, **clone, rollout={"temperature": temperature}, iterations=0)
        inputs.append(read_json(run.path("stages", "evaluation.sft.dev.json"))["inputs"])
    assert inputs[0] == inputs[1]


def test_the_best_policy_on_dev_is_tested_where_that_is_asked_for(clone, tmp_path):
    run, checkpoint = run_method("eto", tmp_path, **clone, dpo=DPO, iterations=1, evaluation={"choose": "best"})
    label = read_json(tmp_path / "chosen.json")["label"]
    scores = {
        name: read_json(run.path("evaluation", name, "dev", "metrics.json"))["metrics"]["success_rate"]["value"]
        for name in ("sft", "eto-1")
    }
    assert label == ("sft" if scores["sft"] > scores["eto-1"] else "eto-1")
    assert run.path("evaluation", label, "test", "metrics.json").exists()
    assert checkpoint in (clone["start"], run.iteration(1) / "dpo" / "checkpoint")


def test_a_start_that_is_no_checkpoint_is_found_before_any_work(tmp_path):
    with pytest.raises(DataError, match="not a complete checkpoint"):
        run_method("eto", tmp_path, start=tmp_path)
    assert not (tmp_path / "demonstrations.jsonl").exists()


def test_how_the_model_writes_is_an_input_of_all_that_it_plays(clone, tmp_path, caplog):
    """Else a forced change would leave episodes, or halves of files, that were written otherwise."""
    run_method("rlcd", tmp_path, **clone, dpo=DPO)
    caplog.clear()
    run_method("rlcd", tmp_path, **clone, dpo=DPO, acting={"max_new_tokens": 4, "batch_size": 3})
    for stage in ("evaluation/sft/dev", "iteration-01/trajectories", "iteration-01/contrasts", "iteration-01/pairs"):
        assert re.search(rf"{stage}: .*acting.* changed, starts anew", caplog.text), stage
    caplog.clear()
    run_method("rlcd", tmp_path, **clone, dpo=DPO, acting={"max_new_tokens": 4, "batch_size": 2})
    assert "changed" not in caplog.text  # computing fewer at a time changes nothing


def test_what_only_an_earlier_config_had_is_no_part_of_the_result(clone, tmp_path):
    from trainers.report import read_run

    def run_eto(iterations):
        method = find_method("eto")
        settings = {**clone, "iterations": iterations, "dpo": DPO}
        config = from_mapping(method.config_class, merged(SMALL, settings), "the test")
        with Run(tmp_path) as run:
            run.save_config(config, "eto", force=True)
            method.run(config, run)
        return read_run(tmp_path), read_json(tmp_path / "budget.json")["stages"]

    found, spent = run_eto(2)
    assert len(found.iterations) == 2 and "iteration-02/trajectories" in spent
    found, spent = run_eto(1)
    assert [item.number for item in found.iterations] == [1] and "eto-2" not in found.labels
    assert spent and not any(name.startswith(("iteration-02", "evaluation/eto-2")) for name in spent)
    assert {item["stage"] for item in found.stages} == set(spent)
    found, spent = run_eto(2)  # what was made for it counts again
    assert len(found.iterations) == 2 and "evaluation/eto-2/dev" in spent


def test_the_report_counts_what_every_stage_played(clone, tmp_path):
    from trainers.report import read_run
    from trainers.report.cost import _tokens

    run, _ = run_method("ipr", tmp_path, **clone, iterations=1, dpo=DPO, monte_carlo={"samples": 1, "steps": "all"})
    shown = {stage["stage"]: _tokens(read_run(tmp_path), stage) for stage in read_run(tmp_path).stages}
    for name in ("continuations", "trajectories"):
        recorded = facts(run, f"iteration-01.{name}")
        wanted = [recorded[key] for key in ("episodes", "prompt_tokens", "response_tokens")]
        assert shown[f"iteration-01/{name}"] == wanted and all(wanted)
    assert shown["evaluation/sft/dev"][0] == 1


def test_ipr_names_settings_of_exploration_that_it_does_not_have(clone, tmp_path, caplog):
    run_method("ipr", tmp_path, **clone, iterations=1, dpo=DPO, pairing={"step_margin": None},
               rollout={"attempts": 5, "epsilon": 0.5})  # fmt: skip
    assert "rollout.attempts is 5 and has no effect" in caplog.text and "rollout.epsilon is 0.5" in caplog.text


def test_ipr_passes_over_what_a_preset_says_to_all_methods(caplog):
    from trainers.methods.ipr import IPRConfig, _check_exploration

    preset = preset_values("smollm2-cpu", fit_to("ipr", IPRConfig))
    _check_exploration(from_mapping(IPRConfig, preset, "the preset"))
    assert preset["rollout"]["max_tasks"] == 120 and not caplog.text
    asked = merged(preset, {"rollout": {"max_tasks": 40}})
    _check_exploration(from_mapping(IPRConfig, asked, "the test"))
    assert "rollout.max_tasks is 40 and has no effect" in caplog.text


def test_the_best_of_n_is_a_result_like_others(clone, tmp_path):
    from trainers.evaluation.result import read_result

    run_method("best_of_n", tmp_path, **clone, samples=3)
    result = read_result(tmp_path / "evaluation" / "best-of-3" / "test")
    assert (result.label, result.decoding["best_of"], result.over_seeds) == ("best-of-3", 3, {})
    assert len(result.episodes) == result.n_tasks == 2 and {row.number for row in result.episodes} == {0}


def test_the_best_of_n_says_what_it_depends_on_as_an_evaluation_does_but_is_not_repeated(clone, tmp_path, capsys):
    from trainers.cli.main import main
    from trainers.evaluation.result import read_result

    method = find_method("best_of_n")
    config = from_mapping(method.config_class, merged(SMALL, {**clone, "samples": 2}), "the test")
    with Run(tmp_path) as run:
        checkpoint = method.run(config, run)
        played = evaluate_splits(run, checkpoint, "sft", seeded(config), ["test"], 2)[0]
    bound, other = read_result(tmp_path / "evaluation" / "best-of-2" / "test"), read_result(played.parent)
    for name in ("seeds", "prompt_digest", "versions", "code", "manifest_digest"):
        assert getattr(bound, name) == getattr(other, name), name
        assert getattr(bound, name), name
    assert bound.recipe["digest"] == other.recipe["digest"] is not None
    assert (bound.settings["attempts"], bound.settings["temperature"], bound.settings["split"]) == (2, 0.7, "test")
    assert main(["evaluate", "--repeat", str(tmp_path / "evaluation" / "best-of-2" / "test")]) == 1
    assert "The result is a bound, the best of 2 attempts" in capsys.readouterr().err
