"""``icto play``: a person types the actions."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Annotated, Any

import gymnasium as gym
import tyro

from trainers.cli.parsing import parse
from trainers.sampling import RolloutConfig, make_env, text_env

EXAMPLES = """
icto play icto/WebShop-v0                              a task drawn from the train split
icto play icto/WebShop-v0 --split dev --index 3        a counted task
icto play icto/WebShop-v0 --task-id webshop-mini/dev/0003
"""
WORDS = "Type an action, or: expert (a hint), actions (what is possible), quit."
LISTED = 40


@dataclass(frozen=True)
class PlayCommand:
    """Play a task in the terminal. ``expert`` shows what the expert would do, ``actions`` what is possible."""

    env_id: Annotated[str, tyro.conf.Positional]
    """Environment id."""
    task_id: str | None = None
    """The task; left out: drawn from the split."""
    split: str = "train"
    """Where the task is drawn or counted."""
    index: int | None = None
    """The task's place in the split, from 0."""
    seed: int | None = None
    """Draws the task."""
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """Arguments of the environment."""


def play(arguments: list[str]) -> None:
    """``icto play``."""
    command = parse(PlayCommand, arguments, prog="icto play", examples=EXAMPLES)
    env = make_env(RolloutConfig(env_id=command.env_id, env_kwargs=command.env_kwargs), expert=True)
    options: dict[str, Any] = {"split": command.split}
    if command.task_id is not None:
        options = {"task_id": command.task_id}
    elif command.index is not None:
        options["index"] = command.index
    try:
        observation, info = env.reset(seed=command.seed, options=options)
        print(
            f"{info['task_id']}\n{info['system_prompt'].strip()}\n\n{info['instruction']}\n\n{observation}\n\n{WORDS}"
        )
        _loop(env, info)
    finally:
        env.close()


def _loop(env: gym.Env[str, str], info: dict[str, Any]) -> None:
    number, over = 0, False
    while not over:
        action = _read()
        if action is None or action == "quit":
            print(f"You left after {number} actions; score {info['score']:g}.")
            return
        if action == "expert":
            print(_hint(env))
            continue
        if action == "actions":
            print(_possible(info))
            continue
        observation, reward, terminated, truncated, info = env.step(action)
        number, over = number + 1, terminated or truncated
        print(f"\n{observation}\n[action {number}, reward {reward:+.3g}, score {info['score']:.3g}]")
    ending = "success" if info["success"] else "the step limit was reached" if truncated else "no success"
    print(f"The episode is over: {ending}, score {info['score']:.3g} in {number} actions.")


def _read() -> str | None:
    """A line from the terminal, None at its end."""
    print("> ", end="", flush=True)
    line = sys.stdin.readline()
    return line.strip() if line else None


def _hint(env: gym.Env[str, str]) -> str:
    inner = text_env(env)
    actions = inner.expert_actions()
    if not actions:
        return "The expert knows no way on from here."
    reason = inner.expert_rationale(actions[0])
    return f"The expert would do: {actions[0]}" + (f"   ({reason})" if reason else "")


def _possible(info: dict[str, Any]) -> str:
    actions = info["admissible_actions"]
    if actions is None:
        return "This environment does not list them."
    shown = list(actions[:LISTED])
    more = f"\n... and {len(actions) - LISTED} more" if len(actions) > LISTED else ""
    return "\n".join(shown) + more
