"""The contrastive losses against numbers worked out by hand and against finite differences."""

import math

import pytest
import torch

from trainers.losses import dpo_loss, log_ratio_loss, step_dpo_loss


def values(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def test_where_policy_equals_reference_the_loss_is_log_two_and_both_rewards_are_zero():
    chosen, rejected = values(-12.5, -3.0), values(-40.0, -1.0)
    loss = dpo_loss(chosen, rejected, chosen, rejected, beta=0.1)
    assert loss.losses.tolist() == pytest.approx([0.693147, 0.693147], abs=1e-6)
    assert loss.chosen_rewards.tolist() == [0.0, 0.0] == loss.rejected_rewards.tolist()
    assert (loss.chosen_rewards > loss.rejected_rewards).float().mean() == 0.0


def test_the_loss_is_the_number_worked_out_by_hand():
    # ratios: chosen -10 - -12 = 2, rejected -9 - -8 = -1; delta 3; beta 0.5 -> -log sigmoid(1.5)
    loss = dpo_loss(values(-10.0), values(-9.0), values(-12.0), values(-8.0), beta=0.5)
    assert loss.losses.item() == pytest.approx(math.log(1 + math.exp(-1.5)))
    assert (loss.chosen_rewards.item(), loss.rejected_rewards.item()) == (1.0, -0.5)


def test_the_gradients_are_minus_and_plus_beta_sigmoid_of_minus_beta_delta():
    chosen, rejected = values(-10.0).requires_grad_(), values(-9.0).requires_grad_()
    dpo_loss(chosen, rejected, values(-12.0), values(-8.0), beta=0.5).losses.sum().backward()
    expected = 0.5 / (1 + math.exp(1.5))
    assert chosen.grad.item() == pytest.approx(-expected)
    assert rejected.grad.item() == pytest.approx(expected)


def test_swapping_the_sides_turns_the_sign_of_delta():
    loss = dpo_loss(values(-9.0), values(-10.0), values(-8.0), values(-12.0), beta=0.5)
    assert loss.losses.item() == pytest.approx(math.log(1 + math.exp(1.5)))


def test_a_huge_difference_gives_a_finite_loss():
    loss = dpo_loss(values(-1e4, 0.0), values(0.0, -1e4), values(0.0, 0.0), values(0.0, 0.0), beta=1.0)
    assert loss.losses.tolist() == pytest.approx([1e4, 0.0])


def test_step_loss_with_one_step_is_the_plain_loss():
    sides = [values(-3.0, -7.0), values(-5.0, -6.0), values(-4.0, -6.5), values(-4.5, -6.2)]
    plain = dpo_loss(*sides, beta=0.3)
    by_step = step_dpo_loss(*[side[:, None] for side in sides], values(2.0, 0.1)[:, None], beta=0.3)
    for one, other in zip(plain, by_step, strict=True):
        assert torch.allclose(one, other)


def test_step_loss_is_the_weighted_mean_worked_out_by_hand():
    chosen, rejected, zero = values(1.0, -1.0)[None], values(0.0, 1.0)[None], values(0.0, 0.0)[None]
    loss = step_dpo_loss(chosen, rejected, zero, zero, values(3.0, 1.0)[None], beta=1.0)
    first, second = math.log(1 + math.exp(-1.0)), math.log(1 + math.exp(2.0))
    assert loss.losses.item() == pytest.approx((3 * first + second) / 4)
    assert (loss.chosen_rewards.item(), loss.rejected_rewards.item()) == (0.0, 1.0)


def test_a_step_of_weight_zero_has_no_influence_and_no_gradient():
    chosen = values(-2.0, -50.0)[None].requires_grad_()
    rest = values(-3.0, -1.0)[None]
    loss = step_dpo_loss(chosen, rest, rest, rest, values(1.0, 0.0)[None], beta=0.1)
    loss.losses.sum().backward()
    assert loss.losses.item() == pytest.approx(math.log(1 + math.exp(-0.1)))
    assert chosen.grad[0, 1] == 0.0


def test_step_gradients_agree_with_finite_differences():
    torch.manual_seed(0)
    sides = [torch.randn(3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    references = [torch.randn(3, 4, dtype=torch.float64) for _ in range(2)]
    weights = torch.rand(3, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda chosen, rejected: step_dpo_loss(chosen, rejected, *references, weights, beta=0.7).losses, sides
    )


def test_the_literal_loss_falls_when_success_becomes_likelier():
    less = log_ratio_loss(values(-5.0), values(-4.0))
    more = log_ratio_loss(values(-3.0), values(-4.0))
    assert (less.losses.item(), more.losses.item()) == (1.0, -1.0)
