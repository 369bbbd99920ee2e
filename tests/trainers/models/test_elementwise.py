"""Hand-written gradients agree with small differences, and values with what the formulas say."""

from __future__ import annotations

from packages import installed

torch = installed("torch", extra="train")

from trainers.models.elementwise import GatedProduct, RootMeanSquareNorm, RotaryPositions  # noqa: E402


def numbers(*shape, seed=0):
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return drawn.requires_grad_()


def test_root_mean_square_norm():
    x, weight = numbers(2, 3, 5), numbers(5, seed=1)
    expected = weight * x / (x.square().mean(-1, keepdim=True) + 1e-3).sqrt()
    torch.testing.assert_close(RootMeanSquareNorm.apply(x, weight, 1e-3), expected)
    assert torch.autograd.gradcheck(lambda *given: RootMeanSquareNorm.apply(*given, 1e-3), (x, weight))
    assert torch.autograd.gradcheck(lambda one: RootMeanSquareNorm.apply(one, weight.detach(), 1e-3), (x,))


def test_a_row_of_zeros_is_normed_to_zeros():
    x = torch.zeros(2, 4, requires_grad=True)
    y = RootMeanSquareNorm.apply(x, torch.ones(4), 1e-5)
    y.sum().backward()
    assert not y.any() and x.grad.isfinite().all()


def test_gated_product_of_any_activation():
    gate, up = numbers(3, 4), numbers(3, 4, seed=1)
    for act in (torch.nn.functional.silu, torch.nn.functional.gelu, torch.sigmoid, lambda one: one):
        torch.testing.assert_close(GatedProduct.apply(gate, up, act), act(gate) * up)
        assert torch.autograd.gradcheck(lambda one, other, act=act: GatedProduct.apply(one, other, act), (gate, up))


def test_rotary_positions():
    x, angles = numbers(2, 3, 2, 4), numbers(2, 3, 2, seed=1).detach()
    cos, sin = (torch.cat([part, part], -1) for part in (angles.cos(), angles.sin()))
    turned = RotaryPositions.apply(x, cos, sin)
    as_complex = torch.complex(x[..., :2], x[..., 2:]) * torch.polar(torch.ones_like(angles), angles).unsqueeze(2)
    torch.testing.assert_close(turned, torch.cat([as_complex.real, as_complex.imag], -1))
    uneven = numbers(2, 3, 4, seed=2).detach(), numbers(2, 3, 4, seed=3).detach()  # halves need not be alike
    assert torch.autograd.gradcheck(lambda one: RotaryPositions.apply(one, *uneven), (x,))
