"""A policy under contrasting instructions: one more sentence in how to act, which no record shows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from icto_gym.dialogue import Message, to_messages
from trainers.pairing.prompt import PromptContrast, PromptPairingConfig, Question, prompted
from trainers.policies.base import Answer, Policy, Turn, Usage, ask, derive_seed

BATCH = 16
"""Episodes that are answered together."""
RETRIES = 5
"""How often one answer is asked for again, at most, as RLCD publishes."""


class PromptedPolicy:
    """Answers as another policy would with one sentence more in its instructions."""

    def __init__(self, policy: Policy, config: PromptPairingConfig, side: int) -> None:
        """Args:
        policy: who answers.
        config: the sentences; each episode draws its own, the same one for both sides.
        side: 0 for the positive sentence, 1 for the negative one.
        """
        self.policy, self.config, self.side = policy, config, side
        self.name = f"{policy.name}-{('positive', 'negative')[side]}"
        self.last_usage = None

    def act(self, turns: Sequence[Turn]) -> list[str]:
        """One response per turn, in order."""
        answers = self.policy.act(
            [turn._replace(messages=prompted(turn.messages, self._sentence(turn))) for turn in turns]
        )
        self.last_usage = getattr(self.policy, "last_usage", None)
        return answers

    def forget(self, episode: str) -> None:
        """The episode has ended."""
        getattr(self.policy, "forget", lambda name: None)(episode)

    def _sentence(self, turn: Turn) -> str:
        episode = turn.info["task_id"], turn.episode.rpartition("#")[2]
        number = derive_seed(self.config.seed, *episode) % len(self.config.sentences)
        return self.config.sentences[number][self.side]


class Shown(NamedTuple):
    """What a policy sees besides an episode's own messages, when it acts."""

    window: int | None = None
    """How many of the latest observations stay in full; None: all."""
    example: Sequence[Message] = ()
    """Messages of a worked example."""


def answer_twice(
    policy: Policy, asked: Sequence[Question], config: PromptPairingConfig, shown: Shown | None = None
) -> Iterator[PromptContrast]:
    """Sample each turn under both instructions, the turns of an episode in order, several episodes at a time.

    An episode keeps its name over its turns, so a policy that keeps what it has read reads each history once per side.
    A history is written as it was when the episode was played (``shown``). An answer that is empty or was cut at the
    longest length is asked for again with another seed, up to `RETRIES` times.
    """
    episodes: dict[str, list[Question]] = defaultdict(list)
    for item in asked:
        episodes[item.trajectory.trajectory_id].append(item)
    names = list(episodes)
    for first in range(0, len(names), BATCH):
        group = [episodes[name] for name in names[first : first + BATCH]]
        for place in range(max(map(len, group))):
            now = [items[place] for items in group if place < len(items)]
            turns = [_turn(item, side, config, shown or Shown()) for item in now for side in (0, 1)]
            answers = _persist(policy, turns)
            for number, item in enumerate(now):
                yield _contrast(item, *answers[2 * number : 2 * number + 2])
        for turn in [_turn(items[0], side, config, shown or Shown()) for items in group for side in (0, 1)]:
            getattr(policy, "forget", lambda name: None)(turn.episode)


def _persist(policy: Policy, turns: Sequence[Turn]) -> list[list[Answer]]:
    """All answers to each turn, of which the last counts."""
    tried = [[answer] for answer in ask(policy, turns)]
    for number in range(RETRIES):
        left = [place for place, answers in enumerate(tried) if _may_end(answers[-1])]
        if not left:
            break
        again = [turns[place]._replace(seed=derive_seed(turns[place].seed, "again", number)) for place in left]
        for place, answer in zip(left, ask(policy, again), strict=True):
            tried[place].append(answer)
    return tried


def _may_end(answer: Answer) -> bool:
    """It is not complete, and another one may be: a conversation without room for one stays as long as it is."""
    return not _complete(answer) and not (answer.usage is not None and answer.usage.overflowed)


def _complete(answer: Answer) -> bool:
    return bool(answer.text.strip()) and not (answer.usage is not None and answer.usage.cut)


def _contrast(item: Question, positive: Sequence[Answer], negative: Sequence[Answer]) -> PromptContrast:
    """The two answers with what all of them cost, since a stage that is resumed knows only what its records say."""
    usages = [answer.usage or Usage(0, 0) for answer in (*positive, *negative)]
    return PromptContrast(
        item.trajectory.trajectory_id, item.step, item.sentence, positive[-1].text, negative[-1].text,
        prompt_tokens=sum(usage.prompt_tokens for usage in usages),
        response_tokens=sum(usage.response_tokens for usage in usages),
        positive_complete=_complete(positive[-1]), negative_complete=_complete(negative[-1]),
        asked_again=len(usages) - 2,
    )  # fmt: skip


def _turn(item: Question, side: int, config: PromptPairingConfig, shown: Shown) -> Turn:
    trajectory, step = item.trajectory, item.step
    history = to_messages(
        trajectory.system_prompt, trajectory.instruction, trajectory.steps[:step], trajectory.steps[step].observation,
        example=shown.example, window=shown.window,
    )  # fmt: skip
    messages = prompted(history, config.sentences[item.sentence][side])
    name = f"{trajectory.trajectory_id}{'+-'[side]}"
    info = {"task_id": trajectory.task_id, "instruction": trajectory.instruction}
    return Turn(messages, info, name, config.temperature, derive_seed(config.seed, name, step))
