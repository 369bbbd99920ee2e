"""The package itself, playing beside ours."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from typing import Any

import pytest
from packages import installed

REPRODUCIBLE = "-XX:+UnlockExperimentalVMOptions -XX:hashCode=2 -XX:+UseSerialGC -Xmx512m"
TASKS = [
    ("boil", 20), ("freeze", 3), ("use-thermometer", 10), ("power-component", 3), ("test-conductivity", 7),
    ("find-animal", 5), ("grow-fruit", 2), ("chemistry-mix", 1), ("lifespan-longest-lived", 9),
    ("identify-life-stages-1", 4), ("inclined-plane-determine-angle", 30), ("mendelian-genetics-known-plant", 8),
]  # fmt: skip
ODD = ["wait1", "0", "reset task", "frobnicate the kitchen", "examine substance", "help"]


@pytest.fixture(scope="module")
def package() -> Iterator[Any]:
    scienceworld = installed("scienceworld", extra="scienceworld")
    before = os.environ.get("JDK_JAVA_OPTIONS")
    os.environ["JDK_JAVA_OPTIONS"] = REPRODUCIBLE
    try:
        made = scienceworld.ScienceWorldEnv("", envStepLimit=10**9)
    finally:
        del os.environ["JDK_JAVA_OPTIONS"]
        if before is not None:
            os.environ["JDK_JAVA_OPTIONS"] = before
    yield made
    made.close()


@pytest.mark.parametrize(("name", "variation"), TASKS)
def test_the_live_package_says_and_scores_the_same(package: Any, new_env: Any, name: str, variation: int) -> None:
    env = new_env(max_episode_steps=1000)
    observation, info = env.reset(options={"task_id": f"scienceworld/{name}/{variation}"})
    package.load(name, variation, "easy")
    theirs, their_info = package.reset()
    assert (observation, info["raw_score"]) == (theirs, their_info["score"])
    assert info["instruction"] == their_info["taskDesc"]
    chance = random.Random(variation)
    for _ in range(6):
        valid = sorted(their_info["valid"])  # only numbers while a question is open
        action = chance.choice([*ODD, *chance.sample(valid, min(12, len(valid)))])
        theirs, _, done, their_info = package.step(action)
        observation, _, terminated, _, info = env.step(action)
        assert (observation, info["raw_score"], info["moves"]) == (theirs, their_info["score"], their_info["moves"])
        assert len(info["admissible_actions"]) == (0 if terminated else len(their_info["valid"]))
        assert terminated == done
        if done:
            break
