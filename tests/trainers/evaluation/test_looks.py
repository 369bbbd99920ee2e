"""What a look at a policy has played is not played again: same episodes, same numbers, and only of the same weights."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest

from icto_gym.files import read_json, write_json
from icto_gym.store import TrajectoryStore
from trainers import stages
from trainers.config import from_mapping, merged
from trainers.diagnostics import read_lines
from trainers.evaluation.evaluate import ProbeConfig, greedy
from trainers.evaluation.looks import asked_of, played_before
from trainers.methods.icto import ICTOConfig, run_icto
from trainers.rollout import RolloutConfig
from trainers.runs import Run
from trainers.stages import ActingConfig, Watch

ENV = RolloutConfig(env_id="icto_gym.testing:Scripted-v0", max_tasks=2, attempts=2, max_episode_steps=3)
ACTING = ActingConfig(max_new_tokens=8)
SETTINGS = {
    "model": {"name": "tiny-random", "lora": {"r": 4, "alpha": 8}},
    "rollout": {"env_id": ENV.env_id, "max_tasks": 2, "attempts": 2, "max_episode_steps": 3},
    "acting": {"max_new_tokens": 8},
    "demonstrations": {"max_tasks": 4},
    "iterations": 1,
    "sft": {"epochs": 1, "batch_size": 2, "probe_every": 1},
    "dpo": {"epochs": 1, "batch_size": 2, "probe_every": 1, "probe_at_start": True, "learning_rate": 0.05},
    "probe": {"tasks": 2},
    "evaluation": {"max_tasks": 3, "final_splits": [], "base": False},
}


def icto(folder, **settings):
    with Run(folder) as run:
        run_icto(from_mapping(ICTOConfig, merged(SETTINGS, settings), "the test"), run)
        return run


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """A run whose evaluations began with what looks had played."""
    return icto(tmp_path_factory.mktemp("played")).folder


def copy_of(played, tmp_path, label="icto-1"):
    """The run without that evaluation."""
    folder = tmp_path / "copy"
    shutil.copytree(played, folder)
    shutil.rmtree(folder / "evaluation" / label)
    (folder / "stages" / f"evaluation.{label}.dev.json").unlink()
    return folder


def evaluate(folder, label="icto-1", config=ENV, acting=ACTING, tasks=3):
    start = folder / ("sft" if label == "sft" else "iteration-01/dpo") / "checkpoint"
    with Run(folder) as run:
        player = stages.model_player(start, label, acting)
        out = run.path("evaluation", label, "dev")
        stages.evaluate(run, out, player, greedy(config, "dev", tasks), label=label)
        return out, stages.facts_of(run, out)


def taken(folder, label="icto-1"):
    return read_json(folder / "stages" / f"evaluation.{label}.dev.json")["facts"].get("taken_over")


@pytest.mark.parametrize("label", ["sft", "icto-1"])
def test_an_evaluation_that_begins_with_a_look_is_the_one_that_is_played_whole(played, tmp_path, label):
    assert taken(played, label) == 2
    folder = copy_of(played, tmp_path, label)
    for looks in folder.rglob("looks"):
        shutil.rmtree(looks)
    for other in (folder / "evaluation").iterdir():
        shutil.rmtree(other)
    out, facts = evaluate(folder, label)
    assert "taken_over" not in facts and facts["response_tokens"] > 0
    for name in ("trajectories.jsonl", "metrics.json"):
        assert (out / name).read_bytes() == (played / "evaluation" / label / "dev" / name).read_bytes()


def test_a_first_look_begins_with_what_the_evaluation_of_its_start_has_played(played):
    first, second, *_ = read_lines(played / "iteration-01" / "dpo" / "probes.jsonl")
    assert first["step"] == 0 and first["cost/response_tokens"] == first["cost/prompt_tokens"] == 0
    assert second["cost/response_tokens"] > 0
    rows = {row["task_id"]: row["values"] for row in read_json(played / "evaluation/sft/dev/metrics.json")["episodes"]}
    known = [rows[item.task_id] for item in TrajectoryStore(played / "evaluation/sft/dev/trajectories.jsonl")][:2]
    assert first["dev/average_reward"] == pytest.approx(sum(row["average_reward"] for row in known) / 2)


def test_a_training_keeps_the_look_that_chose_its_weights_alone(played):
    for training in (played / "sft", played / "iteration-01" / "dpo"):
        step = read_json(training / "checkpoint" / "checkpoint.json")["step"]
        assert sorted(path.name for path in (training / "looks").iterdir()) == [f"{step:06d}.jsonl", "kept.json"]


def test_what_was_asked_otherwise_or_of_other_weights_is_played(played, tmp_path):
    start = played / "iteration-01" / "dpo" / "checkpoint"
    asked = asked_of(greedy(ENV, "dev"), ACTING)
    assert len(played_before(Run(played), start, asked)) == 3 and not played_before(Run(tmp_path), start, asked)
    for config, acting in (
        (greedy(replace(ENV, brief=True), "dev"), ACTING),
        (greedy(ENV, "test"), ACTING),
        (greedy(replace(ENV, seed=1), "dev"), ACTING),
        (greedy(ENV, "dev"), replace(ACTING, max_new_tokens=9)),
        (greedy(ENV, "dev"), replace(ACTING, dtype="bfloat16")),
    ):
        assert not played_before(Run(played), start, asked_of(config, acting))
    assert asked == asked_of(greedy(replace(ENV, batch_size=1), "dev"), replace(ACTING, batch_size=1, draft_tokens=0))
    other = shutil.copytree(start.parent, tmp_path / "dpo") / "checkpoint"
    assert played_before(Run(tmp_path), other, asked)
    adapter = other / "adapter_model.safetensors"
    adapter.write_bytes(adapter.read_bytes()[:-1] + b"\1")
    assert not played_before(Run(tmp_path), other, asked)
    assert not played_before(Run(played), from_mapping(ICTOConfig, SETTINGS, "the test").model, asked)


def test_fewer_tasks_than_were_looked_at_are_those_alone(played, tmp_path):
    out, facts = evaluate(copy_of(played, tmp_path), tasks=1)
    assert facts["taken_over"] == facts["episodes"] == 1 and facts["response_tokens"] == 0
    assert read_json(out / "metrics.json")["n_tasks"] == len(TrajectoryStore(out / "trajectories.jsonl")) == 1


def test_broken_episodes_are_played_again(played, tmp_path):
    folder = copy_of(played, tmp_path)
    [file] = (folder / "iteration-01" / "dpo" / "looks").glob("*.jsonl")
    first, *others = TrajectoryStore(file)
    file.write_text("".join(item.to_json() + "\n" for item in (replace(first, error="it broke"), *others)))
    out, facts = evaluate(folder)
    assert facts["taken_over"] == 1
    assert (out / "trajectories.jsonl").read_bytes() == (
        played / "evaluation" / "icto-1" / "dev" / "trajectories.jsonl"
    ).read_bytes()


def test_an_evaluation_that_was_killed_at_its_end_counts_as_one_that_was_not(played, tmp_path):
    """Its numbers were there, its record was not: what it has played itself is not what was known before."""
    folder = copy_of(played, tmp_path)
    evaluate(folder)
    before = read_json(folder / "stages" / "evaluation.icto-1.dev.json")["facts"]
    assert before["taken_over"] == 2 < before["episodes"]
    record = read_json(folder / "stages" / "evaluation.icto-1.dev.json")
    (folder / "stages" / "evaluation.icto-1.dev.json").unlink()
    write_json(
        folder / "stages" / "evaluation.icto-1.dev.started.json", {"stage": record["stage"], "inputs": record["inputs"]}
    )
    assert evaluate(folder)[1] == before


def test_weights_that_a_training_gave_back_are_not_asked_again(played, tmp_path):
    folder = copy_of(played, tmp_path)
    there, start = folder / "iteration-01" / "dpo", folder / "sft" / "checkpoint"
    shutil.rmtree(there)
    shutil.copytree(start, there / "checkpoint")
    record = read_json(start / "checkpoint.json")
    write_json(there / "checkpoint" / "checkpoint.json", {**record, "step": 0, "training": "dpo"})
    out, facts = evaluate(folder)
    assert facts["taken_over"] == facts["episodes"] == 3 and facts["response_tokens"] == 0
    before = read_json(folder / "evaluation" / "sft" / "dev" / "metrics.json")["episodes"]
    assert read_json(out / "metrics.json")["episodes"] == before
    assert {item.policy for item in TrajectoryStore(out / "trajectories.jsonl")} == {"icto-1"}


def test_a_result_of_before_results_said_what_was_asked_is_passed_over(played, tmp_path):
    folder = copy_of(played, tmp_path)
    result = folder / "evaluation" / "sft" / "dev" / "metrics.json"
    write_json(result, {"metrics": read_json(result)["metrics"], "label": "sft"})
    assert evaluate(folder)[1]["taken_over"] == 2


def test_a_watch_says_what_it_asks_however_it_is_told_where_to_play(played):
    start = played / "iteration-01" / "dpo" / "checkpoint"
    asked = Watch(ProbeConfig(split="dev", tasks=2), replace(ENV, split="train"), ACTING).asked
    assert asked == asked_of(replace(ENV, split="dev"), ACTING) and played_before(Run(played), start, asked)


def test_a_training_that_is_not_watched_keeps_nothing(tmp_path):
    run = icto(tmp_path, probe={"tasks": 0}, sft={"probe_every": 0}, dpo={"probe_every": 0, "probe_at_start": False})
    assert not list(run.folder.rglob("looks")) and taken(run.folder) is None
