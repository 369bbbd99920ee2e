"""What a model thinks of given tokens, without a logit for any other token.

The backbone runs to its last hidden states, the rows that predict a scored token are gathered, and only they go
through the output layer: for observation tokens no (tokens x vocabulary) matrix ever exists.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from trainers.losses.logprobs import token_logps
from trainers.models.loading import causal_lm

CHUNK = 256  # scored tokens that go through the output layer at once
KEPT = 1024  # as many under an output layer that learns: more would have to be computed again in the backward pass


def hidden_states(
    model: Any, input_ids: Tensor, position_ids: Tensor, attention_mask: Tensor | None = None, segment_map: Any = None
) -> Tensor:
    """Last hidden states of every place, flat: (R·T, D)."""
    options: dict[str, Any] = {"attention_mask": attention_mask}
    if segment_map is not None:
        # A mask of four dimensions is passed on as it is; segment attention does not look at it.
        nothing = torch.zeros(1, 1, 1, 1, dtype=torch.bool, device=input_ids.device)
        options = {"attention_mask": nothing, "segment_map": segment_map}
    decoder = causal_lm(model).get_decoder()
    output = decoder(input_ids=input_ids, position_ids=position_ids, use_cache=False, **options)
    return output.last_hidden_state.flatten(0, 1)


def score_tokens(model: Any, batch: Any) -> Tensor:
    """Log-probability of each scored token of a `TokenBatch`: (K,), in nats, float32."""
    hidden = hidden_states(model, batch.input_ids, batch.position_ids, batch.attention_mask, batch.segment_map)
    return head_logps(output_layer(model), hidden[batch.predictors], batch.targets)


def output_layer(model: Any) -> Callable[[Tensor], Tensor]:
    """The model's output layer with what its configuration says is done to the logits, in that order.

    Scaled: Cohere (``logit_scale``), Granite (``logits_scaling`` divides), Falcon-H1 (``lm_head_multiplier``). Capped:
    Gemma (``final_logit_softcapping``). What is not known here is found by `trainers.training.engine.check_scoring`.
    """
    plain = causal_lm(model)
    head, config = plain.get_output_embeddings(), plain.config.get_text_config()
    factor = _number(config, "logit_scale") * _number(config, "lm_head_multiplier") / _number(config, "logits_scaling")
    cap = getattr(config, "final_logit_softcapping", None)
    if factor == 1.0 and not cap:
        return head

    def scaled(hidden: Tensor) -> Tensor:
        logits = head(hidden)
        logits = (logits if logits.dtype == torch.float64 else logits.float()) * factor
        return torch.tanh(logits / cap) * cap if cap else logits

    return scaled


def _number(config: Any, name: str) -> float:
    value = getattr(config, name, None)
    return float(value) if isinstance(value, int | float) and value else 1.0


def head_logps(head: Any, hidden: Tensor, targets: Tensor, chunk: int | None = None) -> Tensor:
    """Send gathered hidden states (K, D) through the output layer, ``chunk`` rows at a time (None: `CHUNK` or `KEPT`).

    With gradients and more than one chunk the logits are computed again in the backward pass instead of kept; under an
    output layer that does not learn no logit is needed twice (see `_FrozenHead`).
    """
    learning = torch.is_grad_enabled() and hidden.requires_grad
    if learning and _is_frozen(head):
        logps: Tensor = _FrozenHead.apply(hidden, head.weight, head.bias, targets, chunk or CHUNK)
        return logps
    chunk = chunk or (KEPT if learning else CHUNK)
    if len(targets) <= chunk:
        return token_logps(head(hidden), targets)

    def part(rows: Tensor, wanted: Tensor) -> Tensor:
        return token_logps(head(rows), wanted)

    pieces = zip(hidden.split(chunk), targets.split(chunk), strict=True)
    if not torch.is_grad_enabled():
        return torch.cat([part(*piece) for piece in pieces])
    return torch.cat([checkpoint(part, *piece, use_reentrant=False) for piece in pieces])


def _is_frozen(head: Any) -> bool:
    """A plain linear layer that does not learn, with its whole weight here (under ZeRO-3 it is elsewhere)."""
    if type(head) is not torch.nn.Linear or head._forward_hooks or head._forward_pre_hooks:
        return False
    parameters = list(head.parameters())
    return not any(value.requires_grad or hasattr(value, "ds_id") for value in parameters)


class _FrozenHead(torch.autograd.Function):
    """Log-probabilities with their gradient taken in the same pass, so that logits of one chunk exist at a time.

        log p_k = (W h_k)[y_k] − log Σ_v exp (W h_k)[v]
        ∂ log p_k / ∂ h_k = W[y_k] − Σ_v p_k[v] · W[v]

    Each log-probability depends on its own hidden state alone, so the gradient (K, D) is known before the loss is, and
    the backward pass only scales its rows.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, chunk: int) -> Tensor:
        logps, slopes = [], []
        for rows, wanted in zip(hidden.split(chunk), targets.split(chunk), strict=True):
            logits = torch.nn.functional.linear(rows, weight, bias)
            scores = logits if logits.dtype == torch.float64 else logits.float()
            own, most = scores.gather(-1, wanted.unsqueeze(-1)), scores.amax(-1, keepdim=True)
            sums = scores.sub_(most).exp_().sum(-1, keepdim=True)  # in place: a pass over the vocabulary costs
            logps.append((own - (sums.log() + most)).squeeze(-1))
            shares = scores.div_(sums).to(weight.dtype)
            slopes.append(weight[wanted] - shares @ weight)
        ctx.save_for_backward(torch.cat(slopes))
        return torch.cat(logps)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        (slopes,) = ctx.saved_tensors
        return (gradients[0].unsqueeze(-1) * slopes).to(slopes.dtype), None, None, None, None
