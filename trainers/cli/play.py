"""``icto play``: a person types the actions."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from icto_gym.wrappers import ReAct, RecordTrajectory
from trainers.cli.parsing import parse
from trainers.sampling import RolloutConfig, make_env, text_env

EXAMPLES = """
icto play icto/WebShop-v0                              a task drawn from the train split
icto play icto/WebShop-v0 --split dev --index 3        a counted task
icto play icto/WebShop-v0 --task-id webshop-mini/dev/0003
icto play icto/ALFWorld-v0 --record me.jsonl --policy anna    kept like any policy's play: judge, pair, train with it
printf 'expert\\nlook\\nquit\\n' | icto play icto/ALFWorld-v0   commands from a pipe
"""
LISTED = 40
COMMANDS = {
    "?": "these words",
    "goal": "the task again",
    "look again": "the last observation again",
    "actions [WORD]": "what is possible now, or what of it holds WORD",
    "hint": "a hint: the first word of what the expert would do",
    "expert": "what the expert would do, and why",
    "quit": "leave; an episode that has not ended is not recorded",
}
WORDS = (
    "Type an action as the instructions above show, or: "
    + ", ".join(COMMANDS)
    + ". A thought may come first:\n"
    + ("  I should look first. Action: look")
)


@dataclass(frozen=True)
class PlayCommand:
    """Play a task in the terminal, by hand.

    Type actions as the environment's instructions show. `?` lists the other words: goal, actions, hint, expert, quit.
    """

    env_id: Annotated[str, tyro.conf.Positional]
    """Environment id."""
    task_id: str | None = None
    """The task; left out: drawn from the split."""
    split: str | None = None
    """Where the task is drawn or counted; left out: train."""
    index: int | None = None
    """The task's place in the split, from 0."""
    seed: int | None = None
    """Draws the task."""
    record: Path | None = None
    """File of trajectories that the finished episode is added to."""
    policy: str = "human"
    """What the player is called in the record."""
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """Arguments of the environment."""


def play(arguments: list[str]) -> None:
    """``icto play``."""
    command = parse(PlayCommand, arguments, prog="icto play", examples=EXAMPLES)
    inner = make_env(RolloutConfig(env_id=command.env_id, env_kwargs=command.env_kwargs), expert=True)
    env = RecordTrajectory(ReAct(inner), command.record, policy=command.policy)
    options: dict[str, Any] = {"task_id": command.task_id, "split": command.split, "index": command.index}
    options = {name: value for name, value in options.items() if value is not None}
    if command.task_id is None:
        options.setdefault("split", "train")
    try:
        observation, info = env.reset(seed=command.seed, options=options)
        print(
            f"{info['task_id']}\n{info['system_prompt'].strip()}\n\n{info['instruction']}\n\n{observation}\n\n{WORDS}"
        )
        if _loop(env, observation, info) and command.record is not None:
            print(f"Recorded in {command.record} as {env.last_trajectory.trajectory_id}.")  # type: ignore[union-attr]
    finally:
        env.close()


def _loop(env: RecordTrajectory, observation: str, info: dict[str, Any]) -> bool:
    """Play until the episode is over (True) or the person leaves (False)."""
    number, over = 0, False
    while not over:
        typed = _read()
        if typed is None or typed == "quit":
            print(f"You left after {number} actions; score {info['score']:g}.")
            return False
        answer = _answer(typed, env, observation, info)
        if answer is not None:
            print(answer)
            continue
        response = typed if "action:" in typed.lower() else f"Action: {typed}"
        observation, reward, terminated, truncated, info = env.step(response)
        number, over = number + 1, terminated or truncated
        understood = "" if info["valid_action"] else ", not understood"
        print(f"\n{observation}\n[action {number}, reward {reward:+.3g}, score {info['score']:.3g}{understood}]")
    ending = "success" if info["success"] else "the step limit was reached" if truncated else "no success"
    print(f"The episode is over: {ending}, score {info['score']:.3g} in {number} actions.")
    return True


def _answer(typed: str, env: RecordTrajectory, observation: str, info: dict[str, Any]) -> str | None:
    """What is said to one of our own words; None for an action."""
    word, _, rest = typed.partition(" ")
    if not typed or typed in ("?", "help"):
        return "\n".join(f"  {name:<16}{meaning}" for name, meaning in COMMANDS.items())
    if typed == "goal":
        return str(info["instruction"])
    if typed == "look again":
        return observation
    if typed in ("expert", "hint"):
        return _hint(env, whole=typed == "expert")
    return _possible(info, rest.strip()) if word == "actions" else None


def _read() -> str | None:
    """A line from the terminal, None at its end."""
    print("> ", end="", flush=True)
    line = sys.stdin.readline()
    return line.strip() if line else None


def _hint(env: RecordTrajectory, *, whole: bool) -> str:
    inner = text_env(env)
    actions = inner.expert_actions()
    if not actions:
        return "The expert knows no way on from here."
    if not whole:
        return f"It begins with: {re.split(r'[^A-Za-z]', actions[0])[0]} ...   (about {len(actions)} actions to go)"
    reason = inner.expert_rationale(actions[0])
    return f"The expert would do: {actions[0]}" + (f"   ({reason})" if reason else "")


def _possible(info: dict[str, Any], word: str) -> str:
    if info["admissible_actions"] is None:
        return "This environment does not list them."
    actions = [action for action in info["admissible_actions"] if word.lower() in action.lower()]
    if not actions:
        return f"None of them holds {word!r}." if word else "There are none."
    more = (
        f"\n... and {len(actions) - LISTED} more; actions WORD shows those with a word" if len(actions) > LISTED else ""
    )
    return "\n".join(actions[:LISTED]) + more
