"""Attention over a row of segments on a CPU, without a mask and without work on hidden places.

A segment attends to each stretch above it (all of it) and to itself (causally). Each is one call of PyTorch's fused
CPU kernel; the parts are joined by their row sums, as softmax allows. In the backward pass the kernel gets the joined
output and row sums, with which the gradient of each part is exact by itself. With a mask the kernel would compute the
hidden half too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

Span = tuple[int, int]
_FORWARD: Any = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)
_BACKWARD: Any = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu_backward", None)


def fused_kernel_fits(query: Tensor) -> bool:
    """Whether `span_attention` can be used: a CPU, and a PyTorch that has its fused kernel."""
    return query.device.type == "cpu" and _FORWARD is not None and _BACKWARD is not None


def span_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    segments: Sequence[tuple[Span, Sequence[Span]]],
    scale: float | None = None,
) -> Tensor:
    """Attention of every segment to itself, causally, and to the stretches above it.

    Args:
        query: (1, H, T, D).
        key: (1, H_kv, T, D), where H_kv divides H: each serves as many queries' heads in a row.
        value: (1, H_kv, T, D).
        segments: (own columns, columns of each stretch above) for each segment; together they cover the row.
        scale: factor of the scores; ``1 / sqrt(D)`` if None.

    Returns:
        (1, H, T, D).

    Raises:
        ValueError: a segment or a stretch has no columns; PyTorch's kernel would end the process.
    """
    empty = [span for own, above in segments for span in (own, *above) if span[0] >= span[1]]
    if empty:
        raise ValueError(f"A segment of attention has no columns: {empty[0]}. Leave out what is empty.")
    return _SpanAttention.apply(query, key, value, joined_segments(segments), scale)


class _SpanAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, segments: Sequence[Any], scale: float | None
    ) -> Tensor:
        # laid out as the next layer reads it, which then keeps this very memory and no copy
        output = query.new_empty(query.transpose(1, 2).shape).transpose(1, 2)
        row_sums = query.new_empty(
            query.shape[:3], dtype=torch.float64 if query.dtype == torch.float64 else torch.float32
        )
        shared = key.shape[1]
        for own, above in segments:
            asked = _cut(query, own)
            keys, values = (_spread(_cut(one, own), query) for one in (key, value))
            found, sums = _FORWARD(asked, keys, values, 0.0, True, scale=scale)
            grouped = _grouped(asked, shared) if above else asked
            for span in above:
                more, more_sums = _FORWARD(grouped, _cut(key, span), _cut(value, span), 0.0, False, scale=scale)
                more, more_sums = more.reshape(asked.shape), more_sums.reshape(sums.shape)
                joined = torch.logaddexp(sums, more_sums)
                found = (found * _weight(sums, joined, found)).addcmul_(more, _weight(more_sums, joined, more))
                sums = joined
            _cut(output, own).copy_(found)
            row_sums[:, :, own[0] : own[1]] = sums
        ctx.save_for_backward(query, key, value, output, row_sums)
        ctx.segments, ctx.scale = segments, scale
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        query, key, value, output, row_sums = ctx.saved_tensors
        d_query, d_key, d_value = (torch.zeros_like(one) for one in (query, key, value))
        shared = key.shape[1]
        for own, above in ctx.segments:
            rows = [_cut(one, own).contiguous() for one in (gradients[0], query, output)]
            sums = row_sums[:, :, own[0] : own[1]].contiguous()
            told = [_spread(_cut(one, own), query) for one in (key, value)]
            parts = _BACKWARD(*rows[:2], *told, rows[2], sums, 0.0, True, scale=ctx.scale)
            _cut(d_query, own).add_(parts[0])
            _cut(d_key, own).add_(_gathered(parts[1], shared))
            _cut(d_value, own).add_(_gathered(parts[2], shared))
            like = rows[1].shape
            rows, sums = [_grouped(one, shared) for one in rows], sums.reshape(1, shared, -1)
            for span in above:
                told = [_cut(one, span) for one in (key, value)]
                parts = _BACKWARD(*rows[:2], *told, rows[2], sums, 0.0, False, scale=ctx.scale)
                _cut(d_query, own).add_(parts[0].reshape(like))
                _cut(d_key, span).add_(parts[1])
                _cut(d_value, span).add_(parts[2])
        return d_query, d_key, d_value, None, None


def joined_segments(segments: Sequence[tuple[Span, Sequence[Span]]]) -> list[tuple[Span, tuple[Span, ...]]]:
    """The same attention in fewer segments: one that goes on right behind the last one above it is a part of it.

    Its tokens see the other's, all of which come earlier, and their own earlier ones: causal over both together.
    """
    found: list[tuple[Span, tuple[Span, ...]]] = []
    below: tuple[Span, ...] = ()  # the stretches above a segment that would go on with the last one found
    for own, above in segments:
        if found and tuple(above) == below and found[-1][0][1] == own[0]:
            last, others = found[-1]
            found[-1] = ((last[0], own[1]), others)
        else:
            found.append((own, tuple(above)))
        below = (*above, own)
    return found


def _grouped(rows: Tensor, shared: int) -> Tensor:
    """Rows of the heads that share keys and values under one another, (1, H_kv, H / H_kv · T, D).

    Where no query is ahead of a key it does not matter which one it is, and few long products are faster than many.
    """
    return rows.reshape(1, shared, -1, rows.shape[-1])


def _spread(rows: Tensor, query: Tensor) -> Tensor:
    """Keys or values, each head as often as queries' heads share it."""
    groups = query.shape[1] // rows.shape[1]
    return rows if groups == 1 else rows.repeat_interleave(groups, 1)


def _gathered(gradient: Tensor, shared: int) -> Tensor:
    """The gradient of `_spread`."""
    return gradient if gradient.shape[1] == shared else gradient.unflatten(1, (shared, -1)).sum(2)


def explicit_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor,
    *,
    scale: float | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Attention in single operations, for what no fused kernel knows: capped scores and attention sinks.

    Args:
        query: (1, H, T, D).
        key: (1, H, S, D).
        value: (1, H, S, D).
        mask: broadcasts to (1, H, T, S); True where a query sees a key, or numbers that are added to the scores.
        scale: factor of the scores; ``1 / sqrt(D)`` if None.
        softcap: scores are bent to stay within this bound (Gemma 2).
        sinks: (H,), score of a place that holds nothing, which every query sees too (gpt-oss).
        dropout: share of the weights that is dropped.

    Returns:
        (1, H, T, D).
    """
    scores = query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    hidden = torch.finfo(scores.dtype).min  # not -inf: a row of padding that sees nothing must not become NaN
    scores = scores.masked_fill(~mask, hidden) if mask.dtype == torch.bool else scores + mask
    if sinks is not None:
        extra = sinks.reshape(1, -1, 1, 1).expand(scores.shape[0], -1, scores.shape[2], 1)
        scores = torch.cat([scores, extra.to(scores.dtype)], -1)
    weights = torch.softmax(scores, -1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(query.dtype)
    weights = weights if sinks is None else weights[..., :-1]
    return torch.nn.functional.dropout(weights, dropout) @ value


def _cut(rows: Tensor, span: Span) -> Tensor:
    return rows[:, :, span[0] : span[1]]


def _weight(sums: Tensor, joined: Tensor, like: Tensor) -> Tensor:
    return (sums - joined).exp().unsqueeze(-1).to(like.dtype)
