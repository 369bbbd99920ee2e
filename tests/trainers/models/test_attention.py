"""Attention by stretches equals attention with a mask, in value and gradient."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from trainers.models.attention import fused_kernel_fits, joined_segments, span_attention

SEGMENTS = [((0, 7), ()), ((7, 12), ((0, 7),)), ((12, 20), ((0, 7), (7, 12))), ((20, 23), ((0, 7), (7, 12)))]


@pytest.fixture(params=[torch.float64, torch.float32])
def tensors(request):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(1, 2, 23, 8, generator=generator).to(request.param).requires_grad_() for _ in range(4)]


def mask() -> torch.Tensor:
    seen = torch.zeros(23, 23, dtype=torch.bool)
    for own, above in SEGMENTS:
        seen[own[0] : own[1], own[0] : own[1]] = torch.ones(own[1] - own[0], own[1] - own[0]).tril().bool()
        for start, end in above:
            seen[own[0] : own[1], start:end] = True
    return seen


@pytest.mark.parametrize("scale", [None, 0.7])
def test_it_equals_attention_with_a_mask(tensors, scale):
    *inputs, weight = tensors
    assert fused_kernel_fits(inputs[0])
    results = []
    for output in (
        span_attention(*inputs, SEGMENTS, scale),
        scaled_dot_product_attention(*inputs, attn_mask=mask(), scale=scale),
    ):
        results.append([output, *torch.autograd.grad((output * weight).sum(), inputs)])
    tolerance = 1e-12 if inputs[0].dtype == torch.float64 else 1e-5
    for one, other in zip(*results, strict=True):
        assert torch.allclose(one, other, rtol=0, atol=tolerance)


def test_heads_of_queries_may_share_keys_and_values():
    generator = torch.Generator().manual_seed(2)
    query, key, value, weight = (
        torch.randn(1, heads, 23, 8, generator=generator).double().requires_grad_() for heads in (6, 2, 2, 6)
    )
    results = []
    for shared in (True, False):
        told = [key, value] if shared else [one.repeat_interleave(3, 1) for one in (key, value)]
        output = span_attention(query, *told, SEGMENTS)
        results.append([output, *torch.autograd.grad((output * weight).sum(), [query, key, value])])
    for one, other in zip(*results, strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-12)
    assert results[0][0].transpose(1, 2).is_contiguous()  # the next layer keeps this memory and no copy of it


@pytest.mark.parametrize("segments", [[((0, 3), ()), ((3, 3), ())], [((0, 3), ()), ((3, 5), [(2, 2)])]])
def test_a_segment_or_stretch_without_columns_is_refused(segments):
    row = torch.randn(1, 2, 5, 8)
    with pytest.raises(ValueError, match="no columns"):
        span_attention(row, row, row, segments)


def test_its_gradient_agrees_with_finite_differences():
    generator = torch.Generator().manual_seed(1)
    inputs = [torch.randn(1, 1, 23, 4, generator=generator).double().requires_grad_() for _ in range(3)]
    assert torch.autograd.gradcheck(lambda *rows: span_attention(*rows, SEGMENTS), inputs, fast_mode=True)


def test_a_segment_that_goes_on_behind_the_one_above_is_a_part_of_it():
    assert joined_segments(SEGMENTS) == [((0, 20), ()), ((20, 23), ((0, 7), (7, 12)))]
    assert joined_segments([((0, 4), ()), ((4, 6), ()), ((6, 9), ((4, 6),))]) == [((0, 4), ()), ((4, 9), ())]
    apart = [((0, 4), ()), ((4, 6), ((0, 4),)), ((6, 9), ((0, 4),)), ((9, 11), ((0, 4), (6, 9)))]
    assert joined_segments(apart) == [((0, 6), ()), ((6, 11), ((0, 4),))]
    assert joined_segments([]) == []
