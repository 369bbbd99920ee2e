"""The native engine beside live TextWorld, on games and rules that were never recorded."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import re
import subprocess
import sys
from typing import Any

import gymnasium as gym
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from icto_gym.envs.alfworld import games
from icto_gym.envs.alfworld.engine import Game
from icto_gym.envs.alfworld.gamefile import GameFile, compile_game, game_from_mapping
from icto_gym.envs.alfworld.textworld import TextWorldGame
from icto_gym.errors import DataError

pytestmark = pytest.mark.alfworld

NOISE = (
    "  look ",
    "LOOK",
    "go  to desk 1",
    "take",
    "put x in/on y",
    "move mug 1 to",
    "",
    "help ",
    "ｌｏｏｋ",
    "go to ",
)
FRESH_GAMES = int(os.environ.get("ICTO_FRESH_GAMES", "5"))
HANDLING = ("take", "move", "put", "heat", "cool", "clean", "slice", "use", "open", "close")


def fresh_game(dice: random.Random) -> games.GameRecord:
    """A game that is in no list: the room and goal of one, with other things in other places."""
    shared = games.tables()
    known = games.record("train", dice.choice(list(games.entries("train"))))
    plan = shared.plans[str(known.plan)]
    kinds = [known.target, known.target, *(dice.choice(plan["kinds"]) for _ in range(dice.randrange(3, 22)))]
    objects = []
    for kind in kinds + ["DeskLamp"] * bool(known.toggle):
        homes = [n for n, entry in enumerate(plan["receptacles"]) if kind in shared.fits.get(entry[1], ())]
        homes = homes or [0] * (kind == "DeskLamp")
        spot = dice.choice((-1, -1, dice.randrange(len(plan["spots"]))))
        objects.append((shared.object_types.index(kind), dice.choice(homes) if homes else -1, spot))
    nested = ((0, 1),) if dice.random() < 0.5 else ()
    return dataclasses.replace(known, name="fresh", objects=tuple(objects), nested=nested)


def with_strange_facts(problem: str, dice: random.Random) -> str:
    """States in which no generated game begins, but a legal problem can."""
    start = problem.index("(:init") + len("(:init")
    facts = problem[start : problem.index("(:goal")]

    def names(predicate: str) -> list[str]:
        return re.findall(rf"\({predicate} (\S+?)[ )]", facts)

    things, places = names("objectType"), re.findall(r"\(receptacleAtLocation \S+ (\S+)\)", facts)
    marks = [("opened", names("openable")), ("isOn", names("toggleable")), ("isToggled", names("toggleable"))]
    marks += [(mark, things) for mark in ("isHot", "isCool", "isClean", "isSliced")]
    added = [f"({mark} {name})" for mark, pool in marks for name in pool if dice.random() < 0.15]
    added += [f"(objectAtLocation {dice.choice(things)} {dice.choice(places)})" for _ in range(dice.randrange(3))]
    if dice.random() < 0.3:
        added.append(f"(inReceptacle {dice.choice(things)} {dice.choice(names('receptacleType'))})")
    problem = problem[:start] + "\n" + "\n".join(added) + problem[start:]
    if dice.random() < 0.3:
        problem = re.sub(r"\(atLocation agent1 \S+\)", f"(atLocation agent1 {dice.choice(places)})", problem)
    return problem


def pair(rules: tuple[str, str], task: str, problem: str) -> tuple[Game, TextWorldGame] | None:
    """The same game in both engines; None if its goal is out of reach, on which both must agree."""
    content = {
        "pddl_domain": rules[0],
        "grammar": rules[1].replace("UNKNOWN GOAL", task),
        "pddl_problem": problem,
    }
    game = game_from_mapping(content, "fresh")
    try:
        native = Game(compile_game(game))
    except DataError:
        with pytest.raises(DataError):
            TextWorldGame(game)
        return None
    return native, TextWorldGame(game)


def assert_same_play(native: Game, original: TextWorldGame, dice: random.Random, steps: int) -> None:
    assert (native.reset(), native.admissible(), native.won) == (
        original.reset(), original.admissible(), original.won
    )  # fmt: skip
    for _ in range(steps):
        possible = native.admissible()
        handling = [command for command in possible if command.startswith(HANDLING)]
        command = dice.choice(handling) if handling and dice.random() < 0.6 else dice.choice((*possible, *NOISE))
        seen = (native.step(command), native.admissible(), native.won, native.valid)
        assert seen == (original.step(command), original.admissible(), original.won, original.valid), command


@settings(max_examples=FRESH_GAMES, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32))
def test_fresh_games_play_the_same_in_both_engines(original_rules: tuple[str, str], seed: int) -> None:
    dice = random.Random(seed)
    record = fresh_game(dice)
    problem = games.problem_text(games.tables(), record)
    engines = pair(original_rules, record.task, with_strange_facts(problem, dice) if seed % 2 else problem)
    if engines:
        assert_same_play(*engines, dice, steps=40)
        engines[1].close()


@pytest.mark.parametrize("name", ["0.2", "2.1.2", "0.4"])
def test_all_published_rules_play_the_same_in_both_engines(
    published_rules: dict[str, tuple[str, str]], name: str
) -> None:
    built_in = games.game_file("valid_unseen", list(games.entries("valid_unseen"))[60])
    engines = pair(published_rules[name], built_in.task, built_in.problem)
    assert engines
    assert engines[0].world.rules.name == name
    assert_same_play(*engines, random.Random(name), steps=40)
    engines[1].close()


def test_unknown_rules_go_to_textworld_and_info_says_so(original_rules: tuple[str, str], tmp_path: Any) -> None:
    built_in = games.game_file("valid_seen", next(iter(games.entries("valid_seen"))))
    domain, grammar = original_rules
    content = {
        "pddl_domain": domain,
        "grammar": grammar.replace("UNKNOWN GOAL", built_in.task).replace("You close the", "You shut the"),
        "pddl_problem": built_in.problem,
    }
    path = tmp_path / "game.tw-pddl"
    path.write_text(json.dumps(content))
    env = gym.make("icto/ALFWorld-v0", game_files=[str(path)], expert=True)
    observation, info = env.reset(options={"index": 0})
    assert observation.startswith("-= Welcome to TextWorld, ALFRED! =-")
    assert (info["engine"], info["expert_action"], info["subgoals"]) == ("textworld", None, {})
    assert env.unwrapped.optimal_actions() is None
    shut = next(command for command in info["admissible_actions"] if command.startswith("go to drawer"))
    env.step(shut)
    env.step(shut.replace("go to", "open"))
    snapshot = env.unwrapped.snapshot()
    answer = env.step(shut.replace("go to", "close"))[0]
    assert answer.startswith("You shut the drawer")
    env.unwrapped.restore(snapshot)
    assert env.step(shut.replace("go to", "close"))[0] == answer
    env.close()


def test_the_textworld_engine_is_a_choice_and_reasons_with_the_native_model() -> None:
    env = gym.make("icto/ALFWorld-v0", data="mini", engine="textworld", expert=True)
    native = gym.make("icto/ALFWorld-v0", data="mini", expert=True)
    options = {"split": "valid_seen", "index": 3}
    (seen, info), (expected, native_info) = env.reset(options=options), native.reset(options=options)
    assert (info.pop("engine"), native_info.pop("engine")) == ("textworld", "native")
    assert (seen, info) == (expected, native_info)
    terminated = False
    while not terminated:
        action = info["expert_action"]
        seen, _, terminated, _, info = env.step(action)
        expected, _, _, _, native_info = native.step(action)
        info.pop("engine"), native_info.pop("engine")
        assert (seen, info) == (expected, native_info)
    env.close()


def test_textworld_leaves_the_process_as_it_was() -> None:
    """In a fresh process: most of it happens at the first import."""
    code = (
        "import contextlib, io, os, sys, threading\n"
        "from icto_gym.envs.alfworld import games\n"
        "from icto_gym.envs.alfworld.textworld import TextWorldGame\n"
        "def process(): return list(sys.argv), sys.stdout, threading.active_count(), dict(os.environ)\n"
        "before, heard = process(), io.StringIO()\n"
        "with contextlib.redirect_stdout(heard):\n"
        "    names = list(games.entries('valid_seen'))[7:9]\n"
        "    for name in names:\n"
        "        game = TextWorldGame(games.game_file('valid_seen', name))\n"
        "        game.reset(); game.step('look'); game.close(); game.close()\n"
        "print([heard.getvalue() == '', *(a == b for a, b in zip(process(), before))])\n"
    )
    env = {name: value for name, value in os.environ.items() if name != "ALFWORLD_DATA"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=env)
    assert (done.stdout.strip(), done.returncode) == (str([True] * 5), 0), done.stderr


def test_textworld_refuses_a_broken_game_by_name(original_rules: tuple[str, str]) -> None:
    with pytest.raises(DataError, match=r"bad\.tw-pddl"):
        TextWorldGame(GameFile("bad.tw-pddl", "(define (problem x)", *original_rules))
