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
    """
    return _SpanAttention.apply(query, key, value, segments, scale)


class _SpanAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, segments: Sequence[Any], scale: float | None
    ) -> Tensor:
        kept = query, key, value
        key, value = (_spread(one, query) for one in (key, value))
        # laid out as the next layer reads it, which then keeps this very memory and no copy
        output = query.new_empty(query.transpose(1, 2).shape).transpose(1, 2)
        row_sums = query.new_empty(
            query.shape[:3], dtype=torch.float64 if query.dtype == torch.float64 else torch.float32
        )
        for own, above in segments:
            asked = _cut(query, own)
            found, sums = _FORWARD(asked, _cut(key, own), _cut(value, own), 0.0, True, scale=scale)
            for span in above:
                more, more_sums = _FORWARD(asked, _cut(key, span), _cut(value, span), 0.0, False, scale=scale)
                joined = torch.logaddexp(sums, more_sums)
                found = found * _weight(sums, joined, found) + more * _weight(more_sums, joined, more)
                sums = joined
            _cut(output, own).copy_(found)
            row_sums[:, :, own[0] : own[1]] = sums
        ctx.save_for_backward(*kept, output, row_sums)
        ctx.segments, ctx.scale = segments, scale
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        query, *kept, output, row_sums = ctx.saved_tensors
        key, value = (_spread(one, query) for one in kept)
        d_query, d_key, d_value = torch.zeros_like(query), torch.zeros_like(key), torch.zeros_like(value)
        for own, above in ctx.segments:
            gradient, asked, found = (_cut(one, own).contiguous() for one in (gradients[0], query, output))
            sums = row_sums[:, :, own[0] : own[1]].contiguous()
            for span in (own, *above):
                causal = span == own
                parts = _BACKWARD(
                    gradient, asked, _cut(key, span), _cut(value, span), found, sums, 0.0, causal, scale=ctx.scale
                )
                _cut(d_query, own).add_(parts[0])
                _cut(d_key, span).add_(parts[1])
                _cut(d_value, span).add_(parts[2])
        d_key, d_value = (_gathered(one, kept[0]) for one in (d_key, d_value))
        return d_query, d_key, d_value, None, None


def _spread(rows: Tensor, query: Tensor) -> Tensor:
    """Keys or values, each head as often as queries' heads share it."""
    groups = query.shape[1] // rows.shape[1]
    return rows if groups == 1 else rows.repeat_interleave(groups, 1)


def _gathered(gradient: Tensor, rows: Tensor) -> Tensor:
    """The gradient of `_spread`."""
    return gradient.unflatten(1, (rows.shape[1], -1)).sum(2)


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
