"""What cannot work is refused before anything is played or trained, with the value seen and the mend."""

from __future__ import annotations

import pytest
from episodes import play

from icto_gym.errors import ConfigError, DataError
from trainers.config import from_mapping
from trainers.feedback import distinct_successes
from trainers.markers import MarkerConfig
from trainers.method_stages import mark
from trainers.methods import find_method
from trainers.records import write_records
from trainers.runs import Run

WRONG = [
    ("ipr", {"starts_per_task": 0}, "starts_per_task is 0; give 1 or more"),
    ("ipr", {"iterations": 0}, "iterations is 0; give 1 or more"),
    ("ipr", {"pairing": {"first_step": True}}, "trajectory_pairs off"),
    ("nat", {"negatives_per_positive": -1}, "negatives_per_positive is -1"),
    ("nat", {"positives": -1}, "positives is -1; give 1 or more"),
    ("nat", {"positives": 0}, "positives is 0; give 1 or more"),
    ("rft", {"iterations": 0}, "iterations is 0; give 1 or more"),
    ("rft", {"success_threshold": 50}, "success_threshold is 50.0; scores go from 0 to 1"),
    ("eto", {"betas": [0.1, 0]}, r"betas is \[0.1, 0.0\]; each must be above 0"),
    ("icto", {"pairing": {"success_threshold": 100}}, "success_threshold is 100.0; scores go from 0 to 1"),
    ("icto", {"cloning": False, "start": "runs/bc/sft/checkpoint"}, "start is .*, a clone, but cloning is off"),
    ("icto", {"pairing": {"retries_only": True}}, "retries_only is on, but retries.branches is 0"),
    ("icto", {"retries": {"branches": -1}}, "retries.branches is -1; give 0 or more"),
    ("icto", {"imitate_retries": True, "imitation": True}, r"needs both .* \(they are True and 0\)"),
    ("icto", {"imitate_retries": True, "retries": {"branches": 2}}, r"needs both .* \(they are False and 2\)"),
    ("icto", {"best_margin": 0.1}, "best_margin is 0.1, but imitation is off"),
    ("rft", {"best_margin": 10}, "best_margin is 10.0; scores go from 0 to 1"),
    ("bc", {"evaluation": {"max_tasks": 0}}, "evaluation.max_tasks is 0; give 1 or more"),
    ("bc", {"evaluation": {"final_max_tasks": -2}}, "evaluation.final_max_tasks is -2"),
    ("bc", {"evaluation": {"choose": "best", "choose_by": "optimal_action_rate"}}, "optimal_actions true"),
    ("bc", {"demonstrations": {"attempts": 0}}, "demonstrations.attempts is 0; give 1 or more"),
    ("bc", {"demonstrations": {"min_score": 70}}, "demonstrations.min_score is 70.0; scores go from 0 to 1"),
]


@pytest.mark.parametrize(("method", "values", "message"), WRONG)
def test_a_value_that_cannot_work_is_refused(method, values, message):
    with pytest.raises(ConfigError, match=message):
        from_mapping(find_method(method).config_class, values, "the test")


BEFORE_ANY_WORK = [
    ("icto", {"judge": {"judge": "rulez"}}, "Did you mean 'rules'"),
    ("icto", {"dpo": {"probe_metric": "dev/invalid_action_share"}}, "Unknown dpo.probe_metric"),
    ("icto", {"dpo": {"probe_metric": "dev/sucess_rate"}}, "dpo.probe_metric.*Did you mean 'dev/success_rate'"),
    ("bc", {"evaluation": {"splits": ["dev"], "final_splits": ["dev"], "max_tasks": 1}}, "both have 'dev', on 1 and"),
    ("bc", {"model": {"quantization": "nf4"}, "acting": {"dtype": "bfloat16"}}, "weights in nf4 cannot be cast"),
    (
        "icto",
        {"model": {"dtype": "bfloat16"}, "dpo": {"mixed_precision": "bfloat16"}},
        "dpo.mixed_precision is 'bfloat16'",
    ),
    ("bc", {"demonstrations": {"file": "nope.jsonl"}}, "demonstrations.file 'nope.jsonl' is not there"),
]


@pytest.mark.parametrize(("name", "values", "message"), BEFORE_ANY_WORK)
def test_what_cannot_be_done_is_found_before_any_work(tmp_path, name, values, message):
    method = find_method(name)
    small = {"model": {"name": "tiny-random"}, "rollout": {"env_id": "icto_gym.testing:Scripted-v0"}}
    config = from_mapping(method.config_class, {**small, **values}, "the test")
    with Run(tmp_path) as run, pytest.raises(ConfigError, match=message):
        method.run(config, run)
    assert not (tmp_path / "demonstrations.jsonl").exists()


def test_nat_refuses_to_ask_for_a_class_that_it_never_trained(tmp_path):
    good, bad = play(["search", "buy"], [0, 0.8], who="expert"), play(["search", "leave"], [0, 0.0])
    write_records(tmp_path / "demonstrations.jsonl", [good])
    write_records(tmp_path / "explored.jsonl", [bad])
    files = tmp_path / "demonstrations.jsonl", tmp_path / "explored.jsonl"
    wanted = {"negatives_per_positive": 1.0, "positives": None, "seed": 0}
    with Run(tmp_path / "run") as run:
        with pytest.raises(DataError, match=r"class '\[Correct\]', which acting asks for; the best .* scores 0.8"):
            mark(run, run.path("marked.jsonl"), *files, MarkerConfig(), **wanted)
        lower = MarkerConfig(cuts=(0.8, 0.4, 0.0))
        assert mark(run, run.path("marked.jsonl"), *files, lower, **wanted).exists()


def test_of_several_experts_the_lowest_is_to_be_reached_whatever_their_order():
    experts = [play(["search", "buy"], [0, 0.6], who="expert"), play(["look", "buy"], [0, 0.9], who="expert")]
    own = play(["go", "buy"], [0, 0.7])
    for order in (experts, experts[::-1]):
        kept, _ = distinct_successes([own], order, None)
        assert kept == [own]
