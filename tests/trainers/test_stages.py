"""Stages from file to file: run, run again (skipped), cut short and run again (same result)."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from episodes import play

from icto_gym.errors import ConfigError, DataError
from icto_gym.store import TrajectoryStore
from trainers import stages
from trainers.evaluation.evaluate import PROBE_METRICS, ProbeConfig, greedy, make_probe
from trainers.feedback import JudgeConfig, StepRewardConfig
from trainers.pairing import PairingConfig
from trainers.policies import make_policy
from trainers.records import PreferencePair, StepRewards, Verdict, read_records, write_records
from trainers.rollout import RolloutConfig
from trainers.runs import Run
from trainers.stages import DemonstrationConfig

ENVIRONMENT = RolloutConfig(env_id="icto_gym.testing:Scripted-v0", attempts=3, batch_size=4)


@pytest.fixture
def run(tmp_path):
    with Run(tmp_path / "run") as opened:
        yield opened


def demonstrations(run):
    return stages.demonstrate(run, run.path("demonstrations.jsonl"), DemonstrationConfig(), ENVIRONMENT)


def explored(run):
    player = stages.named_player("random")
    return stages.explore(run, run.iteration(1) / "trajectories.jsonl", player, ENVIRONMENT)


def through_pairs(run):
    here, played = run.iteration(1), explored(run)
    verdicts = stages.judge(run, here / "verdicts.jsonl", played, JudgeConfig())
    rewards = stages.score_steps(run, here / "step_rewards.jsonl", [played], StepRewardConfig())
    return stages.pair(
        run, here / "pairs.jsonl", played, PairingConfig(),
        verdicts=verdicts, step_rewards=rewards, demonstrations=demonstrations(run),
    )  # fmt: skip


def test_demonstrations_are_the_experts_successes(run):
    found = list(TrajectoryStore(demonstrations(run)))
    assert len(found) == 12
    assert all(item.success and item.policy == "expert" for item in found)
    facts = stages.facts_of(run, run.path("demonstrations.jsonl"))
    assert facts == {"episodes": 12, "kept": 12, "broken": 0, "below the threshold": 0}


def test_demonstrations_may_come_from_a_file(run, tmp_path):
    first = demonstrations(run)
    with Run(tmp_path / "other") as other:
        config = DemonstrationConfig(file=first)
        copy = stages.demonstrate(other, other.path("demonstrations.jsonl"), config, ENVIRONMENT)
    assert copy.read_bytes() == first.read_bytes()


def test_demonstrations_without_a_success_say_what_to_do(run, tmp_path):
    failures = [item for item in TrajectoryStore(explored(run)) if item.score < 1.0]
    write_records(tmp_path / "failures.jsonl", failures)
    config = DemonstrationConfig(file=tmp_path / "failures.jsonl")
    assert failures
    with pytest.raises(DataError, match=r"nothing to imitate\. Lower demonstrations.min_score"):
        stages.demonstrate(run, run.path("demonstrations.jsonl"), config, ENVIRONMENT)


def test_demonstrations_that_are_left_out_are_counted_by_reason(run, tmp_path):
    good, poor, broken = play(["buy"], [1.0]), play(["a"], [0.4], attempt=1), play(["b"], [1.0], attempt=2, error="x")
    write_records(tmp_path / "shown.jsonl", [good, poor, broken, replace(broken, trajectory_id="again", score=0.0)])
    config = DemonstrationConfig(file=tmp_path / "shown.jsonl")
    kept = stages.demonstrate(run, run.path("demonstrations.jsonl"), config, ENVIRONMENT)
    facts = {"episodes": 4, "kept": 1, "broken": 2, "below the threshold": 1}
    assert list(TrajectoryStore(kept)) == [good] and stages.facts_of(run, kept) == facts


def test_the_whole_way_from_play_to_pairs_is_files(run):
    pairs = read_records(through_pairs(run), PreferencePair)
    here = run.iteration(1)
    verdicts = read_records(here / "verdicts.jsonl", Verdict)
    rewards = read_records(here / "step_rewards.jsonl", StepRewards)
    episodes = {item.trajectory_id: item for item in TrajectoryStore(here / "trajectories.jsonl")}
    assert {item.trajectory_id for item in verdicts} == set(episodes) == {item.trajectory_id for item in rewards}
    assert pairs
    assert all(pair.rejected_id in episodes for pair in pairs)
    facts = stages.facts_of(run, here / "pairs.jsonl")
    assert facts["pairs"] == len(pairs)
    assert facts["counts"]["tasks"] == 12


def test_a_second_time_everything_is_skipped_and_says_so(run, caplog):
    through_pairs(run)
    caplog.clear()
    with caplog.at_level("INFO"):
        through_pairs(run)
    said = [line for line in caplog.messages if "complete, skipped" in line]
    assert len(said) == 6
    assert not any("starts" in line for line in caplog.messages)


def test_half_an_exploration_is_continued_with_the_same_result(run, tmp_path):
    whole = {item.trajectory_id: item.to_json() for item in TrajectoryStore(explored(run))}
    with Run(tmp_path / "cut") as cut:
        out = explored(cut)
        lines = out.read_text().splitlines(keepends=True)
        out.write_text("".join(lines[:10]) + lines[10][:40])  # killed within a line
        (cut.path("stages", "iteration-01.trajectories.json")).rename(
            cut.path("stages", "iteration-01.trajectories.started.json")
        )
        again = {item.trajectory_id: item.to_json() for item in TrajectoryStore(explored(cut))}
    assert again == whole


def test_an_evaluation_writes_its_numbers_and_what_they_are_of(run):
    played = greedy(ENVIRONMENT, "test", 5)
    out = stages.evaluate(
        run, run.path("evaluation/expert/test"), stages.named_player("expert"), played, label="expert"
    )
    result = json.loads(out.read_text())
    assert result["label"] == "expert" and result["policy"] == "expert"
    assert result["split"] == "test" and result["n_tasks"] == 5
    assert result["env_id"] == ENVIRONMENT.env_id and len(result["manifest_digest"]) == 64
    found = result["metrics"]["success_rate"]
    assert (found["value"], found["high"], found["n"]) == (1.0, 1.0, 5)
    assert found["low"] == pytest.approx(0.025 ** (1 / 5))  # five successes do not prove that all succeed
    assert result["decoding"]["temperature"] == 0.0
    assert len(TrajectoryStore(out.parent / "trajectories.jsonl")) == 5


def test_half_an_evaluation_is_continued_with_the_same_numbers(run):
    played, player = greedy(ENVIRONMENT, "test"), stages.named_player("random")
    out = stages.evaluate(run, run.path("evaluation/random/test"), player, played, label="random")
    before = out.read_text()
    episodes = out.parent / "trajectories.jsonl"
    episodes.write_text("".join(episodes.read_text().splitlines(keepends=True)[:3]))
    out.unlink()
    assert stages.evaluate(run, out.parent, player, played, label="random").read_text() == before


def test_other_inputs_are_refused_where_a_person_named_the_output(tmp_path):
    out = tmp_path / "trajectories.jsonl"
    with Run(tmp_path, redo=False) as run:
        stages.explore(run, out, stages.named_player("random"), ENVIRONMENT)
        before = out.read_text()
        with pytest.raises(ConfigError, match=r"config changed.*another --out"):
            stages.explore(run, out, stages.named_player("random"), replace(ENVIRONMENT, epsilon=0.5))
        with pytest.raises(ConfigError, match="policy changed"):
            stages.explore(run, out, stages.named_player("expert"), ENVIRONMENT)
        assert out.read_text() == before
        out.unlink()
        stages.explore(run, out, stages.named_player("expert"), replace(ENVIRONMENT, attempts=1))


def test_an_output_that_is_an_input_is_refused(run):
    played = explored(run)
    with pytest.raises(ConfigError, match="never edits its input"):
        stages.judge(run, played, played, JudgeConfig())


def test_successes_are_kept_for_imitation_with_the_demonstrations(run):
    played = explored(run)
    verdicts = stages.judge(run, run.path("verdicts.jsonl"), played, JudgeConfig())
    accepted = {item.trajectory_id for item in read_records(verdicts, Verdict) if item.accepted}
    kept = stages.keep_successes(run, run.path("successes.jsonl"), played, verdicts, also=demonstrations(run))
    own = [item for item in TrajectoryStore(kept) if item.policy == "random"]
    assert own and all(item.success and item.trajectory_id in accepted for item in own)
    assert len(TrajectoryStore(kept)) == len(own) + 12
    facts = stages.facts_of(run, kept)
    assert facts.pop("others") == 12 and sum(facts.values()) == len(TrajectoryStore(played))


def test_the_best_of_tasks_without_a_success_are_kept_if_asked(run):
    played = stages.explore(run, run.path("t.jsonl"), stages.named_player("random"), replace(ENVIRONMENT, attempts=6))
    alone = stages.keep_successes(run, run.path("alone.jsonl"), played, None)
    kept = stages.keep_successes(run, run.path("best.jsonl"), played, None, best_margin=0.0)
    own, best = ({item.task_id: item.score for item in TrajectoryStore(path)} for path in (alone, kept))
    more = best.keys() - own.keys()
    assert more and all(best[task] < 1.0 for task in more)
    facts = stages.facts_of(run, kept)
    assert facts["best"] == len(more) and facts["own"] == len(TrajectoryStore(kept))


def test_a_probe_plays_dev_tasks_and_says_how_it_went_and_why_episodes_failed():
    from contextlib import contextmanager

    @contextmanager
    def playing(model, tokenizer):
        yield make_policy(model)

    probe = make_probe(ENVIRONMENT, ProbeConfig(tasks=3), playing)
    assert probe(10, "expert", None) == {
        "dev/success_rate": 1.0, "dev/average_reward": 1.0, "dev/invalid_action_share": 0.0,
        "cost/prompt_tokens": 0.0, "cost/response_tokens": 0.0,  # of a policy that is no model
    }  # fmt: skip
    found = probe(10, "random", None)
    assert set(PROBE_METRICS) <= found.keys()
    failures = [share for name, share in found.items() if name.startswith("failures/")]
    assert failures and sum(failures) + found["dev/success_rate"] == pytest.approx(1.0)
    assert make_probe(ENVIRONMENT, ProbeConfig(tasks=0), playing) is None
