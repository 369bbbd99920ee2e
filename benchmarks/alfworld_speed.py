"""Steps and resets per second beside TextWorld, in one run on the same games and commands.

    python benchmarks/alfworld_speed.py --out benchmarks/results/alfworld_speed.json

TextWorld plays first, as installed; then the native engine, then the native engine through the whole Gymnasium
stack. The admissible commands are read at every step. Everything is CPU time of this process, so that other
jobs on the machine count little. Texts and commands of both are compared on the way.

Two resets are told apart. *Another game*: TextWorld loads and resets, as `AlfredTWEnv` does at each episode; ours
parses and compiles a game it has never seen. *The same game again*: TextWorld resets; ours goes back to a state
it keeps.
"""

from __future__ import annotations

import argparse
import platform
import random
import time
from pathlib import Path
from typing import Any

import gymnasium as gym

import icto_gym  # noqa: F401
from icto_gym.envs.alfworld import games
from icto_gym.envs.alfworld.engine import Game
from icto_gym.envs.alfworld.gamefile import GameFile, compile_game, game_from_mapping
from icto_gym.envs.alfworld.textworld import TextWorldGame, original_rules, with_original_rules
from icto_gym.files import write_json

HANDLING = ("take", "move", "heat", "cool", "clean", "slice", "use", "open", "close")


def chosen_games(count: int) -> list[GameFile]:
    """Games of the unseen rooms, spread over the list, as game files."""
    names = list(games.entries("valid_unseen"))
    files = [games.game_file("valid_unseen", names[(2 * i + 1) * len(names) // (2 * count)]) for i in range(count)]
    return [game_from_mapping(with_original_rules(file), file.source) for file in files]


def script(file: GameFile, steps: int) -> list[str]:
    """Random admissible commands, weighted towards handling things."""
    game, dice, commands = Game(compile_game(file)), random.Random(file.source), []
    game.reset()
    for _ in range(steps):
        possible = game.admissible()
        handling = [command for command in possible if command.startswith(HANDLING)]
        commands.append(dice.choice(handling if handling and dice.random() < 0.5 else possible))
        game.step(commands[-1])
    return commands


def play_original(files: list[GameFile], scripts: list[list[str]]) -> tuple[dict[str, float], list[Any]]:
    """TextWorld as installed, one environment for all games as upstream uses it."""
    import textworld
    from alfworld.agents.environment.alfred_tw_env import AlfredDemangler
    from textworld.envs.pddl.pddl import PddlEnv

    infos = textworld.EnvInfos(won=True, admissible_commands=True)
    env = AlfredDemangler(PddlEnv(infos), shuffle=False)
    seconds = {"step": 0.0, "other_game": 0.0, "same_game": 0.0}
    answers = []
    for file, commands in zip(files, scripts, strict=True):
        started = time.process_time()
        env.load(with_original_rules(file))
        env.reset()
        seconds["other_game"] += time.process_time() - started
        started = time.process_time()
        state = env.reset()
        seconds["same_game"] += time.process_time() - started
        answers.append((state.feedback, list(state["admissible_commands"])))
        started = time.process_time()
        for command in commands:
            state, _, _ = env.step(command)
            answers.append((state.feedback, list(state["admissible_commands"])))
        seconds["step"] += time.process_time() - started
    return seconds, answers


def play_native(files: list[GameFile], scripts: list[list[str]], repeats: int) -> tuple[dict[str, float], list[Any]]:
    """The native engine, each repeat on a game compiled anew; the seconds are those of one repeat."""
    seconds = {"step": 0.0, "other_game": 0.0, "same_game": 0.0}
    answers: list[Any] = []
    for file, commands in zip(files, scripts, strict=True):
        game = Game(compile_game(file))
        answers.append((game.reset(), game.admissible()))
        answers += [(game.step(command), game.admissible()) for command in commands]
        for _ in range(repeats):
            started = time.process_time()
            game = Game(compile_game(file))
            game.reset()
            loaded = time.process_time()
            game.reset()
            ready = time.process_time()
            for command in commands:
                game.step(command)
                game.admissible()
            seconds["other_game"] += (loaded - started) / repeats
            seconds["same_game"] += (ready - loaded) / repeats
            seconds["step"] += (time.process_time() - ready) / repeats
    return seconds, answers


def play_memoised(files: list[GameFile], scripts: list[list[str]]) -> dict[str, float]:
    """Our TextWorld engine: the original with its parsing remembered."""
    seconds = {"step": 0.0, "other_game": 0.0, "same_game": 0.0}
    for file, commands in zip(files, scripts, strict=True):
        started = time.process_time()
        game = TextWorldGame(file)
        game.reset()
        seconds["other_game"] += time.process_time() - started
        started = time.process_time()
        game.reset()
        seconds["same_game"] += time.process_time() - started
        started = time.process_time()
        for command in commands:
            game.step(command)
            game.admissible()
        seconds["step"] += time.process_time() - started
        game.close()
    return seconds


def play_stack(count: int, steps: int) -> float:
    """Seconds per step of `gymnasium.make` with everything around it, the admissible commands read."""
    env = gym.make("icto/ALFWorld-v0", data="mini", split="valid_unseen", max_episode_steps=10**9)
    dice, done, spent = random.Random(0), 0, 0.0
    for index in range(count):
        _, info = env.reset(options={"index": index})
        for _ in range(steps):
            action = dice.choice(info["admissible_actions"])
            started = time.process_time()
            _, _, terminated, _, info = env.step(action)
            len(info["admissible_actions"])
            spent += time.process_time() - started
            done += 1
            if terminated:
                break
    return spent / done


def snapshot_seconds(file: GameFile, repeats: int = 20_000) -> tuple[float, float]:
    """Seconds per snapshot and per restore of the engine."""
    game = Game(compile_game(file))
    game.reset()
    started = time.process_time()
    for _ in range(repeats):
        state = game.snapshot()
    middle = time.process_time()
    for _ in range(repeats):
        game.restore(state)
    return (middle - started) / repeats, (time.process_time() - middle) / repeats


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--games", type=int, default=6)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    original_rules()
    files = chosen_games(arguments.games)
    scripts = [script(file, arguments.steps) for file in files]
    original, expected = play_original(files, scripts)
    native, answers = play_native(files, scripts, arguments.repeats)
    memoised = play_memoised(files, scripts)
    steps = arguments.games * arguments.steps
    snapshot, restore = snapshot_seconds(files[0])
    result = {
        "games": arguments.games,
        "steps": steps,
        "differences": sum(ours != theirs for ours, theirs in zip(answers, expected, strict=True)),
        "steps_per_cpu_second": {
            "textworld": round(steps / original["step"], 1),
            "textworld_memoised": round(steps / memoised["step"], 1),
            "native": round(steps / native["step"]),
            "native_through_gymnasium": round(1 / play_stack(20, 200)),
        },
        "reset_milliseconds": {
            kind: {
                "textworld": round(1000 * original[kind] / arguments.games, 3),
                "textworld_memoised": round(1000 * memoised[kind] / arguments.games, 3),
                "native": round(1000 * native[kind] / arguments.games, 4),
            }
            for kind in ("other_game", "same_game")
        },
        "ratio": {
            "step": round(original["step"] / native["step"]),
            "reset_other_game": round(original["other_game"] / native["other_game"]),
            "reset_same_game": round(original["same_game"] / native["same_game"]),
        },
        "snapshot_microseconds": round(1e6 * snapshot, 3),
        "restore_microseconds": round(1e6 * restore, 3),
        "python": platform.python_version(),
        "machine": platform.machine(),
    }
    for key, value in result.items():
        print(f"{key}: {value}")
    if arguments.out:
        write_json(arguments.out, result)


if __name__ == "__main__":
    main()
