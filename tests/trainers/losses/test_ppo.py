"""Bradley-Terry, GAE and the clipped surrogate against numbers worked out by hand, plain loops and autograd."""

import math

import pytest
import torch

from trainers.losses import (
    bradley_terry_loss,
    clip_fraction,
    clipped_surrogate_loss,
    generalized_advantages,
    token_rewards,
    value_loss,
    whiten,
)


def values(*numbers) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_bradley_terry_is_the_number_worked_out_by_hand_and_log_two_where_both_are_equal():
    losses = bradley_terry_loss(values(2.0, -7.0), values(0.5, -7.0))
    assert losses.tolist() == pytest.approx([math.log(1 + math.exp(-1.5)), math.log(2)])


def test_bradley_terry_sees_differences_alone_and_stays_finite():
    chosen, rejected = values(0.3, 1e5), values(1.1, -1e5)
    assert torch.allclose(bradley_terry_loss(chosen, rejected), bradley_terry_loss(chosen + 9, rejected + 9))
    assert bradley_terry_loss(rejected, chosen)[1].item() == pytest.approx(2e5)


def test_bradley_terry_gradients_are_minus_and_plus_the_probability_of_the_other_order():
    chosen, rejected = values(2.0).requires_grad_(), values(0.5).requires_grad_()
    bradley_terry_loss(chosen, rejected).sum().backward()
    wrong = 1 / (1 + math.exp(1.5))
    assert (chosen.grad.item(), rejected.grad.item()) == pytest.approx((-wrong, wrong))
    assert torch.autograd.gradcheck(
        bradley_terry_loss, (random(5).requires_grad_(), random(5, seed=1).requires_grad_())
    )


def test_the_reward_comes_at_the_last_token_and_every_token_pays_for_straying():
    mask = values([1, 1, 1], [1, 1, 0])
    logps, reference = values([-1.0, -2.0, -3.0], [-1.0, -1.0, 7.0]), values([-1.5, -2.0, -2.0], [-1.0, -3.0, 9.0])
    rewards = token_rewards(values(10.0, -4.0), logps, reference, mask, kl_coef=0.1)
    assert rewards.flatten().tolist() == pytest.approx([-0.05, 0.0, 10.1, 0.0, -4.2, 0.0])


def test_advantages_are_those_worked_out_by_hand():
    # gamma 0.5, lambda 0.5; deltas: 1 + 0.5*2 - 1 = 1, 0 + 0.5*4 - 2 = 0, 6 + 0 - 4 = 2
    # A3 = 2; A2 = 0 + 0.25*2 = 0.5; A1 = 1 + 0.25*0.5 = 1.125
    rewards, expected = values([1.0, 0.0, 6.0]), values([1.0, 2.0, 4.0])
    found = generalized_advantages(rewards, expected, torch.ones(1, 3), gamma=0.5, lam=0.5)
    assert found.flatten().tolist() == pytest.approx([1.125, 0.5, 2.0])


def test_advantages_are_the_weighted_sums_of_the_definition_whatever_stands_behind_the_end():
    rewards, expected, lengths, gamma, lam = random(4, 6), random(4, 6, seed=1), (6, 1, 3, 5), 0.9, 0.7
    mask = torch.tensor([[float(place < length) for place in range(6)] for length in lengths])
    found = generalized_advantages(rewards, expected, mask, gamma=gamma, lam=lam)
    for row, length in enumerate(lengths):
        own = [*expected[row, :length].tolist(), 0.0]
        deltas = [rewards[row, t].item() + gamma * own[t + 1] - own[t] for t in range(length)]
        wanted = [sum((gamma * lam) ** (k - t) * deltas[k] for k in range(t, length)) for t in range(length)]
        assert found[row].tolist() == pytest.approx([*wanted, *[0.0] * (6 - length)])


def test_lambda_one_gives_the_return_less_the_value_and_lambda_zero_one_step():
    rewards, expected, mask = values([0.5, -1.0, 3.0]), values([1.0, 2.0, 4.0]), torch.ones(1, 3)
    whole = generalized_advantages(rewards, expected, mask, gamma=1.0, lam=1.0)
    assert whole.flatten().tolist() == pytest.approx([2.5 - 1.0, 2.0 - 2.0, 3.0 - 4.0])
    single = generalized_advantages(rewards, expected, mask, gamma=1.0, lam=0.0)
    assert single.flatten().tolist() == pytest.approx([0.5 + 2 - 1, -1 + 4 - 2, 3 - 4])


def test_whitened_advantages_have_mean_zero_and_deviation_one_over_the_tokens_that_are_there():
    advantages, mask = random(3, 4), values([1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 0, 0])
    found = whiten(advantages, mask)
    there = found[mask > 0]
    assert there.mean().item() == pytest.approx(0.0, abs=1e-9)
    assert there.std(correction=0).item() == pytest.approx(1.0, abs=1e-6)
    assert found[mask == 0].abs().max() == 0
    assert whiten(values([3.0]), values([1.0])).item() == 0.0


def test_the_surrogate_is_the_formula_token_by_token():
    logps, old, advantages = random(50), random(50, seed=1), random(50, seed=2)
    found = clipped_surrogate_loss(logps, old, advantages, clip=0.2)
    for one, other, advantage, loss in zip(*(t.tolist() for t in (logps, old, advantages, found)), strict=True):
        ratio = math.exp(one - other)
        assert loss == pytest.approx(-min(ratio * advantage, min(max(ratio, 0.8), 1.2) * advantage))


def test_at_the_old_policy_the_gradient_is_that_of_the_advantage_times_the_logp():
    logps, advantages = random(6).requires_grad_(), random(6, seed=1)
    clipped_surrogate_loss(logps, logps.detach(), advantages, clip=0.2).sum().backward()
    assert torch.allclose(logps.grad, -advantages)


def test_a_ratio_that_has_gone_far_enough_has_no_gradient_and_one_that_went_wrong_is_called_back():
    # ratios 1.5, 1.5, 0.5, 0.5 with advantages +, -, +, -
    old = values(-1.0, -1.0, -1.0, -1.0)
    logps = (old + values(1.5, 1.5, 0.5, 0.5).log()).requires_grad_()
    clipped_surrogate_loss(logps, old, values(1.0, -1.0, 1.0, -1.0), clip=0.2).sum().backward()
    assert logps.grad.tolist() == pytest.approx([0.0, 1.5, -0.5, 0.0])


def test_surrogate_and_value_gradients_agree_with_finite_differences():
    old, advantages = random(8, seed=1), random(8, seed=2)
    assert torch.autograd.gradcheck(
        lambda logps: clipped_surrogate_loss(logps, old, advantages, clip=0.2), (random(8).requires_grad_(),)
    )
    assert torch.autograd.gradcheck(lambda one: value_loss(one, advantages), (random(8).requires_grad_(),))
    assert value_loss(values(1.0, 2.0), values(0.0, 5.0)).tolist() == [1.0, 9.0]


def test_the_clip_fraction_counts_ratios_on_both_sides():
    assert clip_fraction(values(1.5, 1.1, 0.9, 0.5).log(), torch.zeros(4), clip=0.2).item() == 0.5
