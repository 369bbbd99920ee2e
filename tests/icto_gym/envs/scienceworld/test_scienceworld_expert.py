"""The demonstrated paths: to 100 points, kept on disk, explained."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from icto_gym.envs.scienceworld import expert
from icto_gym.envs.scienceworld.expert import rationale, read_progress

PATHS = [
    "scienceworld/lifespan-shortest-lived/3", "scienceworld/power-component/5",
    "scienceworld/find-non-living-thing/148", "scienceworld/grow-plant/98",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("ICTO_CACHE", str(tmp_path_factory.getbasetemp() / "icto-cache"))
    expert._remembered.cache_clear()
    yield


@pytest.mark.parametrize("task_id", PATHS)
def test_following_the_expert_earns_100_points_with_reasons(new_env: Any, task_id: str) -> None:
    """grow-plant's path answers an ambiguous request by number."""
    env = new_env(expert=True, max_episode_steps=200)
    _, info = env.reset(options={"task_id": task_id})
    total, start, reasons, ended = 0.0, info["score"], [], False
    while not ended:
        assert env.unwrapped.expert_actions()[0] == info["expert_action"]
        reasons.append(info["expert_thought"])
        _, reward, ended, _, info = env.step(info["expert_action"])
        total += reward
    assert (info["raw_score"], info["success"]) == (100.0, True)
    assert total == pytest.approx(1 - start)
    assert info["expert_action"] is None and env.unwrapped.expert_actions() is None
    assert all(reasons) and len(set(reasons)) > len(reasons) // 2


def test_looking_about_keeps_the_path_and_leaving_it_ends_the_advice(new_env: Any) -> None:
    env = new_env(expert=True)
    _, info = env.reset(options={"task_id": PATHS[1]})
    planned = env.unwrapped.expert_actions()
    for idle in ("Inventory", "nonsense", "help"):
        *_, info = env.step(idle)
        assert env.unwrapped.expert_actions() == planned
    *_, info = env.step(planned[0])
    assert env.unwrapped.expert_actions() == planned[1:]
    *_, info = env.step("teleport to kitchen")
    assert env.unwrapped.expert_actions() is None and info["expert_action"] is None
    assert env.unwrapped.expert_rationale("look around") == ""


def test_a_path_is_made_once_kept_whole_and_made_again_if_damaged(
    new_env: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = new_env()
    env.reset(options={"task_id": PATHS[0]})
    path = env.unwrapped.expert_actions()
    file = expert._cache_file(PATHS[0], "easy")
    kept = json.loads(file.read_text())
    assert kept["actions"] == path and kept["points"] == 100
    made: list[str] = []
    make = expert._make
    monkeypatch.setattr(expert, "_make", lambda *given: made.append(given[0]) or make(*given))
    expert._remembered.cache_clear()
    assert env.unwrapped.expert_actions() == path and made == []
    file.write_text(file.read_text()[:50])
    expert._remembered.cache_clear()
    assert env.unwrapped.expert_actions() == path and made == [PATHS[0]]
    assert json.loads(file.read_text()) == kept
    assert [entry.name for entry in Path(file.parent).iterdir() if entry.name.endswith(".tmp")] == []


def test_making_a_path_does_not_touch_the_running_game(new_env: Any) -> None:
    with_expert, without = new_env(expert=True), new_env()
    for env in (with_expert, without):
        env.reset(options={"task_id": "scienceworld/lifespan-shortest-lived/100"})
    for action in ("wait1", "teleport to kitchen", "look around"):
        assert with_expert.step(action)[:4] == without.step(action)[:4]


TABLE = (
    "Completed keys: \n----\nSequential Subgoals:\n----\n0\ttrue\t   GoalFind\tfocus on substance\n"
    "1\tfalse\t GoalChangeStateOfMatter\tsubstance is in a liquid state\n----\n"
    "Unordered and Optional Subgoals:\n----\n0\ttrue\tGoalInRoomWithObject\tbe in same location as water\n----\n"
)


def test_the_table_of_goals_is_read() -> None:
    assert read_progress(TABLE) == [
        ("focus on substance", True, True),
        ("substance is in a liquid state", False, True),
        ("be in same location as water", True, False),
    ]


def test_reasons_name_the_goal() -> None:
    assert rationale("go to kitchen", "be in same location as water") == (
        "I still have to be in same location as water. Going to kitchen is the next step."
    )
    assert "substance is in a liquid state" in rationale("wait1", "substance is in a liquid state")
    assert "number 3" in rationale("3", "")
    assert rationale("polish mirror", "").endswith("Doing polish mirror is the next step.")
