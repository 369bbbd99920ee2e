"""Decoder layers of known kinds compute norms, gated MLPs and rotary positions as `elementwise` does.

Beside its matrix products a layer is limited by how often activations are written and read. The numbers are the same up
to the rounding of float32.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from torch import Tensor

from trainers.models.elementwise import GatedProduct, RootMeanSquareNorm, RotaryPositions

FEWEST_NUMBERS = 1 << 14
"""Below this, calling costs more than memory does."""
_ROOT_MEAN_SQUARE = {"LlamaRMSNorm", "MistralRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm"}
_ROTARY = {"LlamaAttention", "Qwen2Attention"}
_GATED = ("gate_proj", "up_proj", "down_proj", "act_fn")


def fuse(model: torch.nn.Module) -> int:
    """Have the model's norms, MLPs and attention layers of known kinds compute so; returns how many do.

    Each is tried on a few rows against what it did before, and stays as it was where these differ. In inference mode
    (as policies play), under autocast, in other precisions than float32 and for a few tokens it computes as before.
    """
    found = 0
    for module in model.modules():
        if "forward" in vars(module) or _watched(module):
            continue
        try:
            forward = _fused_forward(module)
        except (AttributeError, ImportError, NotImplementedError, RuntimeError, StopIteration, TypeError, ValueError):
            continue  # it cannot be tried (a layer without plain weights, an attention that is not installed)
        if forward is not None:
            module.forward = MethodType(forward, module)  # type: ignore[method-assign]
            found += 1
    return found


def computes_as_ever(module: torch.nn.Module) -> bool:
    """Whether no one but `fuse` has put another forward in the place of its own."""
    return "forward" not in vars(module) or _is_fused(module)


def _is_fused(module: torch.nn.Module) -> bool:
    return getattr(vars(module).get("forward"), "__func__", None) in (_norm_forward, _gated_forward, _attention_forward)


def _watched(module: torch.nn.Module) -> bool:
    """Whether someone hangs on its being called, as offloading does."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _fused_forward(module: torch.nn.Module) -> Callable[..., Any] | None:
    name = type(module).__name__
    if not type(module).__module__.startswith("transformers."):
        return None
    if name in _ROOT_MEAN_SQUARE and _is_root_mean_square(module):
        return _norm_forward
    if name in _ROTARY and _turns_by_halves(module):
        return _attention_forward
    return _gated_forward if is_gated(module) else None


def _worthwhile(x: Tensor) -> bool:
    return (
        not torch.is_inference_mode_enabled()
        and x.dtype == torch.float32
        and x.numel() >= FEWEST_NUMBERS
        and not torch.is_autocast_enabled(x.device.type)
    )


def _has_all(module: torch.nn.Module, parts: tuple[str, ...]) -> bool:
    return all(callable(getattr(module, part, None)) for part in parts)


# ---- root mean square norm ----------------------------------------------------------------------
def _is_root_mean_square(norm: Any) -> bool:
    weight = norm.weight.detach()
    if weight.device.type == "meta" or not weight.is_floating_point():
        return False
    x = torch.linspace(-1.0, 2.0, 2 * weight.numel(), device=weight.device, dtype=weight.dtype).view(2, -1)
    with torch.no_grad():
        return torch.allclose(type(norm).forward(norm, x), RootMeanSquareNorm.apply(x, weight, norm.variance_epsilon))


def _norm_forward(norm: Any, x: Tensor) -> Tensor:
    if not _worthwhile(x) or x.dtype != norm.weight.dtype:
        return type(norm).forward(norm, x)  # type: ignore[no-any-return]
    return RootMeanSquareNorm.apply(x, norm.weight, norm.variance_epsilon)  # type: ignore[no-any-return]


# ---- gated MLPs ---------------------------------------------------------------------------------
def is_gated(module: torch.nn.Module) -> bool:
    """Whether a module is y = down(act(gate(x)) ⊙ up(x)) and nothing else, as a few rows through it show."""
    if not _has_all(module, _GATED):
        return False
    weight = next(module.gate_proj.parameters())  # type: ignore[union-attr]
    width = getattr(module.gate_proj, "in_features", 0)
    if not isinstance(width, int) or not width or weight.device.type == "meta":
        return False
    x = torch.linspace(-1.0, 1.0, 2 * width, dtype=torch.float32).view(1, 2, width)
    x = x.to(weight.device, weight.dtype if weight.is_floating_point() else torch.float32)
    training = module.training
    module.eval()
    try:
        with torch.no_grad():
            return torch.equal(type(module).forward(module, x), gated(module, x))
    finally:
        module.train(training)


def gated(mlp: Any, x: Tensor) -> Tensor:
    """A gated MLP as single operations."""
    return mlp.down_proj(mlp.act_fn(mlp.gate_proj(x)) * mlp.up_proj(x))  # type: ignore[no-any-return]


def _gated_forward(mlp: Any, x: Tensor) -> Tensor:
    if not _worthwhile(x):
        return type(mlp).forward(mlp, x)  # type: ignore[no-any-return]
    return mlp.down_proj(GatedProduct.apply(mlp.gate_proj(x), mlp.up_proj(x), mlp.act_fn))  # type: ignore[no-any-return]


# ---- attention with rotary positions ------------------------------------------------------------
def _attention_forward(
    attention: Any,
    hidden_states: Tensor,
    position_embeddings: tuple[Tensor, Tensor] | None = None,
    attention_mask: Tensor | None = None,
    past_key_values: Any = None,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    plain = position_embeddings is None or past_key_values is not None or _implementation(attention) is None
    if plain or not _worthwhile(hidden_states):
        return type(attention).forward(  # type: ignore[no-any-return]
            attention, hidden_states, position_embeddings=position_embeddings, attention_mask=attention_mask,
            past_key_values=past_key_values, **options,
        )  # fmt: skip
    return _attend(attention, hidden_states, position_embeddings, attention_mask, options)  # type: ignore[arg-type]


def _attend(
    attention: Any,
    hidden_states: Tensor,
    positions: tuple[Tensor, Tensor],
    mask: Tensor | None,
    options: dict[str, Any],
) -> tuple[Tensor, Tensor | None]:
    places = hidden_states.shape[:-1]
    query, key, value = (
        layer(hidden_states).view(*places, -1, attention.head_dim)
        for layer in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    query, key = (RotaryPositions.apply(rows, *positions) for rows in (query, key))
    attend = _implementation(attention)
    if (window := getattr(attention, "sliding_window", None)) is not None:
        options["sliding_window"] = window
    output, weights = attend(
        attention, *(rows.transpose(1, 2) for rows in (query, key, value)), mask,
        dropout=attention.attention_dropout if attention.training else 0.0, scaling=attention.scaling, **options,
    )  # fmt: skip
    return attention.o_proj(output.reshape(*places, -1)), weights


def _implementation(attention: Any) -> Any:
    """What Transformers would call for scores and values; None for its plain one, which each model has of its own."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    return ALL_ATTENTION_FUNCTIONS.get(attention.config._attn_implementation)


def _turns_by_halves(attention: Any) -> bool:
    weight = next(attention.q_proj.parameters())
    if _implementation(attention) is None or weight.device.type == "meta" or not weight.is_floating_point():
        return False
    like = {"device": weight.device, "dtype": weight.dtype}
    x = torch.linspace(-1.0, 1.0, 4 * attention.config.hidden_size, **like).view(1, 4, -1)
    angles = torch.linspace(0.0, 3.0, 4 * attention.head_dim, **like).view(1, 4, -1)
    training = attention.training
    attention.eval()
    try:
        with torch.no_grad():
            positions = angles.cos(), angles.sin()
            before = type(attention).forward(attention, x, position_embeddings=positions, attention_mask=None)[0]
            return torch.allclose(before, _attend(attention, x, positions, None, {})[0], rtol=1e-4, atol=1e-5)
    finally:
        attention.train(training)
