"""Root mean square norms, gated products and rotary positions, with gradients written by hand.

As single operations with automatic gradients these three take about thirty passes over memory in a decoder layer, and
keep what their gradients do not need. Here they take about half as many, and keep their inputs alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class RootMeanSquareNorm(torch.autograd.Function):
    """y = w ⊙ x / ρ with ρ² = mean(x²) + ε (Zhang and Sennrich, 2019, equation 4), and its gradients.

    x: (..., D); w: (D,); ε: a number.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        """See the class."""
        scale = torch.linalg.vecdot(x, x).div_(x.shape[-1]).add_(epsilon).rsqrt_().unsqueeze(-1)
        ctx.save_for_backward(x, weight, scale)
        return (x * scale).mul_(weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        """With g = dL/dy and h = w ⊙ g: dx = (h − x (h · x) / (D ρ²)) / ρ, dw = Σ g ⊙ x / ρ over rows."""
        (x, weight, scale), gradient = ctx.saved_tensors, gradients[0]
        d_weight = None
        if ctx.needs_input_grad[1]:
            d_weight = (gradient * x).mul_(scale).flatten(0, -2).sum(0)
        weighted = gradient * weight
        along = torch.linalg.vecdot(weighted, x).unsqueeze(-1) * scale.pow(3) / x.shape[-1]
        return weighted.mul_(scale).addcmul_(x, along, value=-1), d_weight, None


class GatedProduct(torch.autograd.Function):
    """act(g) ⊙ u and its gradients, of which g and u alone are kept.

    g, u: of one shape; act: element-wise (Shazeer, 2020, arXiv 2002.05202).
    """

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, act: Callable[[Tensor], Tensor]) -> Tensor:
        """See the class."""
        ctx.save_for_backward(gate, up)
        ctx.act = act
        return act(gate) * up

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        """With d = dL/dy: dg = act'(g) ⊙ (d ⊙ u) and du = d ⊙ act(g)."""
        gate, up = ctx.saved_tensors
        with torch.enable_grad():
            gate = gate.detach().requires_grad_()
            opened = ctx.act(gate)
        (d_gate,) = torch.autograd.grad(opened, gate, gradients[0] * up)
        return d_gate, gradients[0] * opened.detach(), None


class RotaryPositions(torch.autograd.Function):
    """Halves (x₁, x₂) of each head turned by their position: (x₁ c₁ − x₂ s₁, x₂ c₂ + x₁ s₂), and the gradient.

    x: (B, T, H, D); cos = (c₁, c₂) and sin = (s₁, s₂): (B, T, D) (RoFormer, Su et al., 2021, equation 34).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """See the class."""
        ctx.save_for_backward(cos, sin)
        first, second = sin.chunk(2, -1)
        return _turned(x, cos, -first, second)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """With g = dL/dy: (g₁ c₁ + g₂ s₂, g₂ c₂ − g₁ s₁)."""
        cos, sin = ctx.saved_tensors
        first, second = sin.chunk(2, -1)
        return _turned(gradients[0], cos, second, -first), None, None


def _turned(x: Tensor, cos: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """(x₁ c₁ + x₂ ⊙ first, x₂ c₂ + x₁ ⊙ second)."""
    turned = x * cos.unsqueeze(2)
    (one, two), (to_one, to_two) = x.chunk(2, -1), turned.chunk(2, -1)
    to_one.addcmul_(two, first.unsqueeze(2))
    to_two.addcmul_(one, second.unsqueeze(2))
    return turned
