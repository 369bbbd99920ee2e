"""Several conversations as one row: what they share is encoded once, what differs hangs on it as branches.

The row of a pair is ``[shared prompt | chosen | rejected]``. In general the conversations of a batch form a tree of
segments: the system prompt that all have in common, below it the task of some, below that single episodes. Every token
sees the segments above it and the earlier tokens of its own, and has the position it would have in its own
conversation, so each conversation gets exactly the numbers it would get alone. There is no padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from trainers.models.attention import fused_kernel_fits, span_attention

MIN_SHARED = 16  # shorter stretches in common are encoded twice: each segment costs a call per layer
IMPLEMENTATION = "icto_segments"


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of columns; the conversation before it is that of its ancestors, outermost first."""

    start: int
    end: int
    ancestors: tuple[tuple[int, int], ...] = ()
    """Columns (start, end) of the segments above."""


@dataclass(slots=True)
class PackedRow:
    """A tree of conversations laid out in one row of T columns."""

    input_ids: list[int] = field(default_factory=list)
    position_ids: list[int] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)
    columns: list[list[int]] = field(default_factory=list)
    """For each conversation the column of each of its tokens."""


def pack(sequences: Sequence[Sequence[int]], min_shared: int = MIN_SHARED) -> PackedRow:
    """Lay token sequences out as one row in which common beginnings stand once.

    Args:
        sequences: token ids of each conversation, none empty.
        min_shared: a common stretch shorter than this is not shared.
    """
    row = PackedRow(columns=[[] for _ in sequences])
    order = sorted(range(len(sequences)), key=lambda number: list(sequences[number]))
    _grow(row, sequences, order, 0, (), min_shared)
    return row


def packed_length(sequences: Sequence[Sequence[int]]) -> int:
    """Columns that `pack` would need, up to stretches too short to share."""
    ordered = sorted(list(sequence) for sequence in sequences)
    shared = sum(_common(one, other, 0) for one, other in pairwise(ordered))
    return sum(map(len, ordered)) - shared


def _grow(
    row: PackedRow,
    sequences: Sequence[Sequence[int]],
    members: list[int],
    depth: int,
    ancestors: tuple[tuple[int, int], ...],
    min_shared: int,
) -> None:
    """Write the subtree of ``members``, sorted sequences that agree on their first ``depth`` tokens."""
    for group in _groups(sequences, members, depth):
        shared = _common(sequences[group[0]], sequences[group[-1]], depth) if len(group) > 1 else 0
        if len(group) == 1 or shared - depth < min_shared:
            for number in group:
                _write(row, sequences[number], depth, len(sequences[number]), ancestors, [number])
        else:
            place = _write(row, sequences[group[0]], depth, shared, ancestors, group)
            _grow(row, sequences, group, shared, (*ancestors, place), min_shared)


def _groups(sequences: Sequence[Sequence[int]], members: list[int], depth: int) -> list[list[int]]:
    """Split sorted sequences by their token at ``depth``; those that end there need no more."""
    groups: dict[int, list[int]] = {}
    for number in members:
        if len(sequences[number]) > depth:
            groups.setdefault(sequences[number][depth], []).append(number)
    return list(groups.values())


def _common(one: Sequence[int], other: Sequence[int], start: int) -> int:
    """Length of the common beginning, known to be at least ``start``."""
    end = min(len(one), len(other))
    for place in range(start, end):
        if one[place] != other[place]:
            return place
    return end


def _write(
    row: PackedRow,
    sequence: Sequence[int],
    start: int,
    end: int,
    ancestors: tuple[tuple[int, int], ...],
    owners: Sequence[int],
) -> tuple[int, int]:
    first = len(row.input_ids)
    place = (first, first + end - start)
    row.input_ids += sequence[start:end]
    row.position_ids += range(start, end)
    row.segments.append(Segment(*place, ancestors))
    for number in owners:
        row.columns[number] += range(*place)
    return place


class SegmentMap:
    """The segments of a packed row, for `segment_attention`."""

    def __init__(self, segments: Sequence[Segment]) -> None:
        self.segments = list(segments)
        self.spans = [((segment.start, segment.end), segment.ancestors) for segment in segments]

    def dense_mask(self) -> Tensor:
        """The whole row's mask, (T, T), True where a query (row) sees a key (column)."""
        length = max(segment.end for segment in self.segments)
        mask = torch.zeros(length, length, dtype=torch.bool)
        for segment in self.segments:
            own = torch.ones(segment.end - segment.start, segment.end - segment.start, dtype=torch.bool).tril()
            mask[segment.start : segment.end, segment.start : segment.end] = own
            for start, end in segment.ancestors:
                mask[segment.start : segment.end, start:end] = True
        return mask


def segment_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """Attention over a packed row, in the form Transformers calls; without a ``segment_map`` plain SDPA.

    Each segment attends to its ancestors and to itself, so the cost is that of the branches, not the square of the row.
    The map comes as an argument and nothing is kept between calls: activation checkpointing may call again.

    Args:
        module: the attention layer.
        query: (1, H, T, D).
        key: (1, H_kv, T, D).
        value: (1, H_kv, T, D).
        attention_mask: used only without a map.
        **options: ``segment_map`` and what Transformers passes (``scaling``, ``dropout``).
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    segment_map: SegmentMap | None = options.pop("segment_map", None)
    if segment_map is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    dropout, scale = options.get("dropout", 0.0), options.get("scaling")
    if dropout == 0.0 and fused_kernel_fits(query):
        output = span_attention(query, key, value, segment_map.spans, scale)
    else:
        output = _masked_attention(query, key, value, segment_map, dropout, scale)
    return output.transpose(1, 2).contiguous(), None


def _masked_attention(
    query: Tensor, key: Tensor, value: Tensor, segment_map: SegmentMap, dropout: float, scale: float | None
) -> Tensor:
    """The same by SDPA with a mask per branch, for any device."""
    parts = []
    for own, above in segment_map.spans:
        spans = [*above, own]
        hidden = sum(end - start for start, end in above)
        length = own[1] - own[0]
        mask = (
            torch.ones(length, hidden + length, dtype=torch.bool, device=query.device).tril(hidden) if above else None
        )
        parts.append(
            torch.nn.functional.scaled_dot_product_attention(
                query[:, :, own[0] : own[1]],
                torch.cat([key[:, :, start:end] for start, end in spans], 2),
                torch.cat([value[:, :, start:end] for start, end in spans], 2),
                attn_mask=mask,
                is_causal=mask is None,
                dropout_p=dropout,
                scale=scale,
            )
        )
    return torch.cat(parts, 2)


def register_attention() -> str:
    """Tell Transformers about `segment_attention`; returns the name for ``set_attn_implementation``."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    AttentionInterface.register(IMPLEMENTATION, segment_attention)
    AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)
    return IMPLEMENTATION
