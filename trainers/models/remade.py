"""Activations that are cheap to make again are made again for the backward pass, and not kept.

A linear layer keeps its input for the gradient of its weights or of its adapter. Where that input came out of
element-wise work on tensors that are kept anyway, a norm of x or act(g) ⊙ u in a gated MLP, it is dropped after the
layer, and made again when its gradient is due. No product is computed twice, unlike in full activation checkpointing
(selective recomputation: Korthikanti et al., 2022, arXiv 2205.05198). The same operations on the same tensors: the
numbers are the same to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextvars import ContextVar
from types import MethodType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from trainers.models.elementwise import GatedProduct
from trainers.models.fused import computes_as_ever, gated, is_gated

Make = Callable[[], Tensor]


class Recipe(NamedTuple):
    """Stands for a tensor that was not kept."""

    make: Make
    shape: torch.Size


class Remade:
    """What one layer returned in its forward pass and can make again.

    While the layer runs it holds the tensors themselves, so that none can be taken for another one at the same address.
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[Tensor, Make]] = {}
        self._last: tuple[Make, Tensor] | None = None

    def remember(self, made: Tensor, make: Make) -> None:
        """``make()`` gives ``made`` again."""
        if made.is_contiguous():
            self._known[made.data_ptr()] = made, make

    def forget(self) -> None:
        """The layer has run: from here on, only recipes are left."""
        self._known.clear()

    def pack(self, tensor: Tensor) -> Tensor | Recipe:
        """What autograd keeps of a tensor."""
        made, make = self._known.get(tensor.data_ptr(), (None, None))
        if made is None or make is None or not _same(made, tensor):
            return tensor
        return Recipe(make, tensor.shape)

    def unpack(self, kept: Tensor | Recipe) -> Tensor:
        """The tensor again; the last one is at hand, for query, key and value read one and the same."""
        if isinstance(kept, Tensor):
            return kept
        if self._last is None or self._last[0] is not kept.make:
            with torch.no_grad():
                self._last = kept.make, kept.make()
        return self._last[1].view(kept.shape)


def _same(made: Tensor, tensor: Tensor) -> bool:
    """Whether a tensor at the same address is all of ``made``, in whatever shape."""
    return tensor.numel() == made.numel() and tensor.dtype == made.dtype and tensor.is_contiguous()


_running: ContextVar[Remade | None] = ContextVar("running", default=None)


def remake_activations(layers: Iterable[torch.nn.Module]) -> int:
    """Have decoder layers drop what their norms and gated MLPs return; returns how many layers now do.

    Without gradients, and under autocast, a layer runs as ever. One whose ``forward`` was replaced (by offloading, say)
    stays as it is.
    """
    return sum([_remake(layer) for layer in layers])


def _remake(layer: torch.nn.Module) -> bool:
    if "forward" in vars(layer):
        return getattr(vars(layer)["forward"], "__func__", None) is _layer_forward
    norms = [module for module in layer.modules() if type(module).__name__.endswith("Norm")]
    mlps = [module for module in layer.modules() if computes_as_ever(module) and is_gated(module)]
    for norm in norms:
        norm.register_forward_hook(_remember_norm)
    for mlp in mlps:
        mlp.forward = MethodType(_gated_forward, mlp)  # type: ignore[method-assign]
    if norms or mlps:
        layer.forward = MethodType(_layer_forward, layer)  # type: ignore[method-assign]
    return bool(norms or mlps)


def _layer_forward(layer: Any, *arguments: Any, **options: Any) -> Any:
    if not torch.is_grad_enabled() or any(map(torch.is_autocast_enabled, ("cpu", "cuda"))):
        return type(layer).forward(layer, *arguments, **options)
    remade = Remade()
    token = _running.set(remade)
    try:
        with saved_tensors_hooks(remade.pack, remade.unpack):
            return type(layer).forward(layer, *arguments, **options)
    finally:
        _running.reset(token)
        remade.forget()


def _remember_norm(norm: torch.nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
    remade = _running.get()
    if remade is not None and len(inputs) == 1 and isinstance(output, Tensor):
        x = inputs[0].detach()
        remade.remember(output, lambda: norm(x))


def _gated_forward(mlp: Any, x: Tensor) -> Tensor:
    remade = _running.get()
    if remade is None:
        return gated(mlp, x)
    gate, up, act = mlp.gate_proj(x), mlp.up_proj(x), mlp.act_fn
    product = GatedProduct.apply(gate, up, act)
    one, other = gate.detach(), up.detach()
    remade.remember(product, lambda: act(one) * other)
    return mlp.down_proj(product)  # type: ignore[no-any-return]
