"""Several conversations as one row: what they share is encoded once, what differs hangs on it as branches.

The row of a pair is ``[shared prompt | chosen | rejected]``. In general the conversations of a batch form a tree of
segments: the system prompt that all have in common, below it the task of some, below that single episodes. Every token
sees the segments above it and the earlier tokens of its own, and has the position it would have in its own
conversation, so each conversation gets exactly the numbers it would get alone. There is no padding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as _sdpa

from trainers.models.attention import Span, explicit_attention, fused_kernel_fits, span_attention

MIN_SHARED = 16  # shorter stretches in common are encoded twice: each segment costs a call per layer
IMPLEMENTATION = "icto_segments"
# What Transformers hands to attention: what is done here, and what has no bearing on it.
_HARMLESS = {"scaling", "dropout", "sliding_window", "softcap", "s_aux", "is_causal"} | {
    "position_ids", "cache_position", "past_key_values", "use_cache", "output_attentions", "output_hidden_states",
    "output_router_logits", "return_dict", "logits_to_keep",
}  # fmt: skip


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
        self.longest = max(sum(end - start for start, end in (own, *above)) for own, above in self.spans)
        """Tokens of the longest conversation."""
        self.windows: set[int] = set()
        """Sliding windows that layers have asked for, for the check before training."""

    def rows(self) -> Tensor:
        """The map as numbers, (M, 3): of every stretch its segment, first column and end, a segment's own one last."""
        stretches = [(number, *span) for number, (own, above) in enumerate(self.spans) for span in (*above, own)]
        return torch.tensor(stretches, dtype=torch.long).reshape(-1, 3)

    @classmethod
    def from_rows(cls, rows: Tensor) -> SegmentMap:
        """The map that `rows` came from; for looking at a batch that was kept."""
        stretches: dict[int, list[tuple[int, int]]] = {}
        for number, start, end in rows.tolist():
            stretches.setdefault(number, []).append((start, end))
        return cls([Segment(*own, tuple(above)) for *above, own in stretches.values()])

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
    """Attention over a packed row, in the form Transformers calls; without a ``segment_map`` over plain rows.

    Each segment attends to its ancestors and to itself, so the cost is that of the branches, not the square of the row.
    The map comes as an argument and no state of a call is kept: activation checkpointing may call again. Sliding
    windows, capped scores and attention sinks are those the layer asks for.

    Args:
        module: the attention layer.
        query: (1, H, T, D).
        key: (1, H_kv, T, D).
        value: (1, H_kv, T, D).
        attention_mask: used only without a map.
        **options: ``segment_map`` and what Transformers passes (``scaling``, ``dropout``, ``sliding_window``,
            ``softcap``, ``s_aux``).

    Raises:
        ValueError: if the layer asks for something that is not known here.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    segment_map: SegmentMap | None = options.pop("segment_map", None)
    special = options.get("softcap") is not None or options.get("s_aux") is not None
    if segment_map is None and not special:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    _refuse_unknown(module, options)
    rule = _Rule(*(options.get(name) for name in ("scaling", "sliding_window", "softcap", "s_aux", "dropout")))
    if segment_map is None:
        output = _one_conversation(query, *_per_query(query, key, value), attention_mask, rule)
    else:
        output = _tree(query, key, value, segment_map, rule)
    return output.transpose(1, 2).contiguous(), None


class _Rule(NamedTuple):
    """How a layer attends, apart from who stands where."""

    scale: float | None
    window: int | None
    """A token sees so many tokens of its conversation, itself among them; None: all."""
    softcap: float | None
    sinks: Tensor | None
    dropout: float | None

    @property
    def special(self) -> bool:
        """Whether no fused kernel can do it."""
        return self.softcap is not None or self.sinks is not None


def _refuse_unknown(module: Any, options: Mapping[str, Any]) -> None:
    """Whatever else changes the attention must not be passed over in silence."""
    asked = {name for name, value in options.items() if value is not None and value is not False} - _HARMLESS
    if options.get("is_causal") is False or getattr(module, "is_causal", True) is False:
        asked.add("is_causal=False")
    if asked:
        raise ValueError(f"{type(module).__name__} asks for {', '.join(sorted(asked))}, which is not known here")


def _one_conversation(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, rule: _Rule) -> Tensor:
    """Rows without a map; Transformers leaves the mask out where it is causal and nothing is beyond the window."""
    if mask is None:
        asked, seen = query.shape[2], key.shape[2]
        mask = torch.ones(asked, seen, dtype=torch.bool, device=query.device).tril(seen - asked)
    return _by_mask(query, key, value, mask, rule)


def _tree(query: Tensor, key: Tensor, value: Tensor, segment_map: SegmentMap, rule: _Rule) -> Tensor:
    if rule.window is not None:
        segment_map.windows.add(rule.window)
    all_in_sight = rule.window is None or segment_map.longest <= rule.window
    if all_in_sight and not rule.dropout and not rule.special and fused_kernel_fits(query):
        return span_attention(query, key, value, segment_map.spans, rule.scale)
    key, value = _per_query(query, key, value)
    return torch.cat([_segment(query, key, value, own, above, rule) for own, above in segment_map.spans], 2)


def _per_query(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values with a head for each of the queries'."""
    groups = query.shape[1] // key.shape[1]
    return (key, value) if groups == 1 else (key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1))


def _segment(query: Tensor, key: Tensor, value: Tensor, own: Span, above: Sequence[Span], rule: _Rule) -> Tensor:
    """One segment by a mask, for any device. The stretches above it lie in the order of its conversation."""
    length, before = own[1] - own[0], sum(end - start for start, end in above)
    if not above and not rule.special and (rule.window is None or length <= rule.window):
        asked, seen, told = (rows[:, :, own[0] : own[1]] for rows in (query, key, value))
        return _sdpa(asked, seen, told, is_causal=True, dropout_p=rule.dropout or 0.0, scale=rule.scale)
    beyond = 0 if rule.window is None else max(0, before - rule.window + 1)  # not even the first query sees these
    spans, before = _without_first([*above, own], beyond), before - beyond
    mask = torch.ones(length, before + length, dtype=torch.bool, device=query.device).tril(before)
    if rule.window is not None:
        mask = mask.triu(before - rule.window + 1)
    keys, values = (torch.cat([rows[:, :, start:end] for start, end in spans], 2) for rows in (key, value))
    return _by_mask(query[:, :, own[0] : own[1]], keys, values, mask, rule)


def _without_first(spans: Sequence[Span], count: int) -> list[Span]:
    """What is left of stretches when the first ``count`` columns are left out."""
    left = []
    for start, end in spans:
        gone = min(count, end - start)
        count -= gone
        if start + gone < end:
            left.append((start + gone, end))
    return left


def _by_mask(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, rule: _Rule) -> Tensor:
    dropout = rule.dropout or 0.0
    if rule.special:
        return explicit_attention(
            query, key, value, mask, scale=rule.scale, softcap=rule.softcap, sinks=rule.sinks, dropout=dropout
        )
    return _sdpa(query, key, value, attn_mask=mask, dropout_p=dropout, scale=rule.scale)


def register_attention() -> str:
    """Tell Transformers about `segment_attention`; returns the name for ``set_attn_implementation``."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    AttentionInterface.register(IMPLEMENTATION, segment_attention)
    AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)
    return IMPLEMENTATION
