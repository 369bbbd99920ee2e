"""The native engine against everything that TextWorld was recorded to answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

import icto_gym  # noqa: F401
from icto_gym.envs.alfworld.engine import Game
from icto_gym.envs.alfworld.gamefile import read_game_file
from icto_gym.envs.alfworld.pddl import parse_problem
from icto_gym.envs.alfworld.textworld import TextWorldGame
from icto_gym.envs.alfworld.world import build_world


def test_the_engine_answers_every_recorded_step_as_textworld_did(recorded_games: list[dict[str, Any]]) -> None:
    steps = 0
    for recorded in recorded_games:
        game = Game(build_world(parse_problem(recorded["pddl_problem"], recorded["id"]), recorded["task"]))
        for trace in recorded["traces"]:
            begin = trace["reset"]
            seen = (game.reset(), game.admissible(), game.won)
            assert seen == (begin["feedback"], begin["admissible"], begin["won"]), (recorded["id"], trace["kind"])
            for step in trace["steps"]:
                seen = (game.step(step["command"]), game.admissible(), game.score, game.won)
                expected = (step["feedback"], step["admissible"], step["score"], step["won"])
                assert seen == expected, (recorded["id"], trace["kind"], step["command"][:80])
                steps += 1
    assert steps == sum(len(trace["steps"]) for game in recorded_games for trace in game["traces"])
    assert steps > 6000


def test_valid_is_told_as_textworld_tells_it(recorded_games: list[dict[str, Any]]) -> None:
    for recorded in recorded_games[:6]:
        game = Game(build_world(parse_problem(recorded["pddl_problem"], recorded["id"]), recorded["task"]))
        for trace in recorded["traces"]:
            game.reset()
            for step in trace["steps"]:
                possible = step["command"].strip() in game.admissible()
                game.step(step["command"])
                assert game.valid is possible
                assert game.valid is (step["feedback"] != "Nothing happens.")


def test_the_public_interface_plays_recorded_games_from_files(
    recorded_games: list[dict[str, Any]], write_game: Callable[..., Path]
) -> None:
    paths = [str(write_game(game)) for game in recorded_games]
    env = gym.make("icto/ALFWorld-v0", game_files=paths, max_episode_steps=1000)
    for index, recorded in enumerate(recorded_games):
        for trace in recorded["traces"]:
            observation, info = env.reset(options={"index": index})
            assert observation == trace["reset"]["feedback"]
            assert info["admissible_actions"] == trace["reset"]["admissible"]
            assert info["success"] == trace["reset"]["won"]
            assert info["engine"] == "native"
            before = 0
            for step in trace["steps"]:
                observation, reward, terminated, truncated, info = env.step(step["command"])
                assert observation == step["feedback"]
                assert (info["score"], info["success"], terminated) == (step["score"], step["won"], step["done"])
                assert (reward, truncated) == (step["score"] - before, False)
                assert info["admissible_actions"] == step["admissible"]
                before = step["score"]
                if terminated:  # here an ended episode stays ended
                    break


def test_a_game_won_at_the_start_ends_with_the_first_command(
    recorded_games: list[dict[str, Any]], write_game: Callable[..., Path]
) -> None:
    special = next(game for game in recorded_games if game["special"] == "won_at_start")
    env = gym.make("icto/ALFWorld-v0", game_files=[str(write_game(special))])
    _, info = env.reset(options={"index": 0})
    assert (info["success"], info["score"]) == (True, 0.0)
    observation, reward, terminated, _, info = env.step("no such thing")
    assert (observation, reward, terminated, info["score"]) == ("Nothing happens.", 1.0, True, 1.0)


def test_episodes_recorded_through_the_original_interface(
    alfworld_recordings: Path, tmp_path: Path, write_game: Callable[..., Path]
) -> None:
    entries = json.loads((alfworld_recordings / "api.json").read_text(encoding="utf-8"))
    games = {entry["path"]: entry for entry in entries if entry["kind"] == "game"}
    episodes = [entry for entry in entries if entry["kind"] == "episode"]
    compared = 0
    for episode in episodes:
        if _recorder_mixed_two_games(episode):
            continue
        compared += 1
        path = episode["reset"]["infos"]["extra.gamefile"][0]
        written = write_game(games[path], tmp_path / path.replace("/", "_"))
        env = gym.make("icto/ALFWorld-v0", game_files=[str(written)], max_episode_steps=episode["limit"])
        observation, info = env.reset(options={"index": 0})
        assert observation == episode["reset"]["obs"][0]
        assert info["admissible_actions"] == episode["reset"]["infos"]["admissible_commands"][0]
        ended = False
        for step in episode["steps"]:
            if ended:
                break
            observation, _, terminated, truncated, info = env.step(step["command"])
            assert observation == step["obs"][0]
            assert (info["score"], terminated or truncated) == (step["scores"][0], step["dones"][0])
            assert info["success"] == step["infos"]["won"][0]
            ended = terminated or truncated
    assert compared == len(episodes) - 2


def _recorder_mixed_two_games(episode: dict[str, Any]) -> bool:
    """Two recordings list places of the game played before; TextWorld itself, asked again, does not."""
    places = {
        command.removeprefix("go to ")
        for command in episode["reset"]["infos"]["admissible_commands"][0]
        if command.startswith("go to ")
    }
    return any(place not in episode["reset"]["obs"][0] for place in places)


@pytest.mark.alfworld
def test_the_textworld_engine_answers_as_recorded_too(
    recorded_games: list[dict[str, Any]], write_game: Callable[..., Path]
) -> None:
    recorded = min(recorded_games, key=lambda game: len(game["pddl_problem"]))
    game = TextWorldGame(read_game_file(write_game(recorded)))
    trace = next(trace for trace in recorded["traces"] if trace["kind"] == "states")
    assert game.reset() == trace["reset"]["feedback"]
    for step in trace["steps"][:12]:
        seen = (game.step(step["command"]), game.admissible(), game.won)
        assert seen == (step["feedback"], step["admissible"], step["won"])
    game.close()
