"""What rewards, endings, limits and lists mean."""

from __future__ import annotations

import random
import warnings
from typing import Any

import gymnasium as gym
import pytest
from gymnasium.utils.env_checker import check_env

from icto_gym.errors import BackendError, ConfigError, InvalidTask
from icto_gym.wrappers import RecordTrajectory

BOIL = {"task_id": "scienceworld/boil/3"}
EARN = "look in kitchen"
FAIL = ("go to foundry", "focus on steel table")  # the wrong thing to focus on
AMBIGUOUS = {"task_id": "scienceworld/measure-melting-point-known-substance/68"}
NOT_KNOWN = "No known action matches that input."


def test_check_env_is_clean(env: gym.Env[str, str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*different render modes.*")
        check_env(env.unwrapped)


def test_the_first_reward_counts_from_the_score_after_the_reset(env: gym.Env[str, str]) -> None:
    _, info = env.reset(options={"task_id": "scienceworld/lifespan-shortest-lived/3"})
    assert (info["score"], info["best_score"], info["subgoals_done"]) == (0.5, 0.5, 2)
    _, reward, _, _, info = env.step("look around")
    assert (reward, info["score"]) == (0.0, 0.5)


def test_a_failure_ends_the_episode_and_reset_task_cannot_revive_it(env: gym.Env[str, str]) -> None:
    env.reset(options=BOIL)
    _, reward, terminated, _, info = env.step(EARN)
    assert (reward, terminated) == (0.03, False)
    env.step(FAIL[0])
    observation, reward, terminated, truncated, info = env.step(FAIL[1])
    assert (reward, terminated, truncated) == (-0.03, True, False)
    assert (info["score"], info["raw_score"], info["best_score"], info["success"]) == (0.0, -100.0, 0.03, False)
    assert list(info["admissible_actions"]) == []
    again, reward, terminated, _, later = env.step("reset task")
    assert (again, reward, terminated, later) == (observation, 0.0, True, info)


def test_reset_task_lowers_the_score_and_the_best_stays(env: gym.Env[str, str]) -> None:
    env.reset(options=BOIL)
    env.step(EARN)
    env.step("go to foundry")
    _, reward, terminated, _, info = env.step("reset task")
    assert (reward, terminated, info["score"], info["best_score"]) == (-0.03, False, 0.0, 0.03)


def test_an_ambiguous_request_is_answered_by_number_and_cancelled_by_anything_else(env: gym.Env[str, str]) -> None:
    env.reset(options=AMBIGUOUS)
    question, *_, info = env.step("examine substance")
    assert question.startswith("Ambiguous request") and info["valid_action"]
    assert set(info["admissible_actions"]) == {"0", "1"}
    answer, *_, info = env.step("0")
    assert answer == "a substance called air" and info["valid_action"]
    env.step("examine substance")
    answer, *_, info = env.step("go to kitchen")
    assert answer.startswith("Unknown action.") and not info["valid_action"]
    answer, *_, info = env.step("0")  # no question is open any more
    assert answer == NOT_KNOWN and not info["valid_action"]


def test_ticks_of_the_clock_are_not_steps(env: gym.Env[str, str]) -> None:
    env.reset(options=BOIL)
    for _ in range(10):
        _, _, terminated, truncated, info = env.step("wait")
    assert info["moves"] == 110 and not terminated and not truncated


def test_the_step_limit_is_that_of_the_task_type_and_can_be_overridden(new_env: Any) -> None:
    env = new_env()
    for task_id, limit in (("scienceworld/lifespan-longest-lived/0", 10), ("scienceworld/find-plant/0", 15)):
        env.reset(options={"task_id": task_id})
        assert [env.step("look around")[3] for _ in range(limit)] == [False] * (limit - 1) + [True]
    short = new_env(max_episode_steps=2)
    short.reset(options={"task_id": "scienceworld/find-plant/0"})
    assert [short.step("look around")[3] for _ in range(2)] == [False, True]
    remade = gym.make(env.spec)  # the limit is part of the spec
    assert "TaskStepLimit" in str(remade)
    remade.close()


JUNK = {
    "nothing": "",
    "blanks": " \t\n ",
    "a number": "0",
    "NUL": "\0look\0",
    "a lone surrogate": "open \ud800 door",
    "markup": '<b>&amp;</b> "quotes" \\n \\',
    "regular expressions": "((((.*)+)+)+$ [",
    "another alphabet": "открыть дверь 開ける 🚪",
    "five megabytes": "open door " * 500_000,
    "one long word": "x" * 1900,
    "many known words": "look at door to foundry in " * 60,
    "gateway commands": "e\nc\nj\nexit\ne\n",
    "line separators": "look\r\naround\u2028\u2029\x85",
}


@pytest.mark.parametrize("name", JUNK)
def test_junk_is_a_legal_step_that_changes_nothing(env: gym.Env[str, str], name: str) -> None:
    env.reset(options=BOIL)
    before = env.step("look around")[0]
    observation, reward, terminated, truncated, info = env.step(JUNK[name])
    assert (reward, terminated, truncated, info["error"]) == (0.0, False, False, None)
    assert observation and isinstance(observation, str)
    assert env.step("look around")[0] == before


def test_help_is_answered_and_costs_only_a_step(env: gym.Env[str, str]) -> None:
    env.reset(options=BOIL)
    observation, reward, _, _, info = env.step("help")
    assert "open" in observation and (reward, info["moves"], info["valid_action"]) == (0.0, 0, True)


@pytest.mark.parametrize("recording", ["5-2_grow-fruit_122_easy"], indirect=True)
def test_reading_the_list_never_changes_the_game_even_among_bees(recording: dict[str, Any], new_env: Any) -> None:
    """Bees, pollination and the list draw from one generator; two readers and one who never reads must agree."""
    task = {"task_id": f"scienceworld/{recording['task']}/{recording['variation']}"}
    chance = random.Random(3)
    seen = []
    for reads in (lambda: 0, lambda: chance.choice([0, 0, 0, 0, 0, 1, 2])):
        env = new_env(max_episode_steps=1000)
        observation, info = env.reset(options=task)
        trace = [observation]
        for action in recording["gold_path"]:
            if info["score"] < 1:
                for _ in range(reads()):
                    len(info["admissible_actions"])
                observation, _, _, _, info = env.step(action)
                trace.append((observation, info["score"], info["subgoals_done"]))
        seen.append(trace)
    assert "open bee hive" in recording["gold_path"]
    assert seen[0] == seen[1]


def test_a_list_read_late_is_that_of_its_own_moment(env: gym.Env[str, str]) -> None:
    _, first = env.reset(options=BOIL)
    _, second = env.reset(options=BOIL)
    at_start = list(second["admissible_actions"])
    *_, moved = env.step("go to foundry")
    assert list(first["admissible_actions"]) == at_start  # read when the game stands elsewhere
    assert list(moved["admissible_actions"]) != at_start
    env.close()
    *_, unread = env.reset(options=BOIL)
    env.close()
    assert list(unread["admissible_actions"]) == at_start  # read when the environment is closed


def test_equal_play_gives_equal_info(new_env: Any) -> None:
    one, other = new_env(), new_env()
    for act in ("reset", "go to foundry", "activate blast furnace", "nonsense"):
        results = [env.reset(options=BOIL) if act == "reset" else env.step(act) for env in (one, other)]
        assert results[0] == results[1]
    assert set(results[0][-1]) == set(one.reset(options=BOIL)[1])


def test_the_prompt_and_the_simplification_agree(new_env: Any) -> None:
    plain, easy = new_env(simplification=""), new_env()
    assert "teleport" in easy.unwrapped.system_prompt and "teleport" not in plain.unwrapped.system_prompt
    easy.reset(options=BOIL)
    assert easy.step("teleport to kitchen")[0] == "You teleport to the kitchen."
    plain.reset(options=BOIL)
    assert plain.step("teleport to kitchen")[0] == NOT_KNOWN
    doors = new_env(simplification="openDoors, teleportAction")
    doors.reset(options=BOIL)
    assert doors.step("teleport to kitchen")[0] == "You teleport to the kitchen."


def test_what_cannot_be_is_refused_with_the_nearest_name(new_env: Any) -> None:
    with pytest.raises(ConfigError, match="Did you mean 'openDoors'"):
        new_env(simplification="opendoors")
    with pytest.raises(ConfigError, match="'easy' stands for several and is given alone"):
        new_env(simplification="easy,openDoors")
    with pytest.raises(InvalidTask, match="Did you mean 'boil'"):
        new_env(task_types=["boill"])
    with pytest.raises(ConfigError, match="call_timeout"):
        new_env(call_timeout=0)
    with pytest.raises(InvalidTask, match="noElectricalAction"):
        new_env(simplification="noElectricalAction").reset(options={"task_id": "scienceworld/power-component/0"})
    with pytest.raises(InvalidTask):
        new_env().reset(options={"task_id": "scienceworld/boil/30"})  # there are 30: 0..29
    with pytest.raises(InvalidTask):
        new_env(task_types=["1-1"]).reset(options={"task_id": "scienceworld/melt/0"})


def test_the_simulators_own_refusal_is_an_error(new_env: Any) -> None:
    session = new_env().unwrapped._session
    with pytest.raises(BackendError, match="could not load"):
        session.start("scienceworld/no-such-task/0")
    with pytest.raises(BackendError):
        session.start("scienceworld/boil/-1")
    assert session.start("scienceworld/boil/3").startswith("This outside location")
    session.close()


def test_the_recorder_keeps_best_score_and_goals(env: gym.Env[str, str]) -> None:
    recorder = RecordTrajectory(env, None)
    recorder.reset(options=BOIL)
    for action in (EARN, *FAIL):
        recorder.step(action)
    kept = recorder.last_trajectory
    assert kept is not None and kept.extra is not None
    assert (kept.score, kept.success, kept.extra["best_score"]) == (0.0, False, 0.03)
    assert kept.extra["subgoals_total"] == 18
    assert type(kept).from_json(kept.to_json()) == kept


def test_a_snapshot_continues_exactly_here_and_in_another_environment(new_env: Any) -> None:
    env, other = new_env(), new_env()
    env.reset(options=BOIL)
    env.step(EARN)
    moment = env.unwrapped.snapshot()
    onward = ("go to foundry", "open blast furnace", "reset task", "focus on steel table")
    expected = [env.step(action) for action in onward]
    other.reset(options=AMBIGUOUS)
    for player in (env, other):
        observation, info = player.unwrapped.restore(moment)
        assert (observation, info["score"], info["best_score"]) == (moment.outcome.observation, 0.03, 0.03)
        assert info["admissible_actions"] == player.unwrapped.restore(moment)[1]["admissible_actions"]
        again = [player.step(action) for action in onward]
        assert again == expected
    with pytest.raises(ConfigError, match="simplification"):
        new_env(simplification="").unwrapped.restore(moment)
