"""ReAct (Yao et al., 2023): the agent writes a thought and an action, the simulator gets the action."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import gymnasium as gym

from icto_gym.dialogue import Message, to_messages
from icto_gym.errors import ConfigError
from icto_gym.trajectory import Step

_ACTION = re.compile(r"^[ \t>*_#`-]*action[ \t*_`]*:[*_]*[ \t]*", re.IGNORECASE | re.MULTILINE)
_THOUGHT = re.compile(r"^[ \t>*_#`-]*thought[ \t*_`]*:[*_]*[ \t]*", re.IGNORECASE | re.MULTILINE)
_INLINE_ACTION = re.compile(r"(?<=[\s.!?*`])Action:[*_]*[ \t]*")  # behind the thought, on its line
_OBSERVATION = re.compile(r"^[ \t>*_#`-]*observation[ \t*_`]*:", re.IGNORECASE | re.MULTILINE)


class ParsedResponse(NamedTuple):
    """A response taken apart."""

    thought: str
    action: str
    """The command; the whole response, as it stands, where there is no action in it."""
    problem: str
    """``""``, or why the response is malformed: ``"empty"``, ``"no action"``, ``"empty action"``."""


def parse_response(response: str) -> ParsedResponse:
    """Split ``Thought: ... Action: ...`` into its parts.

    The action is the first line that follows the first ``Action:`` at the start of a line, or else
    within one; what comes after it (a second action, an observation the model made up) is dropped.
    At the start of a line the label's case and Markdown marks around it do not matter. A response
    without an action is passed on whole, so that the simulator answers it as it answers anything it
    does not understand.
    """
    if not response.strip():
        return ParsedResponse("", response, "empty")
    label = _ACTION.search(response) or _INLINE_ACTION.search(response)
    if label is None:
        return ParsedResponse(_thought(response), response, "no action")
    action = _first_line(response[label.end() :])
    thought = _thought(response[: label.start()])
    if not action:
        return ParsedResponse(thought, response, "empty action")
    return ParsedResponse(thought, action, "")


def write_response(thought: str, action: str) -> str:
    """Thought and action as ReAct text; the thought's line is left out where there is none."""
    return f"Thought: {thought}\nAction: {action}" if thought else f"Action: {action}"


def _thought(text: str) -> str:
    made_up = _OBSERVATION.search(text)
    if made_up:
        text = text[: made_up.start()]
    label = _THOUGHT.search(text)
    return text[label.end() :].strip() if label else text.strip()


def _first_line(text: str) -> str:
    """The first line with something in it, without Markdown quoting, up to the next label."""
    for line in text.split("\n"):
        if _OBSERVATION.match(line) or _THOUGHT.match(line) or _ACTION.match(line):
            return ""
        stripped = line.strip()
        if stripped.strip("`* \t"):
            return _unquoted(stripped)
    return ""


def _unquoted(command: str) -> str:
    for mark in ("```", "**", "`"):
        if command.startswith(mark) and command.endswith(mark) and len(command) > 2 * len(mark):
            command = command[len(mark) : -len(mark)].strip()
    return command


class ReAct(gym.Wrapper[str, str, str, str]):
    """Takes whole responses, sends their action on, and writes the conversation into ``info``.

    ``info`` gains ``messages`` (what the policy reads next, a list of `Message`), ``thought``,
    ``action`` (of the last response, ``""`` after reset), and ``problem`` (why it was malformed, else
    ``""``). ``valid_action`` is false for a malformed response whatever the simulator made of it.
    """

    def __init__(
        self,
        env: gym.Env[str, str],
        *,
        instruction: str | None = None,
        example: Sequence[Message | tuple[str, str]] = (),
        window: int | None = None,
    ) -> None:
        """Args:
        env: a text environment.
        instruction: how to act, in place of the benchmark's own.
        example: a worked example as (role, content) messages, shown and never recorded.
        window: how many of the latest observations the conversation keeps in full; None: all.
        """
        super().__init__(env)
        if window is not None and (isinstance(window, bool) or not isinstance(window, int) or window < 1):
            raise ConfigError(f"window is {window!r}; give a number of observations from 1, or None for all.")
        self.instruction = instruction
        self.example = tuple(Message(*message) for message in example)
        self.window = window
        self.steps: list[Step] = []
        self._observation = ""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        self.steps, self._observation = [], observation
        return observation, self._with_messages(info, ParsedResponse("", "", ""))

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Carry out a whole response (named ``action`` as Gymnasium wants it)."""
        parsed = parse_response(action)
        observation, reward, terminated, truncated, info = self.env.step(parsed.action)
        valid = bool(info["valid_action"]) and not parsed.problem
        self.steps.append(Step(self._observation, action, parsed.thought, parsed.action, float(reward), valid))
        self._observation = observation
        info = {**info, "valid_action": valid}
        return observation, float(reward), terminated, truncated, self._with_messages(info, parsed)

    def _with_messages(self, info: dict[str, Any], parsed: ParsedResponse) -> dict[str, Any]:
        system_prompt = self.instruction if self.instruction is not None else info["system_prompt"]
        messages = to_messages(
            system_prompt, info["instruction"], self.steps, self._observation,
            example=self.example, window=self.window,
        )  # fmt: skip
        return {
            **info,
            "system_prompt": system_prompt,
            "messages": messages,
            "thought": parsed.thought,
            "action": parsed.action,
            "problem": parsed.problem,
        }
