"""The honest expert: it wins, it says why, and it knows no more than it was told."""

from __future__ import annotations

from collections import Counter
from typing import Any

import gymnasium as gym
import pytest

import icto_gym
from icto_gym.envs.alfworld import games
from icto_gym.envs.alfworld.engine import Game
from icto_gym.envs.alfworld.expert import Expert, Memory, begin, demonstrate, listed
from icto_gym.envs.alfworld.gamefile import compile_game
from icto_gym.envs.alfworld.outline import kept_in, outline
from icto_gym.envs.alfworld.pddl import parse_problem
from icto_gym.envs.alfworld.world import World, build_world


def commands_to_win(world: World, limit: int = 40) -> int | None:
    game = Game(world)
    game.reset()
    goal = outline(world)
    assert goal is not None
    choices = demonstrate(Expert(goal, kept_in(world)), begin(game.admissible()), game, limit)
    assert all(choice.thought for choice in choices)
    return len(choices) if game.won else None


@pytest.mark.parametrize("split", ["valid_seen", "valid_unseen"])
def test_it_solves_95_percent_of_each_task_type_in_40_steps(split: str) -> None:
    won: Counter[str] = Counter()
    played: Counter[str] = Counter()
    for name, entry in games.entries(split).items():
        played[entry.task_type] += 1
        won[entry.task_type] += commands_to_win(compile_game(games.game_file(split, name))) is not None
    assert len(played) == 6
    assert all(won[task_type] >= 0.95 * count for task_type, count in played.items())


def test_it_solves_the_recorded_games_too(recorded_games: list[dict[str, Any]]) -> None:
    lost = []
    for recorded in recorded_games:
        world = build_world(parse_problem(recorded["pddl_problem"], recorded["id"]), recorded["task"])
        if commands_to_win(world) is None:
            lost.append(recorded["id"])
    assert len(lost) <= 1


def test_equal_answers_give_equal_commands_wherever_the_object_is() -> None:
    """Two games that differ only in a place not yet looked into are played the same up to there."""
    record = next(
        games.record("valid_seen", name) for name in games.entries("valid_seen") if name.startswith("pick_and_place")
    )
    shared = games.tables()
    plan = shared.plans[str(record.plan)]["receptacles"]
    kind = shared.object_types.index(record.target)
    played = []
    for place in (n for n, entry in enumerate(plan) if record.target in shared.fits[entry[1]]):
        objects = tuple(
            (number, place, -1) if number == kind else (number, where, spot)
            for number, where, spot in record.objects
            if number != kind or where >= 0
        )
        moved = games.GameRecord(**{
            **{name: getattr(record, name) for name in record.__dataclass_fields__}, "objects": objects, "nested": (),
        })  # fmt: skip
        world = build_world(parse_problem(games.problem_text(shared, moved), "x"), moved.task)
        game, goal = Game(world), outline(world)
        if game.won:
            continue
        assert goal is not None
        opening = game.reset()
        answers, memory = [opening], begin(game.admissible())
        expert = Expert(goal, kept_in(world))
        commands = []
        while not game.won and len(commands) < 40:
            choice = expert.decide(memory, game.admissible())
            if choice is None:
                break
            commands.append(choice.command)
            answers.append(game.step(choice.command))
            memory.observe(choice.command, answers[-1])
        played.append((answers, commands))
    assert len(played) > 3
    for answers, commands in played:
        for others, other_commands in played:
            for step, command in enumerate(commands):
                if answers[: step + 1] != others[: step + 1] or step >= len(other_commands):
                    break
                assert command == other_commands[step]


def test_the_environment_demonstrates_with_a_reason_at_each_step() -> None:
    env = gym.make("icto/ALFWorld-v0", data="mini", expert=True)
    for index in (0, 40, 80, 130):
        _, info = env.reset(options={"split": "valid_seen", "index": index})
        terminated = truncated = False
        while not (terminated or truncated):
            assert info["expert_action"] in info["admissible_actions"]
            assert 10 < len(info["expert_thought"]) < 160
            planned = env.unwrapped.expert_actions()
            assert planned[0] == info["expert_action"]
            _, _, terminated, truncated, info = env.step(info["expert_action"])
            if not terminated:
                assert env.unwrapped.expert_actions() == planned[1:]
        assert info["success"]
        assert (info["expert_action"], info["expert_thought"]) == (None, None)


def test_it_goes_on_from_wherever_a_policy_left_the_game() -> None:
    env = gym.make("icto/ALFWorld-v0", data="mini", expert=True, max_episode_steps=200)
    won = 0
    for index in range(0, 140, 10):
        _, info = env.reset(options={"split": "valid_seen", "index": index})
        env.action_space.seed(index)
        dice = __import__("random").Random(index)
        terminated = False
        for _ in range(12):
            if not terminated:
                _, _, terminated, _, info = env.step(dice.choice(info["admissible_actions"]))
        for _ in range(60):
            if terminated or not info["expert_action"]:
                break
            _, _, terminated, _, info = env.step(info["expert_action"])
        won += info["success"]
    assert won >= 13


def test_memory_reads_answers_of_both_wordings() -> None:
    memory = Memory(("desk 1", "drawer 1", "shelf 2"))
    memory.observe("go to desk 1", "You arrive at loc 7. On the desk 1, you see a mug 2, and a pen 1.")
    assert (memory.here, memory.contents) == ("desk 1", {"desk 1": ["mug 2", "pen 1"]})
    memory.observe("take mug 2 from desk 1", "You pick up the mug 2 from the desk 1.")
    assert (memory.held, memory.contents["desk 1"]) == ("mug 2", ["pen 1"])
    memory.observe("go to drawer 1", "You arrive at drawer 1. The drawer 1 is closed.")
    assert "drawer 1" in memory.closed
    memory.observe("open drawer 1", "You open the drawer 1. The drawer 1 is open. In it, you see nothing.")
    assert (memory.closed, memory.contents["drawer 1"]) == (set(), [])
    memory.observe("put mug 2 in/on drawer 1", "You put the mug 2 in/on the drawer 1.")
    assert (memory.held, memory.contents["drawer 1"], memory.where("mug 2")) == ("", ["mug 2"], "drawer 1")
    assert listed("a mug 2, a mug 1, and a plate 1") == ["mug 2", "mug 1", "plate 1"]


def test_the_expert_knows_the_goal_by_its_structure() -> None:
    for name in games.entries("valid_unseen"):
        record = games.record("valid_unseen", name)
        goal = outline(compile_game(games.game_file("valid_unseen", name)))
        assert goal is not None
        assert goal.target_kinds == (record.target.lower(),)
        assert goal.count == (2 if record.task_type == "pick_two_obj_and_place" else 1)
        assert goal.place_kinds == ((record.place.lower(),) if record.place else ())
        assert goal.lamp_kinds == ((record.toggle.lower(),) if record.toggle else ())
    assert icto_gym.tasks("icto/ALFWorld-v0", split="valid_unseen", data="mini")
