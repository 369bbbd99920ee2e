"""What a policy is: anything that answers a batch of turns with text."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from icto_gym.dialogue import Message
from icto_gym.errors import ConfigError
from icto_gym.wrappers.react import write_response as write_response

EXPLORING_THOUGHT = "Let me try something."


class Turn(NamedTuple):
    """One question to a policy: what is the next response in this conversation?"""

    messages: Sequence[Message]
    """The conversation so far; it ends with a user message."""
    info: Mapping[str, Any]
    """What the environment said besides."""
    episode: str = ""
    """Names the episode, so that a policy may keep what it computed for earlier turns of it."""
    temperature: float = 0.0
    """0: the likeliest response; above: sampled."""
    seed: int = 0
    """Seeds whatever is drawn at random for this one response."""
    branch: int = 0
    """Which of the words that may begin the thought begins it: 0 the likeliest, 1 the second; the rest follows
    from it. Only policies with ``branches = True`` know how."""


class Usage(NamedTuple):
    """What one response took: tokens that were read and written, and the limits that it met."""

    prompt_tokens: int
    response_tokens: int
    cut: bool = False
    """The response reached the longest length before it had ended."""
    shortened: bool = False
    """The conversation was too long, and was read without its oldest observations."""
    overflowed: bool = False
    """The conversation did not fit at all, and the response is ``""``."""


LIMITS = ("cut", "shortened", "overflowed")
"""The limits of a `Usage`; a trajectory's ``extra`` says in ``cut_steps`` and so on at which steps they were met."""


class Answer(NamedTuple):
    """What a policy wrote, and what that took."""

    text: str
    usage: Usage | None = None


@runtime_checkable
class Policy(Protocol):
    """Batch-first: a graphics card likes it, an endpoint maps it over threads, one turn is a batch of one.

    A policy may also have `forget(episode: str)`, called when an episode has ended; `last_usage`, one
    `Usage` per turn of the latest `act`; `needs_expert = True`, which has environments put the
    demonstrated action into ``info``; `reads_actions = False`, which spares environments in other
    processes listing ``info["admissible_actions"]``; `branches = True`, where it heeds `Turn.branch`; and, where
    others do the computing, `submit(turn) -> Future[Answer]`, which a rollout prefers to `act`: no answer waits for
    another. `make_policy` adds `made_by`, the recipe from which Ray workers make their replicas.
    """

    name: str
    """Who acts, as trajectories record it."""

    def act(self, turns: Sequence[Turn]) -> list[str]:
        """One response per turn, in order. Equal turns give equal responses, whatever stands beside them."""
        ...


def ask(policy: Policy, turns: Sequence[Turn]) -> list[Answer]:
    """One answer per turn, with its tokens where the policy counts them.

    Raises:
        ConfigError: the policy gave something else than one text per turn.
    """
    texts = policy.act(turns)
    if len(texts) != len(turns):
        raise ConfigError(f"Policy {policy.name!r} gave {len(texts)} responses to {len(turns)} turns.")
    usages = getattr(policy, "last_usage", None) or [None] * len(turns)
    return [checked(policy, Answer(text, usage)) for text, usage in zip(texts, usages, strict=True)]


def checked(policy: Policy, answer: Answer) -> Answer:
    """The answer, if it is a text: a policy is often somebody else's code."""
    if not isinstance(answer.text, str):
        raise ConfigError(f"Policy {policy.name!r} gave {type(answer.text).__name__} {answer.text!r:.80}, not a str.")
    return answer


def derive_seed(*parts: object) -> int:
    """A seed in [0, 2**63) that depends on every part and on nothing else, on every machine."""
    text = "\0".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big") >> 1


def draw_admissible(info: Mapping[str, Any], seed: int) -> str:
    """A uniformly drawn admissible command, written as a response.

    Raises:
        ConfigError: the environment does not tell what is admissible.
    """
    admissible = info.get("admissible_actions")
    if not admissible:
        raise ConfigError(
            f"Task {info.get('task_id')!r} lists no admissible actions, so none can be drawn. "
            "Use an environment that lists them, or set epsilon to 0 and choose another policy."
        )
    return write_response(EXPLORING_THOUGHT, random.Random(seed).choice(list(admissible)))
