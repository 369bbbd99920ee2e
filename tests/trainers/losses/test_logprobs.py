"""Log-probabilities of tokens, and the two losses that are means."""

import math

import pytest
import torch

from trainers.losses import reward_loss, sft_loss, sum_logps, token_logps


def test_a_token_logp_is_the_log_softmax_of_its_target():
    logits = torch.tensor([[0.0, math.log(3.0)], [5.0, 5.0]])
    assert token_logps(logits, torch.tensor([1, 0])).tolist() == pytest.approx([math.log(0.75), math.log(0.5)])


def test_half_precision_logits_are_normalised_in_float32():
    logits = torch.randn(4, 1000, generator=torch.Generator().manual_seed(0)).bfloat16()
    logps = token_logps(logits, torch.arange(4))
    assert logps.dtype == torch.float32
    exact = torch.log_softmax(logits.double(), -1)[torch.arange(4), torch.arange(4)]
    assert torch.allclose(logps.double(), exact, atol=1e-5)


def test_sums_run_over_the_tokens_of_a_group_and_are_zero_without_tokens():
    logps = torch.tensor([-1.0, -2.0, -4.0])
    assert sum_logps(logps, torch.tensor([0, 2, 0]), 4).tolist() == [-5.0, 0.0, -2.0, 0.0]


def test_sft_loss_is_the_mean_over_tokens():
    assert sft_loss(torch.tensor([-1.0, -3.0])).item() == 2.0


def test_reward_loss_counts_existing_steps_only():
    predictions = torch.tensor([[0.5, 9.0], [0.0, 1.0]], requires_grad=True)
    targets = torch.tensor([[1.0, float("nan")], [0.0, 0.5]])
    loss = reward_loss(predictions, targets, torch.tensor([[1, 0], [1, 1]]))
    assert loss.item() == pytest.approx((0.25 + 0.0 + 0.25) / 3)
    loss.backward()
    assert predictions.grad[0, 1] == 0.0
