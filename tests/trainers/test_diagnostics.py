"""What an iteration did, in one file: every training under its own name, and none of a config that was given up."""

from __future__ import annotations

import pytest

from icto_gym.files import write_json
from trainers.diagnostics import iteration_facts
from trainers.runs import SUPERSEDED, Run


@pytest.fixture
def run(tmp_path):
    with Run(tmp_path / "run") as opened:
        yield opened


def trained(run, *stages):
    for stage in stages:
        run.log_metrics(f"iteration-01/{stage}", 1, {"train/loss": 0.5, "of": stage})


def named(run):
    """What each training is called."""
    found = iteration_facts(run, 1, [])
    return {name: found[name]["last"]["of"] for name in ("imitation", "reward_model", "training") if name in found}


@pytest.mark.parametrize(
    ("stages", "names"),
    [
        (["sft"], {"training": "sft"}),
        (["sft", "dpo"], {"imitation": "sft", "training": "dpo"}),
        (["reward", "dpo"], {"reward_model": "reward", "training": "dpo"}),
        (["ppo", "reward"], {"reward_model": "reward", "training": "ppo"}),
    ],
)
def test_the_last_training_is_the_iterations_and_imitation_before_it_is_kept(run, stages, names):
    trained(run, *stages)
    assert named(run) == names


def test_what_a_stage_recorded_of_its_training_stands_there_too(run):
    trained(run, "dpo")
    out = run.path("iteration-01", "dpo", "checkpoint", "checkpoint.json")
    facts = {"pairs": 40, "held_out": 5, "truncated": 7, "kept_step": 0}
    run.stage("iteration-01/dpo", lambda: (write_json(out, {}), facts)[1], inputs={}, outputs=[out])
    found = iteration_facts(run, 1, [])["training"]
    assert facts.items() <= found.items() and found["last"]["of"] == "dpo"


def test_a_training_that_only_an_earlier_config_had_is_left_out(run):
    trained(run, "sft", "dpo")
    write_json(run.path(SUPERSEDED), ["iteration-01/sft"])
    assert named(run) == {"training": "dpo"}
