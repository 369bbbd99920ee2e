"""Where a model meets its optimiser: one device, one process.

A distributed engine has the same methods, so nothing above needs to know.
"""

from __future__ import annotations

import logging
import math
from typing import Any

import torch
from torch import Tensor

from icto_gym.errors import ConfigError
from trainers.batches import collate, to_device
from trainers.models.loading import causal_lm
from trainers.models.scoring import score_tokens
from trainers.packing import register_attention
from trainers.tokenization import Encoded
from trainers.training.config import OptimizerConfig

logger = logging.getLogger(__name__)


class Engine:
    """AdamW over the trainable parameters of a module.

    Args:
        module: everything that is trained; its parameters' names are the names in saved states.
        config: the optimiser's settings.
        total_steps: optimiser steps of the whole training, for the schedule.
    """

    rank = 0

    def __init__(self, module: torch.nn.Module, config: OptimizerConfig, total_steps: int) -> None:
        self.module = module
        self.config = config
        self.total_steps = total_steps
        self.parameters = {name: value for name, value in module.named_parameters() if value.requires_grad}
        if not self.parameters:
            raise ConfigError("The model has no trainable weights; load it with trainable=True.")
        self.device = next(iter(self.parameters.values())).device
        self.optimizer = torch.optim.AdamW(
            list(self.parameters.values()), lr=config.learning_rate, weight_decay=config.weight_decay
        )

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of ``loss`` to what is there."""
        loss.backward()

    def step(self, number: int) -> float:
        """Make optimiser step ``number`` (from 0) and forget the gradients.

        Returns:
            The length of the gradient before it was scaled down; if it is not finite, nothing is changed.
        """
        limit = self.config.max_grad_norm or math.inf
        length = float(torch.nn.utils.clip_grad_norm_(self.parameters.values(), limit))
        if math.isfinite(length):
            for group in self.optimizer.param_groups:
                group["lr"] = self.learning_rate(number)
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return length

    def learning_rate(self, number: int) -> float:
        """Learning rate of optimiser step ``number`` (from 0): a linear rise, then the schedule."""
        warmup = math.ceil(self.config.warmup_ratio * self.total_steps)
        if number < warmup:
            return self.config.learning_rate * (number + 1) / warmup
        if self.config.schedule == "constant":
            return self.config.learning_rate
        progress = (number - warmup) / max(1, self.total_steps - warmup)
        return self.config.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))

    def state(self) -> dict[str, Tensor]:
        """Trainable weights and AdamW's two moments by name, for `load_state`."""
        tensors = {f"weight/{name}": value.detach() for name, value in self.parameters.items()}
        for name, value in self.parameters.items():
            for key, moment in self.optimizer.state.get(value, {}).items():
                tensors[f"{key}/{name}"] = moment.detach()
        return {key: value.cpu().contiguous() for key, value in tensors.items()}

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Continue from what `state` returned."""
        for name, value in self.parameters.items():
            value.data.copy_(tensors[f"weight/{name}"])
            moments = {key: tensors[f"{key}/{name}"] for key in ("step", "exp_avg", "exp_avg_sq")}
            self.optimizer.state[value] = {
                key: moment.to(value.device if key != "step" else "cpu") for key, moment in moments.items()
            }


def prepare(model: Any, config: OptimizerConfig, *, dropout: bool) -> bool:
    """Put a loaded model into training mode.

    Args:
        model: as `trainers.models.loading.load_model` gives it.
        config: says whether to pack and to checkpoint activations.
        dropout: False switches all dropout off, as preference optimisation wants it.

    Returns:
        Whether batches are to be packed: asked for, and found exact with this model.
    """
    plain = causal_lm(model)
    if config.packing:
        plain.set_attn_implementation(register_attention())
    packed = check_scoring(model, packed=config.packing)
    if config.packing and not packed:
        logger.warning("%s cannot read packed rows; rows are padded instead", type(plain).__name__)
        plain.set_attn_implementation("sdpa")
    if config.activation_checkpointing:
        _checkpoint_activations(plain)
    model.train()
    if not dropout:
        _switch_dropout_off(model)
    return packed


def _checkpoint_activations(model: Any) -> None:
    if hasattr(model, "activation_checkpointing_enable"):  # the name since Transformers 5.2x
        model.activation_checkpointing_enable({"use_reentrant": False})
    else:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    model.enable_input_require_grads()  # with an adapter no weight below the first layer needs a gradient


def _switch_dropout_off(model: torch.nn.Module) -> None:
    """Training mode itself must stay on: activation checkpointing depends on it."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.0  # type: ignore[assignment]


def check_scoring(model: Any, *, packed: bool) -> bool:
    """Compare `score_tokens` with the model's own logits on a few tokens, in padded rows and in a packed one.

    Returns:
        Whether packed rows give the model's own numbers (False where it was not asked).

    Raises:
        ConfigError: if the model does something to its logits that gathered rows would miss.
    """
    device = next(model.parameters()).device
    samples = _samples(causal_lm(model).config.get_text_config().vocab_size)
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            wanted = torch.cat([_own_logps(model, item, device) for item in samples])
            if not _agree(model, score_tokens(model, to_device(collate(samples, packed=False), device)), wanted):
                raise ConfigError(
                    f"{type(causal_lm(model)).__name__} changes its hidden states or logits in a way that is not known "
                    "here, so its log-probabilities would be wrong. Use another model."
                )
            if not packed:
                return False
            try:
                return _agree(model, score_tokens(model, to_device(collate(samples, packed=True), device)), wanted)
            except (RuntimeError, TypeError, ValueError, KeyError) as error:
                logger.warning("packed rows do not work with this model (%s)", error)
                return False
    finally:
        model.train(training)


def _samples(vocabulary: int) -> list[Encoded]:
    prompt = [(7 * place + 3) % vocabulary for place in range(24)]
    branches = [[(5 * place + 11 * number) % vocabulary for place in range(6 + 3 * number)] for number in range(3)]
    return [Encoded(prompt + branch, [-1] * 24 + [0] * len(branch)) for branch in branches]


def _own_logps(model: Any, item: Encoded, device: Any) -> Tensor:
    ids = torch.tensor([item.input_ids], device=device)
    logits = causal_lm(model)(input_ids=ids, use_cache=False).logits[0]
    first = item.turns.index(0)
    return torch.log_softmax(logits.float(), -1)[first - 1 : -1].gather(1, ids[0, first:, None]).squeeze(1)


def _agree(model: Any, got: Tensor, wanted: Tensor) -> bool:
    exact = causal_lm(model).get_input_embeddings().weight.dtype in (torch.float32, torch.float64)
    tolerance = (1e-3 if exact else 5e-2) * (1 + wanted.abs())
    return bool(torch.isfinite(wanted).all()) and bool(((got - wanted).abs() <= tolerance).all())
