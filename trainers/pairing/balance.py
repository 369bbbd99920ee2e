"""What a set of pairs teaches: its decisions, their directions, and a limit to one-sidedness.

Pairs that all say the same thing ("this word beats that word") teach the word and not the decision:
the loss falls and the policy collapses. Everything here reads text only and knows no benchmark.
"""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from icto_gym.wrappers.react import parse_response
from trainers.records import PreferencePair

_HEAD = re.compile(r"[^\W\d_]+")
_WORD = re.compile(r"[^\W\d_]{2,}")
_COMMON_TASKS = 3
"""A command used in this many tasks is a kind of its own (such as a button); rarer ones are named by their verb."""


class Kind(NamedTuple):
    """What is decided at the first difference of a pair."""

    chosen: str
    rejected: str

    def __str__(self) -> str:
        return f"{self.chosen} over {self.rejected}"

    @property
    def opposite(self) -> Kind:
        return Kind(self.rejected, self.chosen)


class OneSidedWord(NamedTuple):
    """A word that stands on one side of the deciding responses more often than on the other."""

    word: str
    chosen_only: int
    """In how many pairs only the chosen response has it."""
    rejected_only: int


class Balance(NamedTuple):
    """A summary of what the pairs teach; counts are pairs."""

    pairs: int
    expert_chosen: int
    chosen_longer: int
    """Pairs whose deciding response is longer on the chosen side (in characters)."""
    kinds: dict[str, int]
    """``"chosen over rejected"`` -> pairs, most frequent first."""
    one_sided_words: list[OneSidedWord]


def deciding_responses(pair: PreferencePair) -> tuple[str, str]:
    """The chosen and the rejected response where the two sides first differ."""
    for chosen, rejected in zip(pair.chosen, pair.rejected, strict=False):
        if chosen.role == "assistant" and chosen != rejected:
            return chosen.content, rejected.content
    return pair.chosen[-1].content, pair.rejected[-1].content


def command_heads(pairs: Sequence[PreferencePair]) -> dict[str, str]:
    """Map every deciding command to the form that names its kind.

    A command used in several tasks stands for itself, lower case; a rarer one for its first word and
    an ellipsis; a response without a command is ``"malformed"``.
    """
    tasks: dict[str, set[str]] = defaultdict(set)
    for pair in pairs:
        for response in deciding_responses(pair):
            tasks[_command(response)].add(pair.task_id)
    return {command: _form(command, len(where) >= _COMMON_TASKS) for command, where in tasks.items()}


def _command(response: str) -> str:
    parsed = parse_response(response)
    return "" if parsed.problem else parsed.action.strip().lower()


def _form(command: str, common: bool) -> str:
    if not command:
        return "malformed"
    if common and len(command) <= 60:
        return command
    head = _HEAD.search(command)
    return f"{head.group() if head else command[:12]} …"


def decision_kinds(pairs: Sequence[PreferencePair]) -> list[Kind]:
    """What each pair decides, in order."""
    forms = command_heads(pairs)
    return [Kind(*(forms[_command(response)] for response in deciding_responses(pair))) for pair in pairs]


def one_sided_words(pairs: Iterable[PreferencePair], top: int = 10) -> list[OneSidedWord]:
    """Words of the deciding responses that stand mostly on one side, the most one-sided first.

    A word that all chosen responses have and no rejected one has is what the model will learn first.
    """
    left: Counter[str] = Counter()
    right: Counter[str] = Counter()
    for pair in pairs:
        chosen, rejected = (set(_WORD.findall(text.lower())) for text in deciding_responses(pair))
        left.update(chosen - rejected)
        right.update(rejected - chosen)
    words = (OneSidedWord(word, left[word], right[word]) for word in {*left, *right})
    return sorted(words, key=lambda word: (-abs(word.chosen_only - word.rejected_only), word.word))[:top]


def describe_balance(pairs: Sequence[PreferencePair], expert_ids: Iterable[str] = ()) -> Balance:
    """Count what the pairs teach."""
    experts = set(expert_ids)
    texts = [deciding_responses(pair) for pair in pairs]
    return Balance(
        pairs=len(pairs),
        expert_chosen=sum(pair.chosen_id in experts for pair in pairs),
        chosen_longer=sum(len(chosen) > len(rejected) for chosen, rejected in texts),
        kinds={str(kind): number for kind, number in Counter(decision_kinds(pairs)).most_common()},
        one_sided_words=one_sided_words(pairs),
    )


def limit_one_sided(
    pairs: Sequence[PreferencePair], max_share: float, seed: int = 0, of: int | None = None
) -> list[PreferencePair]:
    """Leave pairs out, by chance, until no direction of a decision leads its opposite by more than a share.

    Args:
        pairs: in any order; what stays keeps its order.
        max_share: of the pairs given; the lead of "A over B" against "B over A" may not exceed it.
            Decisions within one kind ("open … over open …") have no direction and stay.
        seed: drives the choice.
        of: the number that the share is of; None: of the pairs given.
    """
    if max_share >= 1.0 or not pairs:
        return list(pairs)
    kinds = decision_kinds(pairs)
    numbers = Counter(kinds)
    allowed = max_share * (len(pairs) if of is None else of)
    dropped: set[int] = set()
    for kind in sorted(numbers):
        excess = int(numbers[kind] - numbers[kind.opposite] - allowed + 0.999999)
        if kind.chosen != kind.rejected and excess > 0:
            members = [position for position, own in enumerate(kinds) if own == kind]
            dropped.update(random.Random(f"{seed} {kind}").sample(members, min(excess, len(members))))
    return [pair for position, pair in enumerate(pairs) if position not in dropped]


def limit_lead(
    pairs: Sequence[PreferencePair], max_share: float, seed: int = 0, of: int | None = None
) -> list[PreferencePair]:
    """Leave pairs out, by chance, until no command is chosen, or rejected, much more often than the other way.

    A command that stands on one side in most pairs that have it is learned as such, and then given (or shunned)
    wherever it can be, whatever it is set against.

    Args:
        pairs: in any order; what stays keeps its order.
        max_share: of the pairs given; how far a command's number as chosen may be from its number as rejected. Rare
            commands, which are told by their verb alone, have no lead.
        seed: drives the choice.
        of: the number that the share is of; None: of the pairs given.
    """
    if max_share >= 1.0:
        return list(pairs)
    kinds, allowed = decision_kinds(pairs), int(max_share * (len(pairs) if of is None else of) + 1e-9)
    commands = sorted({head for kind in kinds for head in kind if not head.endswith("…")})
    kept, before = set(range(len(pairs))), -1
    while len(kept) != before:  # what is left out for one command may give another a lead
        before = len(kept)
        for command in commands:
            chosen = [n for n in sorted(kept) if kinds[n].chosen == command != kinds[n].rejected]
            rejected = [n for n in sorted(kept) if kinds[n].rejected == command != kinds[n].chosen]
            longer = max(chosen, rejected, key=len)
            excess = abs(len(chosen) - len(rejected)) - allowed
            if excess > 0:
                kept.difference_update(random.Random(f"{seed} {command}").sample(longer, excess))
    return [pair for n, pair in enumerate(pairs) if n in kept]


def limit_expert_share(
    pairs: Sequence[PreferencePair], expert_ids: Iterable[str], max_share: float, seed: int = 0
) -> list[PreferencePair]:
    """Leave out pairs with the expert as chosen side, by chance, until they are at most a share of what stays."""
    experts = set(expert_ids)
    theirs = [position for position, pair in enumerate(pairs) if pair.chosen_id in experts]
    own = len(pairs) - len(theirs)
    allowed = len(theirs) if max_share >= 1.0 else int(max_share * own / (1.0 - max_share) + 1e-9)
    if len(theirs) <= allowed:
        return list(pairs)
    kept = set(random.Random(seed).sample(theirs, allowed))
    return [pair for position, pair in enumerate(pairs) if pair.chosen_id not in experts or position in kept]
