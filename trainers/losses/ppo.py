"""Proximal policy optimisation of one answer per prompt: rewards of tokens, advantages, and the clipped surrogate.

B answers of up to T tokens; ``mask`` is 1 on the tokens of an answer, which stand on the left and are at least one,
and 0 behind its end, where every other argument may hold any finite number. Log-probabilities are in nats.
"""

from __future__ import annotations

import torch
from torch import Tensor


def token_rewards(scores: Tensor, logps: Tensor, reference_logps: Tensor, mask: Tensor, *, kl_coef: float) -> Tensor:
    """Rewards of tokens: the answer's reward at its last one, less what each strays from the reference.

        r_t = 1[t = T]·R(x, y) − κ·(log π(y_t | x, y_<t) − log π_ref(y_t | x, y_<t))

    As in Stiennon et al. (2020, section 3.4) and Ouyang et al. (2022, eq. 2), token by token.

    Args:
        scores: (B,), R(x, y).
        logps: (B, T), under the policy that wrote the answer.
        reference_logps: (B, T), under the frozen reference.
        mask: (B, T).
        kl_coef: κ, in units of reward per nat.

    Returns:
        (B, T), in units of reward; 0 behind the end.
    """
    rewards = -kl_coef * (logps - reference_logps) * mask
    last = mask.sum(-1, keepdim=True).long() - 1
    return rewards.scatter_add(1, last, scores.unsqueeze(-1).to(rewards.dtype))


def generalized_advantages(rewards: Tensor, values: Tensor, mask: Tensor, *, gamma: float, lam: float) -> Tensor:
    """Generalised advantage estimation (Schulman et al., 2016, eqs. 11, 12 and 16).

        δ_t = r_t + γ·V_{t+1} − V_t        with V = 0 behind the end
        A_t = δ_t + γλ·A_{t+1}

    Args:
        rewards: (B, T), r_t of each token.
        values: (B, T), V_t, expected before the token is written.
        mask: (B, T).
        gamma: γ, discount per token.
        lam: λ; 1: the whole return less V_t, 0: δ_t alone.

    Returns:
        (B, T), in units of reward; 0 behind the end. With ``values`` they add up to the returns V should have.
    """
    values = values * mask
    following = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], 1)
    deltas = (rewards + gamma * following - values) * mask
    advantages, advantage = torch.zeros_like(deltas), torch.zeros_like(deltas[:, 0])
    for place in range(deltas.shape[1] - 1, -1, -1):
        advantage = deltas[:, place] + gamma * lam * advantage
        advantages[:, place] = advantage
    return advantages


def whiten(advantages: Tensor, mask: Tensor) -> Tensor:
    """Advantages with mean 0 and deviation 1 over all tokens: (B, T), without a unit; 0 behind the end."""
    count = mask.sum()
    centred = (advantages - (advantages * mask).sum() / count) * mask
    return centred / ((centred.square().sum() / count).sqrt() + 1e-8)


def clipped_surrogate_loss(logps: Tensor, old_logps: Tensor, advantages: Tensor, *, clip: float) -> Tensor:
    """The clipped surrogate objective, as a loss (Schulman et al., 2017, eq. 7).

        ρ_t = π(y_t | x, y_<t) / π_old(y_t | x, y_<t)
        L_t = − min(ρ_t·A_t, clip(ρ_t, 1 − ε, 1 + ε)·A_t)

    A token whose ratio has left the interval in the direction of its advantage has no gradient. Ratios end at e^80, so
    that none is infinite in float32.

    Args:
        logps: (K,), log π, of all tokens of a batch.
        old_logps: (K,), log π_old, under the policy that wrote them.
        advantages: (K,), A_t.
        clip: ε.

    Returns:
        Losses (K,).
    """
    ratios = (logps - old_logps).clamp(max=80.0).exp()
    return -torch.minimum(ratios * advantages, ratios.clamp(1 - clip, 1 + clip) * advantages)


def clip_fraction(logps: Tensor, old_logps: Tensor, *, clip: float) -> Tensor:
    """Share of the tokens whose ratio is outside of [1 − ε, 1 + ε]: a scalar."""
    return (((logps - old_logps).exp() - 1).abs() > clip).float().mean()


def value_loss(values: Tensor, returns: Tensor) -> Tensor:
    """Squared error of the value head (Schulman et al., 2017, eq. 9): L_t = (V_t − V_t^target)², (K,)."""
    return (values - returns).square()
