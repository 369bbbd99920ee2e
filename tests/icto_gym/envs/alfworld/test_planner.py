"""Shortest continuations, against plain search over the whole game."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from icto_gym.envs.alfworld import games
from icto_gym.envs.alfworld.engine import Game
from icto_gym.envs.alfworld.games import GameRecord
from icto_gym.envs.alfworld.pddl import parse_problem
from icto_gym.envs.alfworld.planner import Planner
from icto_gym.envs.alfworld.world import World, build_world

TASKS = {
    "pick_and_place_simple": ("Mug", "CounterTop"), "pick_clean_then_place_in_recep": ("Mug", "Cabinet"),
    "pick_heat_then_place_in_recep": ("Mug", "Cabinet"), "pick_cool_then_place_in_recep": ("Mug", "Microwave"),
    "pick_two_obj_and_place": ("Mug", "Cabinet"), "look_at_obj_in_light": ("Mug", ""),
}  # fmt: skip


def small_world(task_type: str, dice: random.Random) -> World:
    """A kitchen of a few receptacles, so that searching all of it stays possible."""
    shared = games.tables()
    target, place = TASKS[task_type]
    keep = [(kind, dice.random() < 0.6 or kind in ("Fridge", "Microwave"))
            for kind in ("Fridge", "Microwave", "SinkBasin", "CounterTop", *["Cabinet"] * 2, "SideTable")]  # fmt: skip
    spots = [f"loc_bar_{number}" for number in range(7)]
    receptacles = [
        [f"{kind}_bar__plus_0{number}_dot_00_bar__plus_01_dot_00_bar__plus_00_dot_00", kind, dice.choice(spots[1:]),
         int(shut and kind in ("Fridge", "Microwave", "Cabinet"))]
        for number, (kind, shut) in enumerate(keep)
    ]  # fmt: skip
    kinds = [target, target, dice.choice(("Apple", "Bowl")), *(["DeskLamp"] if "light" in task_type else [])]
    objects = []
    for kind in kinds:
        homes = [n for n, entry in enumerate(receptacles)
                 if kind in shared.fits[entry[1]] or (kind == "DeskLamp" and entry[1] == "SideTable")]  # fmt: skip
        objects.append((shared.object_types.index(kind), dice.choice(homes), -1))
    record = GameRecord("x", task_type, "t", target, place, "DeskLamp", 0, 0, tuple(objects), ())
    plan = {"receptacles": receptacles, "spots": spots[:1]}
    tables = games.Tables(shared.object_types, shared.receptacle_types, shared.fits, shared.abilities,
                          shared.unmovable, shared.goals, {"0": plan})  # fmt: skip
    return build_world(parse_problem(games.problem_text(tables, record), "small"), "t")


def distances(game: Game, limit: int = 12) -> Callable[[Any], int | None]:
    """Breadth-first search on every command of the engine."""

    def distance(start: Any) -> int | None:
        seen, layer = {essence(start)}, [start]
        for depth in range(limit):
            following = []
            for state in layer:
                game.restore(state)
                if game.won:
                    return depth
                for command in game.admissible(state):
                    if command.startswith(("examine", "look", "inventory", "help", "slice", "close")):
                        continue
                    game.restore(state)
                    game.step(command)
                    key = essence(game.state)
                    if key not in seen:
                        seen.add(key)
                        following.append(game.state)
            layer = following
        return None

    return distance


def essence(state: Any) -> Any:
    """What future play depends on."""
    return (state.location, state.holding, state.inside, state.opened, state.hot, state.cool, state.clean,
            state.toggled)  # fmt: skip


@pytest.mark.parametrize("task_type", sorted(TASKS))
def test_distances_and_optimal_commands_are_those_of_an_exhaustive_search(task_type: str) -> None:
    dice = random.Random(task_type)
    compared = 0
    for _ in range(3):
        world = small_world(task_type, dice)
        game, planner = Game(world), Planner(world)
        exhaustive = distances(Game(world), limit=9)
        game.reset()
        for _ in range(dice.randrange(10)):
            game.step(dice.choice([command for command in game.admissible() if not command.startswith("close")]))
        state = game.snapshot()
        truth = exhaustive(state)
        found = planner.distance(state)
        if truth is None:
            assert found is None or found >= 9
            continue
        assert found == truth
        compared += 1
        best = set()
        for command in game.admissible(state):
            game.restore(state)
            game.step(command)
            if truth and exhaustive(game.state) == truth - 1:
                best.add(command)
        assert planner.optimal_actions(state) == best
    assert compared


def test_following_optimal_commands_wins_in_the_told_number_of_steps() -> None:
    dice = random.Random(1)
    for name in list(games.entries("valid_unseen"))[::9]:
        shared = games.tables()
        record = games.record("valid_unseen", name)
        world = build_world(parse_problem(games.problem_text(shared, record), name), record.task)
        game, planner = Game(world), Planner(world)
        game.reset()
        for _ in range(dice.randrange(12)):
            game.step(dice.choice(game.admissible()))
        length = planner.distance(game.state)
        assert length is not None
        for left in range(length, 0, -1):
            assert planner.distance(game.state) == left
            best = planner.optimal_actions(game.state)
            assert best and best <= set(game.admissible())
            game.step(dice.choice(sorted(best)))
        assert game.won
        assert planner.optimal_actions(game.state) == set()


def test_a_goal_beyond_the_planner_is_unknown_not_guessed() -> None:
    record = games.record("valid_seen", list(games.entries("valid_seen"))[20])
    text = games.problem_text(games.tables(), record)
    start = text.index("(:goal")
    world = build_world(parse_problem(text[:start] + "(:goal (not (holdsAny agent1))))", "x"), "t")
    assert Planner(world).distance(world.start) is None
    assert Planner(world).optimal_actions(world.start) is None
