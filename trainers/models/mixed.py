"""Products with weights in bfloat16, and everything else in float32 (mixed precision: Micikevicius et al., 2018).

Hardware that multiplies in bfloat16 does so several times as fast. Weights, adapters, norms, attention and the loss
stay in float32, and so does the output layer, for in 8 bits of precision a logit of 20 would be off by 0.06.

A frozen weight is rounded alone, and the adapter is added in float32: folded into it (see `folded`), much of a small
step of training would be lost in the rounding, and the ratio of policy and reference twice as noisy.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import MethodType
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from trainers.models.folded import adapter_of, plain_adapters, release_adapters, whole


def mix_precision(model: torch.nn.Module, dtype: torch.dtype = torch.bfloat16) -> int:
    """Have the model's linear layers multiply in ``dtype``, but the output layer; returns how many do.

    Generation, which runs in inference mode, computes as ever: its precision is `ActingConfig.dtype`.
    """
    release_adapters(model)
    head = _output_layer(model)
    adapted = [layer for layer in plain_adapters(model) if layer not in head]
    for layer in [*_linear_layers(model)]:
        _replace(layer, _plain_forward, dtype)
    for layer in adapted:  # in one go with the adapter where there is one; else its frozen layer does, as peft calls it
        _replace(layer, _adapted_forward, dtype)
    return sum(_is_mixed(layer) and type(layer) is torch.nn.Linear for layer in model.modules())


def unmix_precision(model: torch.nn.Module) -> None:
    """Take back what `mix_precision` did."""
    for layer in filter(_is_mixed, model.modules()):
        del layer.forward


def _is_mixed(layer: torch.nn.Module) -> bool:
    return getattr(vars(layer).get("forward"), "__func__", None) in (_plain_forward, _adapted_forward)


def advantage(dtype: torch.dtype = torch.bfloat16, repeats: int = 5) -> float:
    """How many times as fast as in float32 this machine multiplies in ``dtype`` (best of ``repeats`` each)."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    sides = [torch.ones(shape, device=device) for shape in ((1024, 576), (1536, 576))]
    exact, rounded = (_seconds([side.to(one) for side in sides], repeats) for one in (torch.float32, dtype))
    return exact / rounded


def _seconds(sides: list[Tensor], repeats: int) -> float:
    times = []
    for _ in range(repeats + 1):  # the first one sets up
        begin = time.perf_counter()
        float(linear(*sides)[0, 0])  # read, for a GPU answers before it is done
        times.append(time.perf_counter() - begin)
    return min(times[1:])


def _linear_layers(model: Any) -> Iterator[torch.nn.Module]:
    """Linear layers in float32 whose weights are here whole, without the output layer and without parts of adapters."""
    head = _output_layer(model)
    for name, layer in model.named_modules():
        if layer not in head and whole(layer) and not any(part in name for part in ("lora_A", "lora_B")):
            yield layer


def _output_layer(model: Any) -> list[torch.nn.Module]:
    """All parts of the output layer, which may have an adapter; none where a model does not write."""
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    return [] if head is None else list(head.modules())


def _replace(layer: Any, forward: Any, dtype: torch.dtype) -> None:
    layer._mixed = dtype
    layer.forward = MethodType(forward, layer)


def _plain_forward(layer: Any, x: Tensor) -> Tensor:
    if torch.is_inference_mode_enabled() or x.dtype != torch.float32:
        return type(layer).forward(layer, x)  # type: ignore[no-any-return]
    y: Tensor = MixedLinear.apply(x, layer.weight, layer._mixed)
    return y if layer.bias is None else y + layer.bias


def _adapted_forward(layer: Any, x: Tensor, *arguments: Any, **options: Any) -> Tensor:
    name = adapter_of(layer)
    if name is None or arguments or options or torch.is_inference_mode_enabled() or x.dtype != torch.float32:
        return type(layer).forward(layer, x, *arguments, **options)  # type: ignore[no-any-return]
    base, down, up = layer.get_base_layer(), layer.lora_A[name].weight, layer.lora_B[name].weight
    y: Tensor = MixedAdapter.apply(x, base.weight, down, up, layer.scaling[name], layer._mixed)
    return y if base.bias is None else y + base.bias


class MixedLinear(torch.autograd.Function):
    """y = x Wᵀ, the product in ``dtype``, x, W and y in float32.

    x: (..., in); W: (out, in).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, dtype: torch.dtype) -> Tensor:
        """See the class."""
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, w)
        ctx.dtype = dtype
        return linear(x.to(dtype), w.to(dtype)).float()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """With g = dL/dy: dx = g W and dW = gᵀ x, summed over tokens."""
        x, w = ctx.saved_tensors
        g = gradients[0].to(ctx.dtype)
        dx = (g @ w.to(ctx.dtype)).float() if ctx.needs_input_grad[0] else None
        dw = (g.flatten(0, -2).T @ x.to(ctx.dtype).flatten(0, -2)).float() if ctx.needs_input_grad[1] else None
        return dx, dw, None


class MixedAdapter(torch.autograd.Function):
    """y = x Wᵀ + s (x Aᵀ) Bᵀ, the first product in ``dtype``, all else in float32; W is frozen.

    x: (..., in); W: (out, in); A: (r, in); B: (out, r); s: a number.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, down: Tensor, up: Tensor, scaling: float, dtype: torch.dtype) -> Tensor:
        """See the class."""
        rows = x.flatten(0, -2)
        inner = rows @ down.T
        ctx.save_for_backward(x, w, down, up, inner)
        ctx.scaling, ctx.dtype = scaling, dtype
        product = linear(rows.to(dtype), w.to(dtype)).float()
        return product.addmm_(inner, up.T, alpha=scaling).view(*x.shape[:-1], len(w))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """With g = dL/dy: dx = g W + s (g B) A, dA = s (g B)ᵀ x, dB = s gᵀ (x Aᵀ), summed over tokens."""
        x, w, down, up, inner = ctx.saved_tensors
        g, scaling = gradients[0].flatten(0, -2), ctx.scaling
        outer = g @ up
        dx = None
        if ctx.needs_input_grad[0]:
            dx = (g.to(ctx.dtype) @ w.to(ctx.dtype)).float().addmm_(outer, down, alpha=scaling).view_as(x)
        return dx, None, scaling * (outer.T @ x.flatten(0, -2)), scaling * (g.T @ inner), None, None
