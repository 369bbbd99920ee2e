"""The native engine's own promises: hostile commands, states, sharing."""

from __future__ import annotations

import pickle
import random

import pytest

from icto_gym.envs.alfworld import games
from icto_gym.envs.alfworld.engine import Game
from icto_gym.envs.alfworld.gamefile import WORLDS, WorldCache, compile_game
from icto_gym.envs.alfworld.texts import enumerate_names


def new_game(index: int = 0, split: str = "valid_seen") -> Game:
    return Game(WORLDS.get(games.game_file(split, list(games.entries(split))[index])))


HOSTILE = [
    "", " ", "\n", "\0", "go to", "go to ", "go to  desk 1", "Look", "LOOK", "ｌｏｏｋ", "look\u200b", "lоok",
    "inventory now", "take", "take from", "take  from ", "move  to ", "examine", "open", "use", "heat with",
    "slice with with", "\ud800", "go to \ud800", "взять яблоко", "'; drop table", "__class__", "go to __init__",
    "take mug 1 from", "examine ", "help help", "go\u00a0to desk 1", "go to desk １",
]  # fmt: skip


@pytest.mark.parametrize("command", HOSTILE)
def test_a_hostile_command_does_nothing_and_changes_nothing(command: str) -> None:
    game = new_game()
    game.reset()
    before = game.snapshot()
    assert game.step(command) == "Nothing happens."
    assert not game.valid
    assert game.snapshot() == before


def test_a_command_of_five_megabytes_is_answered() -> None:
    game = new_game()
    game.reset()
    assert game.step("a" * 5_000_000) == "Nothing happens."
    assert game.step("go to " + "desk 1" * 800_000) == "Nothing happens."
    assert game.step(" " * 5_000_000 + "look").startswith("You are in the middle of a room.")


def test_white_space_around_a_command_does_not_count() -> None:
    game = new_game()
    game.reset()
    assert game.step("\u3000 look\u00a0\n").startswith("You are in the middle of a room.")
    assert game.valid


def test_a_snapshot_continues_exactly() -> None:
    game, dice = new_game(3), random.Random(0)
    game.reset()
    for _ in range(30):
        game.step(dice.choice(game.admissible()))
    state = game.snapshot()
    commands = [dice.choice(game.admissible())]
    first = [game.step(commands[0])]
    for _ in range(30):
        commands.append(dice.choice(game.admissible()))
        first.append(game.step(commands[-1]))
    end = game.snapshot()
    game.restore(state)
    assert [game.step(command) for command in commands] == first
    assert game.snapshot() == end
    assert pickle.loads(pickle.dumps(state)) == state


def test_asking_for_the_admissible_commands_of_a_snapshot_leaves_the_game_alone() -> None:
    game = new_game()
    game.reset()
    start, listed = game.snapshot(), game.admissible()
    game.step(listed[0])
    here = game.snapshot()
    assert game.admissible(start) == listed
    assert game.snapshot() is here


def test_games_of_one_problem_share_its_world_and_nothing_else() -> None:
    first, second = new_game(5), new_game(5)
    assert first.world is second.world
    first.reset(), second.reset()
    first.step(first.admissible()[0])
    assert second.snapshot() == second.world.start


def test_the_cache_of_worlds_keeps_the_latest() -> None:
    cache = WorldCache(size=2)
    files = [games.game_file("valid_seen", name) for name in list(games.entries("valid_seen"))[:3]]
    worlds = [cache.get(file) for file in files]
    assert cache.get(files[2]) is worlds[2]
    assert cache.get(files[0]) is not worlds[0]
    assert compile_game(files[0]).start == worlds[0].start


def test_play_goes_on_after_the_goal_and_the_score_falls_back() -> None:
    from icto_gym.envs.alfworld.planner import Planner

    for index, name in enumerate(games.entries("valid_seen")):
        if name.startswith("pick_and_place"):
            game = new_game(index)
            break
    game.reset()
    for command in Planner(game.world).plan(game.state) or []:
        game.step(command)
    assert (game.won, game.score) == (True, 1)
    thing, place = command.removeprefix("move ").split(" to ")
    assert game.step(f"take {thing} from {place}") == f"You pick up the {thing} from the {place}."
    assert (game.won, game.score) == (False, 0)


def test_lists_always_have_a_comma_before_and() -> None:
    lists = [[], ["x"], ["x", "y"], ["x", "y", "z"]]
    assert [enumerate_names(names) for names in lists] == ["nothing", "x", "x, and y", "x, y, and z"]
