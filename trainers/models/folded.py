"""Adapters in training, folded into their weights for each batch: one product over its tokens in place of three.

peft computes y = x Wᵀ + s (x Aᵀ) Bᵀ, which writes and reads the layer's output three more times, and its gradient as
often. For many tokens it is cheaper to form W' = W + s B A first, whose cost does not grow with them (LoRA, Hu et al.,
2021, section 4.1, does so for inference). The numbers are the same up to the rounding of float32.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

FEWEST_TOKENS = 64
"""Below this, forming the weight costs more than it saves."""


def fold_adapters(model: torch.nn.Module) -> int:
    """Have the model's LoRA layers compute with folded weights where that is exact; returns how many can.

    A layer decides at every call: with its adapter off or merged, in inference mode (as policies play), with dropout,
    or under autocast it computes as peft does. Only float32 weights are folded, for in 16 bits W' would lose small
    changes.
    """
    layers = plain_adapters(model)
    for layer in layers:
        layer.forward = MethodType(_forward, layer)
    return len(layers)


def release_adapters(model: torch.nn.Module) -> None:
    """Take back what `fold_adapters` did."""
    for layer in model.modules():
        if getattr(vars(layer).get("forward"), "__func__", None) is _forward:
            del layer.forward


def plain_adapters(model: torch.nn.Module) -> list[Any]:
    """The LoRA layers of which y = x (W + s B A)ᵀ + b, with W and b frozen and all in float32, is the whole."""
    if not any(hasattr(layer, "lora_A") for layer in model.modules()):
        return []  # peft may not even be installed
    from peft.tuners.lora.layer import Linear

    return [layer for layer in model.modules() if type(layer) is Linear and _plain(layer)]


def _plain(layer: Any) -> bool:
    base = layer.get_base_layer()
    learned = [*layer.lora_A.values(), *layer.lora_B.values()]
    return (
        all(whole(part) for part in (base, *learned))
        and not any(parameter.requires_grad for parameter in base.parameters())
        and all(part.bias is None for part in learned)
        and not _watched(layer)
        and not layer.lora_variant
        and not layer.fan_in_fan_out
    )


def whole(layer: torch.nn.Module) -> bool:
    """Whether y = x Wᵀ + b with W in float32 is all that this layer is, and no one hangs on its being called."""
    return type(layer) is torch.nn.Linear and layer.weight.dtype == torch.float32 and not _watched(layer)


def _watched(part: torch.nn.Module) -> bool:
    """Whether someone hangs on its being called (hooks, or a forward in the place of its own, as offloading has it)."""
    return bool(part._forward_hooks or part._forward_pre_hooks or "forward" in vars(part))


def _forward(layer: Any, x: Tensor, *arguments: Any, **options: Any) -> Tensor:
    name = adapter_of(layer)
    if name is None or arguments or options or not _worthwhile(x):
        return type(layer).forward(layer, x, *arguments, **options)  # type: ignore[no-any-return]
    base = layer.get_base_layer()
    down, up = layer.lora_A[name].weight, layer.lora_B[name].weight
    return FoldedLinear.apply(x, base.weight, base.bias, down, up, layer.scaling[name])  # type: ignore[no-any-return]


def adapter_of(layer: Any) -> str | None:
    """The one adapter that a layer adds now; None where there is none or another number, or where it has dropout."""
    adapters = [name for name in layer.active_adapters if name in layer.lora_A]
    if len(adapters) != 1 or layer.disable_adapters or layer.merged:
        return None
    drops = layer.training and getattr(layer.lora_dropout[adapters[0]], "p", 0.0) > 0
    return None if drops else adapters[0]


def _worthwhile(x: Tensor) -> bool:
    return (
        not torch.is_inference_mode_enabled()
        and x.dtype == torch.float32
        and not torch.is_autocast_enabled(x.device.type)
        and x.numel() // x.shape[-1] >= FEWEST_TOKENS
    )


class FoldedLinear(torch.autograd.Function):
    """y = x W'ᵀ + b with W' = W + s B A, and its gradients for x, A and B.

    x: (..., in); W: (out, in); b: (out,) or None; A: (r, in); B: (out, r); s: a number. W' is formed anew for the
    gradient, so that nothing of a weight's size is kept in between.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor | None, down: Tensor, up: Tensor, scaling: float) -> Tensor:
        """See the class."""
        ctx.save_for_backward(x, w, down, up)
        ctx.scaling = scaling
        return linear(x, torch.addmm(w, up, down, alpha=scaling), b)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """With g = dL/dy: dx = g W', dA = s (g B)ᵀ x, dB = s gᵀ (x Aᵀ), summed over tokens."""
        x, w, down, up = ctx.saved_tensors
        rows, g = x.flatten(0, -2), gradients[0].flatten(0, -2)
        dx = g @ torch.addmm(w, up, down, alpha=ctx.scaling) if ctx.needs_input_grad[0] else None
        d_down = ctx.scaling * ((g @ up).T @ rows)
        d_up = ctx.scaling * (g.T @ (rows @ down.T))
        return None if dx is None else dx.view_as(x), None, None, d_down, d_up, None
