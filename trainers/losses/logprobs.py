"""Log-probabilities of tokens and their sums.

``log π(e|u) = Σ_k 1[token k was written by the policy] · log π(t_k | t_<k)``: a sum, never a mean, over the tokens the
policy wrote. What the environment or the template wrote has no row here at all.
"""

from __future__ import annotations

import torch
from torch import Tensor


def token_logps(logits: Tensor, targets: Tensor) -> Tensor:
    """Log-probability of each target, in float32 (float64 stays) whatever the weights' precision.

    Args:
        logits: (K, V), one row per token that is scored.
        targets: (K,), the token that followed.

    Returns:
        (K,), in nats.
    """
    scores = logits if logits.dtype == torch.float64 else logits.float()
    return scores.gather(-1, targets.unsqueeze(-1)).squeeze(-1) - scores.logsumexp(-1)


def sum_logps(logps: Tensor, groups: Tensor, n_groups: int) -> Tensor:
    """Add up token log-probabilities by group, such as the response or the step a token belongs to.

    Args:
        logps: (K,), in nats.
        groups: (K,), group number of each token, from 0.
        n_groups: how many groups there are; one without tokens sums to 0.

    Returns:
        (n_groups,), in nats.
    """
    return logps.new_zeros(n_groups).index_add(0, groups, logps)
