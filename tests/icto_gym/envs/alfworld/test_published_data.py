"""Folders laid out as the published data, made from our games."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

import icto_gym
from icto_gym.envs.alfworld import tasks as tasks_module
from icto_gym.envs.alfworld.tasks import collection
from icto_gym.errors import DataError, InvalidTask

ENV = "icto/ALFWorld-v0"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("ICTO_CACHE", str(tmp_path / "cache"))
    tasks_module._published.cache_clear()
    yield
    tasks_module._published.cache_clear()


@pytest.fixture
def published(
    tmp_path: Path, recorded_games: list[dict[str, Any]], write_game: Callable[..., Path],
    published_rules: dict[str, tuple[str, str]],
) -> Path:  # fmt: skip
    """Twelve recorded games in the published layout, every third with the old rules."""
    root = tmp_path / "alfworld"
    for number, game in enumerate(recorded_games[:12]):
        split = "valid_unseen" if game["floor_plan"] in (10, 219, 308, 424) else ("train", "valid_seen")[number % 2]
        folder = root / "json_2.1.1" / split / game["name"] / game["trial"]
        domain, grammar = published_rules["0.2" if number % 3 == 0 else "0.4"]
        write_game(game, folder, pddl_domain=domain, grammar=grammar.replace("UNKNOWN GOAL", game["task"]))
        (folder / "traj_data.json").write_text(json.dumps(game["traj_data"]))
        (folder / "initial_state.pddl").write_text(game["pddl_problem"])
    return root


def test_the_manifest_is_sorted_and_named_by_the_two_folders(
    published: Path, recorded_games: list[dict[str, Any]]
) -> None:
    every = icto_gym.tasks(ENV, data=str(published))
    assert len(every) == 12
    for split in ("train", "valid_seen", "valid_unseen"):
        ids = [task.task_id for task in icto_gym.tasks(ENV, split=split, data=str(published))]
        assert ids == sorted(ids)
        assert all(task_id.startswith(f"alfworld/{split}/") for task_id in ids)
    names = {f"{game['name']}/{game['trial']}" for game in recorded_games[:12]}
    assert {task.task_id.split("/", 2)[2] for task in every} == names
    assert icto_gym.tasks(ENV, data=str(published / "json_2.1.1")).digest == every.digest


def test_the_environment_variable_names_the_data(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALFWORLD_DATA", str(published))
    assert len(icto_gym.tasks(ENV)) == 12
    assert len(icto_gym.tasks(ENV, data="mini")) == 3827


def test_the_folder_that_importing_alfworld_names_is_no_data_while_it_is_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".cache" / "alfworld").mkdir(parents=True)
    monkeypatch.setenv("ALFWORLD_DATA", str(tmp_path / ".cache" / "alfworld"))
    assert len(icto_gym.tasks(ENV)) == 3827
    monkeypatch.setenv("ALFWORLD_DATA", str(tmp_path / "mine"))
    with pytest.raises(DataError, match="no such folder"):
        icto_gym.tasks(ENV)


def test_games_of_both_grammars_play_from_the_folders(published: Path, recorded_games: list[dict[str, Any]]) -> None:
    env = gym.make(ENV, data=str(published))
    by_name = {f"{game['name']}/{game['trial']}": game for game in recorded_games[:12]}
    old = 0
    for task in icto_gym.tasks(ENV, data=str(published)):
        game = by_name[task.task_id.split("/", 2)[2]]
        observation, info = env.reset(options={"task_id": task.task_id})
        scripted = next(trace for trace in game["traces"] if trace.get("policy") == "scripted")
        assert observation == scripted["reset"]["feedback"]
        assert (info["engine"], info["task_type"]) == ("native", game["task_type"])
        is_old = "help" not in info["admissible_actions"]
        old += is_old
        for step in scripted["steps"]:
            command = step["command"]
            if is_old:
                command = command.replace("move ", "put ").replace(" to ", " in/on ") if "move " in command else command
            _, _, terminated, _, info = env.step(command)
            assert terminated == step["done"]
            if terminated:
                break
        assert info["success"]
    assert old == 4


def test_prompt_and_commands_follow_the_games_own_grammar_unless_another_is_chosen(
    recorded_games: list[dict[str, Any]], write_game: Callable[..., Path], published_rules: dict[str, tuple[str, str]]
) -> None:
    domain, grammar = published_rules["0.2"]
    game = recorded_games[0]
    path = write_game(game, pddl_domain=domain, grammar=grammar.replace("UNKNOWN GOAL", game["task"]))
    for choice, verb in ((None, "put"), ("move", "move"), ("put", "put")):
        env = gym.make(ENV, game_files=[str(path)], action_grammar=choice, expert=True)
        observation, info = env.reset(options={"index": 0})
        assert f"\n{verb} OBJECT" in info["system_prompt"]
        terminated = False
        while not terminated:
            command = info["expert_action"]
            observation, _, terminated, _, info = env.step(command)
        assert command.startswith(verb)
        assert observation.startswith(f"You {verb} the ")


def test_upstreams_rules_decide_which_games_count(published: Path) -> None:
    base = published / "json_2.1.1" / "train"
    source = next(base.rglob("game.tw-pddl")).parent
    content = json.loads((source / "game.tw-pddl").read_text())
    trajectory = json.loads((source / "traj_data.json").read_text())

    def add(name: str, game: dict[str, Any] | None, data: dict[str, Any] | None) -> None:
        folder = base / name / "trial_1"
        folder.mkdir(parents=True)
        if game is not None:
            (folder / "game.tw-pddl").write_text(json.dumps(game))
        if data is not None:
            (folder / "traj_data.json").write_text(json.dumps(data))

    before = len(icto_gym.tasks(ENV, split="train", data=str(published)))
    add("pick_and_place_with_movable_recep-Mug-Plate-Desk-1", content, trajectory)
    add("pick_and_place_simple-AppleSliced-None-Desk-1", content, trajectory)
    add("pick_and_place_simple-A-None-Desk-1", content, {**trajectory, "task_type": "another"})
    add("pick_and_place_simple-B-None-Desk-1", None, trajectory)
    add("pick_and_place_simple-C-None-Desk-1", {**content, "solvable": False}, trajectory)
    add("pick_and_place_simple-D-None-Desk-1", {k: v for k, v in content.items() if k != "solvable"}, trajectory)
    add("pick_and_place_simple-E-None-Desk-1", content, None)
    add("pick_and_place_simple-F-None-Desk-1", content, trajectory)
    tasks_module._published.cache_clear()
    after = icto_gym.tasks(ENV, split="train", data=str(published))
    assert len(after) == before + 1
    assert any("-F-None-" in task.task_id for task in after)


def test_a_second_listing_reads_no_unchanged_game(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = icto_gym.tasks(ENV, data=str(published))
    tasks_module._published.cache_clear()
    monkeypatch.setattr(tasks_module, "_inspect", lambda name, trial: pytest.fail(f"read {name} again"))
    assert icto_gym.tasks(ENV, data=str(published)).digest == first.digest


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("{", "not valid JSON"),
        ("[]", "expected a JSON object"),
        ('{"grammar": "", "pddl_problem": ""}', "'pddl_domain' is missing"),
        ('{"grammar": "", "pddl_domain": 3, "pddl_problem": ""}', "'pddl_domain' is int"),
    ],
)
def test_a_bad_game_file_is_named(tmp_path: Path, content: str, what: str) -> None:
    path = tmp_path / "game.tw-pddl"
    path.write_text(content)
    env = gym.make(ENV, game_files=[str(path)])
    with pytest.raises(DataError, match=r"game\.tw-pddl") as caught:
        env.reset(options={"index": 0})
    assert what in str(caught.value)


def test_a_syntax_error_in_a_known_game_is_named_with_its_line(
    recorded_games: list[dict[str, Any]], write_game: Callable[..., Path]
) -> None:
    broken = recorded_games[0]["pddl_problem"].replace("(pickupable ", "(pickupable x", 1)
    path = write_game(recorded_games[0], pddl_problem=broken)
    with pytest.raises(DataError, match=r"game\.tw-pddl: pddl_problem line \d+: 'x") as caught:
        gym.make(ENV, game_files=[str(path)]).reset(options={"index": 0})
    assert "not declared" in str(caught.value)


def test_missing_files_folders_and_splits_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.tw-pddl"):
        collection(None, [str(tmp_path / "absent.tw-pddl")])
    with pytest.raises(DataError, match="no such folder"):
        collection(str(tmp_path / "absent"))
    with pytest.raises(DataError, match="folders train"):
        collection(str(tmp_path))
    with pytest.raises(InvalidTask, match="Did you mean 'valid_seen'"):
        icto_gym.tasks(ENV, split="valid_sen", data="mini")
