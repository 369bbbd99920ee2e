"""Playing: results that depend on seeds alone, nothing lost, nothing played twice."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import pytest

from icto_gym.errors import BackendError, ConfigError, DataError
from icto_gym.store import TrajectoryStore
from icto_gym.testing import ScriptedEnv
from icto_gym.wrappers import ReAct
from trainers.policies import make_policy
from trainers.policies.base import LIMITS, Usage
from trainers.rollout import Job, RolloutConfig, plan_jobs, rollout
from trainers.sampling import choose_tasks
from trainers.stage_facts import play_facts

if "Scripted-v0" not in gym.registry:
    gym.register("Scripted-v0", entry_point="icto_gym.testing:ScriptedEnv", max_episode_steps=6)

CONFIG = RolloutConfig(env_id="Scripted-v0")


class Constant:
    """Says one thing; counts how often it was asked, and who was forgotten."""

    name = "constant"

    def __init__(self, text="Action: look"):
        self.text, self.batches, self.forgotten = text, [], []

    def act(self, turns):
        self.batches.append(len(turns))
        self.last_usage = [Usage(10, 3) for _ in turns]
        return [self.text for _ in turns]

    def forget(self, episode):
        self.forgotten.append(episode)


class Fragile(ScriptedEnv):
    """Breaks at reset for the tasks whose number is in ``broken``, and at every ``knock``."""

    broken: tuple = ()
    made = closed = 0

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        type(self).made += 1

    def _begin(self, task):
        if int(task.task_id[-2:]) in self.broken:
            raise BackendError("The bowls fell down.")
        return super()._begin(task)

    def _advance(self, action):
        if action == "knock":
            raise BackendError("The table broke.")
        return super()._advance(action)

    def close(self):
        type(self).closed += 1


def fragile(*broken):
    kind = type("Fragile", (Fragile,), {"broken": broken})
    return kind, lambda: ReAct(gym.wrappers.TimeLimit(kind(), 6))


def play(config, policy, path, jobs=None, **options):
    store = TrajectoryStore(path)
    rollout(policy, config, plan_jobs(config) if jobs is None else jobs, store, **options)
    return {trajectory.trajectory_id: trajectory for trajectory in store}


def test_the_plan_is_one_greedy_attempt_and_exploring_ones():
    jobs = plan_jobs(replace(CONFIG, attempts=3, branch_fraction=1.0))
    assert len(jobs) == 36 and len({job.seed for job in jobs}) == 36
    first, second, _ = jobs[:3]
    assert first == Job("scripted/train/00", 0, first.seed)
    assert (second.attempt, second.temperature, second.epsilon) == (1, 0.7, 0.1)
    assert 0 < second.prefix_fraction < 1
    assert all(job.prefix_fraction == 0 for job in plan_jobs(replace(CONFIG, branch_fraction=0.0)))
    assert plan_jobs(replace(CONFIG, greedy_first=False))[0].temperature == 0.7
    assert plan_jobs(replace(CONFIG, seed=1))[0].seed != first.seed


def test_fewer_tasks_are_a_fixed_draw_within_the_larger_one():
    ids = [f"t/{number}" for number in range(50)]
    few, more = choose_tasks(ids, 5), choose_tasks(ids, 9)
    assert len(few) == 5 and set(few) < set(more) and few == sorted(few, key=ids.index) and few != ids[:5]
    assert choose_tasks(ids, None) == choose_tasks(ids, 99) == ids
    assert len(plan_jobs(replace(CONFIG, max_tasks=4, attempts=1))) == 4


@pytest.mark.parametrize("setting", [{"epsilon": 1.5}, {"attempts": 0}, {"batch_size": 0}, {"branch_fraction": -0.1}])
def test_a_setting_out_of_range_is_named(setting):
    with pytest.raises(ConfigError, match=f"rollout.{next(iter(setting))}"):
        replace(CONFIG, **setting)


def test_an_unknown_environment_is_a_config_error():
    with pytest.raises(ConfigError, match="icto/Webshap-v0"):
        plan_jobs(replace(CONFIG, env_id="icto/Webshap-v0"))


def test_results_do_not_depend_on_batch_size_or_order(tmp_path):
    config = replace(CONFIG, epsilon=0.4, branch_fraction=0.5)
    policy = make_policy("random")
    alone = play(config, policy, tmp_path / "1.jsonl", batch_size=1)
    together = play(config, policy, tmp_path / "2.jsonl", batch_size=7)
    backwards = play(config, policy, tmp_path / "3.jsonl", plan_jobs(config)[::-1], batch_size=5)
    assert alone == together == backwards and len(alone) == 48
    assert any(trajectory.extra["random_steps"] for trajectory in alone.values())


@pytest.mark.parametrize("cache", [True, False])
def test_a_models_episodes_do_not_depend_on_batch_size_or_order(tmp_path, cache):
    config = replace(CONFIG, epsilon=0.2, branch_fraction=0.5, attempts=2, max_tasks=4, max_episode_steps=3)

    def played(name, jobs, batch_size):
        policy = make_policy("hf:tiny-random", max_new_tokens=8, cache=cache)
        return play(config, policy, tmp_path / name, jobs, batch_size=batch_size)

    jobs = plan_jobs(config)
    assert played("1", jobs, 1) == played("2", jobs, 3) == played("3", jobs[::-1], 8)


def test_every_step_exploring_asks_the_policy_nothing(tmp_path):
    policy = Constant()
    config = replace(CONFIG, epsilon=1.0, greedy_first=False, branch_fraction=0.0, attempts=2)
    found = play(config, policy, tmp_path / "t.jsonl")
    assert not policy.batches
    for trajectory in found.values():
        assert trajectory.extra["random_steps"] == list(range(len(trajectory.steps)))
        assert all(step.valid and step.thought for step in trajectory.steps)


def test_the_share_of_random_steps_is_epsilon(tmp_path):
    config = replace(CONFIG, epsilon=0.3, greedy_first=False, branch_fraction=0.0, attempts=30)
    found = play(config, Constant("Action: wait"), tmp_path / "t.jsonl", batch_size=64)
    steps = sum(len(trajectory.steps) for trajectory in found.values())
    drawn = sum(len(trajectory.extra["random_steps"]) for trajectory in found.values())
    assert steps > 1000 and 0.25 < drawn / steps < 0.35


def test_a_branched_episode_starts_with_the_experts_own_steps(tmp_path):
    config = replace(CONFIG, epsilon=0.0, branch_fraction=1.0, attempts=2)
    found = play(config, Constant("Action: wait"), tmp_path / "t.jsonl")
    branched = found["scripted/train/03@constant#1"]
    assert branched.extra["prefix_steps"] == 1
    assert branched.steps[0].response == "Thought: I should see where it is.\nAction: look"
    assert [step.action for step in branched.steps] == ["look"] + ["wait"] * 5 and branched.truncated
    assert found["scripted/train/03@constant#0"].extra["prefix_steps"] == 0


def test_the_expert_policy_gets_an_expert_environment_and_optimal_steps_are_noted(tmp_path):
    config = replace(CONFIG, attempts=1, optimal_actions=True)
    found = play(config, make_policy("expert"), tmp_path / "t.jsonl")
    assert all(trajectory.success for trajectory in found.values()) and len(found) == 12
    one = found["scripted/train/00@expert#0"]
    assert one.extra["optimal"] == [False, True]
    assert one.seed == plan_jobs(config)[0].seed and one.env_id == "Scripted-v0"
    assert one.extra == {"temperature": 0.0, "prefix_steps": 0, "random_steps": [], "optimal": [False, True]}


def test_unknown_optimal_actions_leave_no_list(tmp_path, monkeypatch):
    monkeypatch.setattr(ScriptedEnv, "optimal_actions", lambda self: None)
    found = play(replace(CONFIG, attempts=1, optimal_actions=True), make_policy("expert"), tmp_path / "t.jsonl")
    assert all("optimal" not in trajectory.extra for trajectory in found.values())


def test_finished_episodes_are_replaced_at_once_and_forgotten(tmp_path):
    policy = Constant("Action: wait")
    config = replace(CONFIG, attempts=1, max_episode_steps=2)
    found = play(config, policy, tmp_path / "t.jsonl", batch_size=5)
    assert policy.batches == [5, 5, 5, 5, 2, 2]
    assert sorted(policy.forgotten) == sorted(found) and len(found) == 12
    assert all(trajectory.extra["response_tokens"] == 6 for trajectory in found.values())


def test_the_steps_at_which_a_response_met_a_limit_are_noted_and_their_episodes_counted(tmp_path):
    policy = Constant("Action: wait")

    def act(turns):
        answers, step = Constant.act(policy, turns), len(policy.batches) - 1
        policy.last_usage = [Usage(10, 3, cut=step > 0, overflowed=step == 1) for _ in turns]
        return answers

    policy.act = act
    config = replace(CONFIG, attempts=1, max_tasks=2, max_episode_steps=3)
    found = list(play(config, policy, tmp_path / "t.jsonl").values())
    assert len(found) == 2 and all("shortened_steps" not in item.extra for item in found)
    assert all(item.extra["cut_steps"] == [1, 2] and item.extra["overflowed_steps"] == [1] for item in found)
    facts = play_facts([*found, replace(found[0], extra=None)])
    assert [facts[limit] for limit in LIMITS] == [2, 0, 2]


def test_stored_episodes_are_not_played_again_and_doubled_jobs_once(tmp_path):
    config, policy = replace(CONFIG, attempts=1), make_policy("expert")
    jobs = plan_jobs(config)
    play(config, policy, tmp_path / "t.jsonl", jobs[:5])
    play(config, policy, tmp_path / "t.jsonl", jobs + jobs)
    stored = [trajectory.trajectory_id for trajectory in TrajectoryStore(tmp_path / "t.jsonl")]
    assert len(stored) == len(set(stored)) == 12


def test_a_broken_episode_is_recorded_and_the_run_goes_on(tmp_path):
    kind, factory = fragile(3, 7)
    found = play(factory, Constant("Action: wait"), tmp_path / "t.jsonl", plan_jobs(replace(CONFIG, attempts=1)))
    broken = {name[-13:-11] for name, trajectory in found.items() if trajectory.error}
    assert len(found) == 12 and broken == {"03", "07"}
    one = found["scripted/train/03@constant#0"]
    assert one.error == "The bowls fell down." and one.steps == () and not one.success and one.terminated
    assert kind.made == kind.closed <= 10


def test_an_environment_that_breaks_midway_keeps_the_steps_played(tmp_path):
    _, factory = fragile()

    class KnocksAtBanana(Constant):
        def act(self, turns):
            return ["Action: knock" if "banana" in turn.info["instruction"] else "Action: wait" for turn in turns]

    found = play(factory, KnocksAtBanana(), tmp_path / "t.jsonl", plan_jobs(replace(CONFIG, attempts=1)))
    broken = [trajectory for trajectory in found.values() if trajectory.error]
    assert [trajectory.error for trajectory in broken] == ["The table broke."] * 2
    assert [step.action for step in broken[0].steps] == ["knock"]


def test_where_everything_is_broken_the_run_stops_and_a_mended_one_plays_all(tmp_path):
    _, factory = fragile(*range(12))
    jobs = plan_jobs(replace(CONFIG, attempts=1))
    with pytest.raises(BackendError, match="all broke; the latest: The bowls fell down"):
        play(factory, Constant(), tmp_path / "t.jsonl", jobs, batch_size=2)
    assert len(TrajectoryStore(tmp_path / "t.jsonl")) == 0
    _, mended = fragile()
    assert len(play(mended, Constant(), tmp_path / "t.jsonl", jobs)) == 12


def test_a_short_run_that_breaks_whole_is_an_error_and_is_played_again(tmp_path):
    _, factory = fragile(*range(12))
    path, jobs = tmp_path / "t.jsonl", plan_jobs(replace(CONFIG, attempts=1))[:3]
    words = r"Every episode broke \(3 of 3\); the first, scripted/train/00@constant#0: The bowls fell down\."
    with pytest.raises(BackendError, match=words):
        play(factory, Constant("Action: wait"), path, jobs)
    assert len(TrajectoryStore(path)) == 0
    _, better = fragile(0, 1)
    found = play(better, Constant("Action: wait"), path, jobs)
    assert [bool(trajectory.error) for trajectory in found.values()] == [True, True, False]


def test_broken_episodes_at_the_end_of_a_resumed_run_are_recorded(tmp_path):
    _, factory = fragile(1, 2)
    path, jobs = tmp_path / "t.jsonl", plan_jobs(replace(CONFIG, attempts=1))[:3]
    play(factory, Constant("Action: wait"), path, jobs[:1])
    assert len(play(factory, Constant("Action: wait"), path, jobs)) == 3


def test_no_environment_and_one_that_is_not_there_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"no environment to play in\. Pass a RolloutConfig"):
        play([], Constant(), tmp_path / "t.jsonl", plan_jobs(CONFIG)[:1])
    with pytest.raises(ConfigError, match=r"scripted/train/00 plays in source 1, but the sources are 1"):
        play([CONFIG], Constant(), tmp_path / "t.jsonl", [plan_jobs(CONFIG)[0]._replace(source=1)])


@pytest.mark.parametrize(("answers", "words"), [([], "0 responses to 1"), ([None], "NoneType")])
def test_a_policy_that_answers_wrongly_is_named(tmp_path, answers, words):
    policy = Constant()
    policy.act = lambda turns: answers
    with pytest.raises(ConfigError, match=words):
        play(CONFIG, policy, tmp_path / "t.jsonl", batch_size=1)


def test_a_policy_that_fails_leaves_what_was_finished(tmp_path):
    policy = Constant("Action: wait")

    def act(turns):
        if len(policy.batches) == 8:
            raise BackendError("The endpoint is dead.")
        return Constant.act(policy, turns)

    policy.act = act
    with pytest.raises(BackendError, match="dead"):
        play(replace(CONFIG, attempts=1), policy, tmp_path / "t.jsonl", batch_size=2)
    assert len(TrajectoryStore(tmp_path / "t.jsonl")) == 2


def test_a_worked_example_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="no worked example"):
        play(replace(CONFIG, example=True), Constant(), tmp_path / "t.jsonl")


def test_a_worked_example_is_shown_and_not_recorded(tmp_path, monkeypatch):
    monkeypatch.setattr(
        ScriptedEnv, "example", (("user", "Bring the fig."), ("assistant", "Action: look")), raising=False
    )
    seen = []
    policy = Constant("Action: wait")
    policy.act = lambda turns: seen.extend(turns) or Constant.act(policy, turns)
    found = play(replace(CONFIG, example=True, attempts=1, max_tasks=1), policy, tmp_path / "t.jsonl")
    assert seen[0].messages[2] == ("user", "Bring the fig.")
    assert "fig" not in next(iter(found.values())).system_prompt


def test_a_progress_bar_shows_the_success_rate_where_asked(tmp_path, capsys, monkeypatch):
    play(replace(CONFIG, attempts=1, max_tasks=2), make_policy("expert"), tmp_path / "quiet.jsonl")
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("ICTO_PROGRESS", "1")
    play(replace(CONFIG, attempts=1, max_tasks=2), make_policy("expert"), tmp_path / "shown.jsonl")
    assert "success 100%" in capsys.readouterr().err


def test_a_store_with_a_wrong_line_stops_before_playing(tmp_path):
    (tmp_path / "t.jsonl").write_text("{}\n")
    with pytest.raises(DataError, match=r"t\.jsonl line 1"):
        play(CONFIG, Constant(), tmp_path / "t.jsonl")


SLOW_RUN = """
import sys, time
import gymnasium as gym
from icto_gym.store import TrajectoryStore
from trainers.policies import make_policy
from trainers.rollout import RolloutConfig, plan_jobs, rollout

gym.register("Scripted-v0", entry_point="icto_gym.testing:ScriptedEnv", max_episode_steps=6)
policy = make_policy("random")
quick = policy.act
policy.act = lambda turns: time.sleep(float(sys.argv[2])) or quick(turns)
config = RolloutConfig(env_id="Scripted-v0", epsilon=0.3)
rollout(policy, config, plan_jobs(config), TrajectoryStore(sys.argv[1]), batch_size=3)
"""


def test_a_killed_run_loses_no_finished_episode_and_plays_none_twice(tmp_path):
    path, whole = tmp_path / "killed.jsonl", tmp_path / "whole.jsonl"

    def run(target, pause):
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
        return subprocess.Popen([sys.executable, "-c", SLOW_RUN, str(target), str(pause)], env=environment)

    def lines():
        return path.read_bytes().count(b"\n") if path.exists() else 0

    finished_before = []
    for _ in range(3):
        process, before, deadline = run(path, 0.02), lines(), time.monotonic() + 60
        while lines() < before + 4 and time.monotonic() < deadline:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        finished_before.append(list(TrajectoryStore(path)))
    assert run(path, 0).wait() == 0 and run(whole, 0).wait() == 0
    stored = list(TrajectoryStore(path))
    for earlier in finished_before:
        assert stored[: len(earlier)] == earlier
    assert len(stored) == len({trajectory.trajectory_id for trajectory in stored}) == 48
    assert sorted(map(str, stored)) == sorted(map(str, TrajectoryStore(whole)))
