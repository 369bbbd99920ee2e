"""A policy with a value head: what PPO trains."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from trainers.models.loading import LoadedModel, causal_lm
from trainers.models.scoring import head_logps, hidden_states, output_layer


class ActorCritic(torch.nn.Module):
    """A language model, and one number per token: what is expected before the token is written.

    The head reads the policy's last hidden states, and its error does not go back into them: a poor estimate makes the
    advantages noisy, never the policy worse by itself. Every value starts at 0.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        super().__init__()
        self.policy = loaded.model
        embedding = causal_lm(loaded.model).get_input_embeddings().weight
        head = torch.nn.Linear(embedding.shape[1], 1)
        torch.nn.init.zeros_(head.weight)
        torch.nn.init.zeros_(head.bias)
        self.head = head.to(embedding.device)

    def score(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Log-probability of each scored token of a `TokenBatch` in nats, and the value before it: (K,), (K,)."""
        hidden = hidden_states(
            self.policy, batch.input_ids, batch.position_ids, batch.attention_mask, batch.segment_map
        )
        rows = hidden[batch.predictors]
        values = self.head(rows.detach().to(self.head.weight.dtype)).squeeze(-1)
        return head_logps(output_layer(self.policy), rows, batch.targets), values.float()
