"""Where a model meets its optimiser: one device, one process.

A distributed engine has the same methods, so nothing above needs to know.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn.modules.dropout import _DropoutNd

from icto_gym.errors import ConfigError
from trainers import distributed
from trainers.batches import collate, to_device
from trainers.models.folded import fold_adapters
from trainers.models.fused import fuse
from trainers.models.loading import causal_lm, context_length
from trainers.models.mixed import mix_precision, unmix_precision
from trainers.models.remade import remake_activations
from trainers.models.scoring import score_tokens
from trainers.packing import register_attention
from trainers.tokenization import Encoded
from trainers.training.config import OptimizerConfig
from trainers.training.memory import keep_freed_memory, return_freed_memory
from trainers.training.optimizers import make_optimizer

logger = logging.getLogger(__name__)
_WINDOW_TRIED = 512  # longer sliding windows would make the check before training costly
_HALF = (torch.bfloat16, torch.float16)
C = TypeVar("C", bound=OptimizerConfig)


class Engine:
    """AdamW over the trainable parameters of a module.

    Weights in 16 bits are trained on float32 copies: a step of 1e-5 would vanish in bfloat16's 8 bits of precision.

    Args:
        module: everything that is trained; its parameters' names are the names in saved states.
        config: the optimiser's settings.
        total_steps: optimiser steps of the whole training, for the schedule.
    """

    def __init__(self, module: torch.nn.Module, config: OptimizerConfig, total_steps: int) -> None:
        self._prepare(module, config, total_steps)
        self._masters = {
            name: torch.nn.Parameter(value.detach().float()) if value.dtype in _HALF else value
            for name, value in self.parameters.items()
        }
        self.optimizer = make_optimizer(list(self._masters.values()), config)

    def _prepare(self, module: torch.nn.Module, config: OptimizerConfig, total_steps: int) -> None:
        self.module, self.config, self.total_steps = module, config, total_steps
        self.parameters = {name: value for name, value in module.named_parameters() if value.requires_grad}
        if not self.parameters:
            raise ConfigError("The model has no trainable weights; load it with trainable=True.")
        self.device = next(iter(self.parameters.values())).device

    def loss(self, compute_loss: Any, batch: Any) -> tuple[Tensor, dict[str, float]]:
        """What ``compute_loss(module, batch)`` returns."""
        return compute_loss(self.module, batch)

    def backward(self, loss: Tensor, *, last: bool = True) -> None:
        """Add the gradients of ``loss`` to what is there; ``last``: of this optimiser step.

        Gradients of weights in 16 bits are added up in float32, for bfloat16 would round every sum to 8 bits.
        """
        loss.backward()
        for name, value in self.parameters.items():
            master = self._masters[name]
            if master is not value and value.grad is not None:
                gradient, value.grad = value.grad.float(), None
                master.grad = gradient if master.grad is None else master.grad.add_(gradient)

    def step(self, number: int) -> float:
        """Make optimiser step ``number`` (from 0) and forget the gradients.

        Returns:
            The length of the gradient before it was scaled down; if it is not finite, nothing is changed.
        """
        limit = self.config.max_grad_norm or math.inf
        length = float(torch.nn.utils.clip_grad_norm_(self._masters.values(), limit))
        if math.isfinite(length):
            for group in self.optimizer.param_groups:
                group["lr"] = self.learning_rate(number)
            self.optimizer.step()
            self._copy_masters()
        self.optimizer.zero_grad(set_to_none=True)
        return length

    def _copy_masters(self) -> None:
        for name, value in self.parameters.items():
            if self._masters[name] is not value:
                value.data.copy_(self._masters[name].data)

    def learning_rate(self, number: int) -> float:
        """Learning rate of optimiser step ``number`` (from 0): a linear rise, then the schedule."""
        return schedule_rate(self.config, self.total_steps, number)

    def state(self) -> dict[str, Tensor]:
        """Trainable weights and the optimiser's state by name, for `load_state`."""
        tensors = {f"weight/{name}": value.detach() for name, value in self._masters.items()}
        for name, value in self._masters.items():
            for key, moment in self.optimizer.state.get(value, {}).items():
                tensors[f"{key}/{name}"] = torch.as_tensor(moment).detach()
        # Copies: tensors that share memory (8-bit optimisers share their tables) cannot be written side by side.
        return {key: value.cpu().clone().contiguous() for key, value in tensors.items()}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue from what `state` of this or of a distributed engine returned."""
        for name, value in self._masters.items():
            value.data.copy_(tensors[f"weight/{name}"])
            keys = [key.partition("/")[0] for key in tensors if key.partition("/")[2] == name]
            moments = {key: tensors[f"{key}/{name}"] for key in keys if key != "weight"}
            self.optimizer.state[value] = {key: self._placed(key, moment, value) for key, moment in moments.items()}
        self._copy_masters()

    def _placed(self, key: str, moment: Tensor, value: Tensor) -> Any:
        if key == "step":
            return moment if self.config.optimizer == "adamw" else int(moment)
        if key in ("state1", "state2") and getattr(self.optimizer, "is_paged", False):
            # else a resumed training would hold on the card what the one before it could move to main memory
            return self.optimizer.get_state_buffer(value, dtype=moment.dtype).copy_(moment)
        return moment.to(value.device)

    def weights(self) -> dict[str, Tensor] | None:
        """Weights by name for a checkpoint; None where the module holds them whole itself."""
        return None

    def check_probe(self) -> None:
        """Raise where the policy cannot be watched while it learns; here it can."""


def schedule_rate(config: OptimizerConfig, total_steps: int, number: int) -> float:
    """Learning rate of optimiser step ``number`` (from 0) of ``total_steps``."""
    warmup = math.ceil(config.warmup_ratio * total_steps)
    if number < warmup:
        return config.learning_rate * (number + 1) / warmup
    if config.schedule == "constant":
        return config.learning_rate
    progress = (number - warmup) / max(1, total_steps - warmup)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def make_engine(module: torch.nn.Module, config: OptimizerConfig, total_steps: int) -> Engine:
    """The engine of this launch (see `trainers.distributed.launched`)."""
    if distributed.engine().engine == "local":
        return Engine(module, config, total_steps)
    from trainers.training.deepspeed import DeepSpeedEngine

    return DeepSpeedEngine(module, config, total_steps)


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
    packed = check_scoring(model, packed=config.packing)
    keep_freed_memory()
    if config.activation_checkpointing:
        _checkpoint_activations(plain)
    model.train()
    if not dropout:
        _switch_dropout_off(model)
        _check_without_chance(model)
    unmix_precision(model)
    if config.mixed_precision is not None:
        _mix_precision(model, config.mixed_precision)
    elif distributed.engine().engine == "local":  # ZeRO 3 gathers weights when peft's own layers are called
        fold_adapters(model)
    if distributed.engine().engine == "local":
        fuse(model)
    if config.remake_activations:
        _remake_activations(plain)
    return packed


def _mix_precision(model: Any, dtype: str) -> None:
    """Have the model multiply in ``dtype``.

    Raises:
        ConfigError: where it would change nothing, or cannot be done.
    """
    if distributed.engine().engine != "local":
        raise ConfigError(
            f"mixed_precision is {dtype!r}, but the engine is {distributed.engine().engine!r}, and it works with "
            "'local' alone. Set model.dtype in its place; the engine keeps float32 copies of what it trains."
        )
    if not mix_precision(model, getattr(torch, dtype)):
        raise ConfigError(
            f"mixed_precision is {dtype!r}, but {type(causal_lm(model)).__name__} has no plain linear layer with "
            "weights in float32: they are in another precision, quantised, or in layers of another kind. Leave it out."
        )


def _remake_activations(model: Any) -> None:
    """Have the model keep less.

    Raises:
        ConfigError: where it would change nothing, or cannot be done.
    """
    if distributed.engine().engine != "local":  # a norm whose weights are split cannot run in between
        raise ConfigError(
            f"remake_activations is on, but the engine is {distributed.engine().engine!r}, and it works with 'local' "
            "alone. Set activation_checkpointing in its place."
        )
    if not remake_activations(layers := _layers(model)):
        raise ConfigError(
            f"remake_activations is on, but no layer of {type(model).__name__} has a norm or a gated MLP that is "
            "known here. Set activation_checkpointing in its place."
        )
    return_freed_memory(layers)


def _checkpoint_activations(model: Any) -> None:
    return_freed_memory(_layers(model))
    if hasattr(model, "activation_checkpointing_enable"):  # the name since Transformers 5.2x
        model.activation_checkpointing_enable({"use_reentrant": False})
    else:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    model.enable_input_require_grads()  # with an adapter no weight below the first layer needs a gradient


def _layers(model: Any) -> list[Any]:
    """The layers of the decoder; none where it does not list them."""
    return list(getattr(model.get_decoder(), "layers", ()))


def within_context(config: C, model: Any) -> C:
    """The settings with ``max_length`` no longer than what the model can read."""
    reads = context_length(model) or config.max_length
    return replace(config, max_length=min(config.max_length, reads))


_CHANCE = ("dropout", "layerdrop", "jitter")
"""Parts of the names of settings by which a model's layers draw at random while they train."""


def _switch_dropout_off(model: torch.nn.Module) -> None:
    """Training mode itself must stay on: activation checkpointing depends on it.

    Some layers read their model's configuration as they go; they get a copy, for the model's own is what is saved.
    """
    plain = causal_lm(model)
    quiet = copy.copy(plain.config)
    _silence(quiet)
    for module in model.modules():
        if isinstance(module, _DropoutNd):
            module.p = 0.0
        if getattr(module, "config", None) is plain.config and module not in (model, plain):
            module.config = quiet  # type: ignore[assignment]
        _silence(module)


def _silence(settings: Any) -> None:
    for name, value in vars(settings).items():
        if isinstance(value, float) and any(part in name for part in _CHANCE):
            setattr(settings, name, 0.0)


def _check_without_chance(model: Any) -> None:
    """Score a few tokens twice while training.

    Raises:
        ConfigError: if the numbers differ, so that preferences could not be told from chance.
    """
    plain, device = causal_lm(model), next(model.parameters()).device
    rows = to_device(collate(_samples(plain.config.get_text_config()), packed=False), device)
    with torch.no_grad():
        first, second = (score_tokens(model, rows) for _ in range(2))
    if not _agree(model, second, first):
        raise ConfigError(
            f"{type(plain).__name__} draws at random while it is trained, also with every dropout off, so preferences "
            "could not be told from chance. Use another model."
        )


def check_scoring(model: Any, *, packed: bool) -> bool:
    """Compare `score_tokens` with the model's own logits on a few tokens, in padded rows and in a packed one.

    The model's own numbers are taken under its own attention; where packed rows are exact, it leaves with theirs.

    Returns:
        Whether packed rows give the model's own numbers (False where it was not asked).

    Raises:
        ConfigError: if the model does something to its logits that gathered rows would miss.
    """
    plain, training = causal_lm(model), model.training
    device = next(model.parameters()).device
    samples = _samples(plain.config.get_text_config())
    model.eval()
    try:
        with torch.no_grad(), _rows_apart(model):
            wanted = torch.cat([_own_logps(model, item, device) for item in samples])
            rows = to_device(collate(samples, packed=False), device)
            if not _agree(model, score_tokens(model, rows), wanted):
                raise ConfigError(
                    f"{type(plain).__name__} changes its hidden states or logits in a way that is not known "
                    "here, so its log-probabilities would be wrong. Use another model."
                )
            return packed and _switch_to_packed(model, samples, wanted)
    finally:
        model.train(training)


@contextmanager
def _rows_apart(model: Any) -> Iterator[None]:
    """Have 8-bit layers take each row by itself, as bitsandbytes does at a threshold of 0.

    They else treat a column otherwise if any row of the batch has a large number in it, so that what they say of a row
    depends on those beside it, and no two batches compare.
    """
    states = [layer.state for layer in model.modules() if hasattr(getattr(layer, "state", None), "threshold")]
    thresholds = [state.threshold for state in states]
    try:
        for state in states:
            state.threshold = 0.0
        yield
    finally:
        for state, threshold in zip(states, thresholds, strict=True):
            state.threshold = threshold


def _switch_to_packed(model: Any, samples: list[Encoded], wanted: Tensor) -> bool:
    """Give the model segment attention if rows, padded and packed, then give the ``wanted`` numbers."""
    plain, device = causal_lm(model), next(model.parameters()).device
    own = plain.config._attn_implementation
    problem = _unpackable(plain.config.get_text_config())
    if not problem:
        try:
            plain.set_attn_implementation(register_attention())
            for packed in (False, True):
                batch = to_device(collate(samples, packed=packed), device)
                if not _agree(model, score_tokens(model, batch), wanted):
                    problem = "the numbers differ from the model's own"
            window = _window(plain.config.get_text_config())
            if window is not None and batch.segment_map is not None and window not in batch.segment_map.windows:
                problem = problem or f"no layer says that it sees {window} tokens only"
        except (RuntimeError, TypeError, ValueError, KeyError) as error:
            problem = str(error)
    if problem:
        logger.warning("%s cannot read packed rows (%s); rows are padded instead", type(plain).__name__, problem)
        plain.set_attn_implementation(own)
    return not problem


def _unpackable(config: Any) -> str:
    """Why a model cannot read packed rows, by its configuration; empty where nothing speaks against it."""
    unknown = set(getattr(config, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}
    if getattr(config, "attention_chunk_size", None):
        unknown.add("chunked_attention")
    return f"layers of kind {', '.join(sorted(unknown))}" if unknown else ""


def _window(config: Any) -> int | None:
    """How many tokens the layers with a sliding window see; None where there are none."""
    kinds = getattr(config, "layer_types", None)
    return getattr(config, "sliding_window", None) if kinds is None or "sliding_attention" in kinds else None


def _samples(config: Any) -> list[Encoded]:
    """A beginning in common and three branches; where a window is short, longer than the window."""
    window = _window(config) or 0
    length = window + 8 if 16 <= window <= _WINDOW_TRIED else 24
    prompt = [(7 * place + 3) % config.vocab_size for place in range(length)]
    branches = [
        [(5 * place + 11 * number) % config.vocab_size for place in range(6 + 3 * number)] for number in range(3)
    ]
    return [Encoded(prompt + branch, [-1] * length + [0] * len(branch)) for branch in branches]


def _own_logps(model: Any, item: Encoded, device: Any) -> Tensor:
    ids = torch.tensor([item.input_ids], device=device)
    logits = causal_lm(model)(input_ids=ids, use_cache=False).logits[0]
    first = item.turns.index(0)
    return torch.log_softmax(logits.float(), -1)[first - 1 : -1].gather(1, ids[0, first:, None]).squeeze(1)


def _agree(model: Any, got: Tensor, wanted: Tensor) -> bool:
    exact = causal_lm(model).get_input_embeddings().weight.dtype in (torch.float32, torch.float64)
    tolerance = (1e-3 if exact else 5e-2) * (1 + wanted.abs())
    return bool(torch.isfinite(wanted).all()) and bool(((got - wanted).abs() <= tolerance).all())
