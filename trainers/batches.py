"""From tokenized conversations to tensors.

A batch holds the conversations (rows padded on the right, or one packed row) and, for each token the policy wrote,
where the model predicts it and what it is. Only those places ever reach the output layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from trainers.packing import SegmentMap, pack, packed_length
from trainers.tokenization import Encoded

B = TypeVar("B")


@dataclass(frozen=True)
class TokenBatch:
    """N conversations with K tokens to score, laid out in R rows of T columns."""

    input_ids: Tensor
    """(R, T)."""
    position_ids: Tensor
    """(R, T), the place of each token in its own conversation."""
    attention_mask: Tensor | None
    """(R, T), 0 on padding; None where no token can see padding (right padding, packed rows)."""
    segment_map: SegmentMap | None
    """Who sees whom in a packed row; None: every row is one conversation."""
    predictors: Tensor
    """(K,), flat index into the R·T places: where the model predicts the token."""
    targets: Tensor
    """(K,), the token itself."""
    rows: Tensor
    """(K,), number of the conversation it belongs to."""
    turns: Tensor
    """(K,), number of the trained reply it belongs to."""
    size: int
    """N, the number of conversations."""

    @property
    def n_turns(self) -> int:
        """S, the largest number of trained replies in a conversation; at least 1."""
        return int(self.turns.max()) + 1 if len(self.turns) else 1

    @property
    def n_scored(self) -> int:
        """K, the tokens with a log-probability."""
        return len(self.targets)

    @property
    def n_tokens(self) -> int:
        """Tokens the model reads, padding not counted."""
        if self.attention_mask is not None:
            return int(self.attention_mask.sum())
        return self.input_ids.numel() if self.segment_map else int(self.position_ids.count_nonzero() + self.size)


@dataclass(frozen=True)
class _Conversations:
    """What batches for different losses have in common."""

    tokens: TokenBatch

    @property
    def n_tokens(self) -> int:
        """Tokens the model reads."""
        return self.tokens.n_tokens


@dataclass(frozen=True)
class PairBatch(_Conversations):
    """B pairs: conversations 0 to B-1 are the chosen sides, B to 2B-1 the rejected ones in the same order."""

    weights: Tensor
    """(B, S), weight of each pair of steps; 0 where a side has no step."""
    chosen_reference: Tensor
    """(B, S), summed log-probability of each reply under the reference, in nats."""
    rejected_reference: Tensor
    """(B, S)."""
    anchored: Tensor
    """(B,), 1 where the chosen side's likelihood is an objective too, else 0."""

    @property
    def n_scored(self) -> int:
        """Tokens with a log-probability, of both sides."""
        return self.tokens.n_scored


@dataclass(frozen=True)
class RewardBatch(_Conversations):
    """B trajectories with up to S steps each."""

    positions: Tensor
    """(B, S), flat index into the R·T places: where each reply is complete; 0 where there is none."""
    targets: Tensor
    """(B, S)."""
    mask: Tensor
    """(B, S), 1 where there is a step."""

    @property
    def n_scored(self) -> int:
        """Steps with a target."""
        return int(self.mask.sum())


@dataclass(frozen=True)
class AnswerPairBatch(_Conversations):
    """B pairs of answers, each to be valued as a whole: first the chosen sides, then the rejected in the same order."""

    positions: Tensor
    """(2B,), flat index into the R·T places: where each answer is complete."""

    @property
    def n_scored(self) -> int:
        """Answers with a reward."""
        return len(self.positions)


@dataclass(frozen=True)
class PPOBatch(_Conversations):
    """Answers with K tokens that a policy wrote, and what is learned from each of them."""

    old_logps: Tensor
    """(K,), log-probability under the policy that wrote the token, in nats."""
    advantages: Tensor
    """(K,), whitened over all answers of the iteration."""
    returns: Tensor
    """(K,), what the value head should have said before the token, in units of reward."""

    @property
    def n_scored(self) -> int:
        """K, the tokens with a log-probability."""
        return self.tokens.n_scored


def collate(
    conversations: Sequence[Encoded], *, packed: bool, pad_id: int = 0, side: Literal["right", "left"] = "right"
) -> TokenBatch:
    """Lay conversations out as one packed row or as padded rows.

    Args:
        conversations: what to score; the first token of a conversation cannot be (nothing comes before it).
        packed: encode common beginnings once, in a single row; the model must use `segment_attention`.
        pad_id: token that fills padded rows.
        side: where padded rows are filled.
    """
    if packed:
        row = pack([item.input_ids for item in conversations])
        layout = [row.input_ids], [row.position_ids], row.columns
        return _assemble(conversations, layout, None, SegmentMap(row.segments))
    length = max(len(item.input_ids) for item in conversations)
    gaps = [length - len(item.input_ids) for item in conversations]
    before = [gap if side == "left" else 0 for gap in gaps]
    rows, positions, columns, mask = [], [], [], torch.ones(len(gaps), length, dtype=torch.long)
    for number, (item, gap, first) in enumerate(zip(conversations, gaps, before, strict=True)):
        after = gap - first
        own = len(item.input_ids)
        rows.append([pad_id] * first + item.input_ids + [pad_id] * after)
        positions.append([0] * first + list(range(own)) + [0] * after)
        columns.append(list(range(number * length + first, number * length + first + own)))
        mask[number, :first] = 0
        mask[number, first + own :] = 0
    return _assemble(conversations, (rows, positions, columns), mask if side == "left" else None, None)


def _assemble(
    conversations: Sequence[Encoded], layout: tuple[Any, Any, Any], mask: Tensor | None, segment_map: SegmentMap | None
) -> TokenBatch:
    input_ids, positions, columns = layout
    scored = [
        (places[k - 1], item.input_ids[k], number, turn)
        for number, (item, places) in enumerate(zip(conversations, columns, strict=True))
        for k, turn in enumerate(item.turns)
        if turn >= 0 and k > 0
    ]
    predictors, targets, rows, turns = torch.tensor(scored, dtype=torch.long).reshape(-1, 4).unbind(1)
    return TokenBatch(
        torch.tensor(input_ids), torch.tensor(positions), mask, segment_map, predictors, targets, rows, turns,
        len(conversations),
    )  # fmt: skip


def split_to_fit(units: Sequence[Sequence[Encoded]], limit: int, *, packed: bool) -> list[list[int]]:
    """Group units (an episode, or both sides of a pair) so that no group needs more than ``limit`` tokens.

    Neighbours in sorted order share the longest beginnings, and for padded rows units of like length waste the least.
    A unit that is too long by itself is alone in its group.
    """

    def key(number: int) -> Any:
        ids = [item.input_ids for item in units[number]]
        return ids if packed else max(map(len, ids))

    def size(group: list[int]) -> int:
        ids = [item.input_ids for number in group for item in units[number]]
        return packed_length(ids) if packed else len(ids) * max(map(len, ids))

    groups: list[list[int]] = []
    for number in sorted(range(len(units)), key=key):
        if groups and size([*groups[-1], number]) <= limit:
            groups[-1].append(number)
        else:
            groups.append([number])
    return groups


def last_places(conversations: Sequence[Encoded], batch: TokenBatch, steps: int) -> Tensor:
    """Flat index of the place at which each trained reply is complete, (N, steps).

    That is where the model predicts the token that closes the reply; 0 where a conversation has fewer replies.
    """
    places = torch.zeros(len(conversations), steps, dtype=torch.long)
    flat = {}
    for predictor, row, turn in zip(batch.predictors.tolist(), batch.rows.tolist(), batch.turns.tolist(), strict=True):
        flat[row, turn] = predictor
    for (row, turn), place in flat.items():
        if turn < steps:
            places[row, turn] = place
    return places


def answer_places(conversations: Sequence[Encoded], batch: TokenBatch) -> Tensor:
    """Flat index of the place at which the last reply of each conversation is complete, (N,)."""
    places = last_places(conversations, batch, batch.n_turns)
    last = torch.tensor([item.n_turns - 1 for item in conversations])
    return places.gather(1, last.unsqueeze(1)).squeeze(1)


def to_device(batch: B, device: Any) -> B:
    """Move every tensor of a batch."""
    moved: dict[str, Any] = {}
    for item in fields(batch):  # type: ignore[arg-type]
        value = getattr(batch, item.name)
        if isinstance(value, Tensor):
            moved[item.name] = value.to(device)
        elif isinstance(value, TokenBatch):
            moved[item.name] = to_device(value, device)
    return replace(batch, **moved)  # type: ignore[type-var]
