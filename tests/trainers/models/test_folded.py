"""Folded adapters give peft's numbers, and step aside where they would not."""

from __future__ import annotations

import copy

import pytest
from packages import installed

torch = installed("torch", extra="train")
peft = installed("peft", extra="peft")

from two_layers import adapted  # noqa: E402

from trainers.models import folded  # noqa: E402
from trainers.models.folded import FEWEST_TOKENS, FoldedLinear, fold_adapters  # noqa: E402


def learned(model, x):
    """Outputs, the gradient for the input, and those of the adapter by name."""
    model.zero_grad()
    x = x.clone().requires_grad_()
    y = model(x)
    y.square().sum().backward()
    return y.detach(), x.grad, {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


@pytest.fixture
def calls(monkeypatch):
    """How often a layer was folded."""
    counted = []
    apply = FoldedLinear.apply
    monkeypatch.setattr(folded.FoldedLinear, "apply", lambda *given: counted.append(1) or apply(*given))
    return counted


ROWS = torch.randn(2, FEWEST_TOKENS, 12, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("shape", [(2, FEWEST_TOKENS, 12), (3 * FEWEST_TOKENS, 12)])
def test_outputs_and_gradients_are_those_of_peft(shape, calls):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    model = adapted()
    expected = learned(model, x)
    assert fold_adapters(model) == 2
    found = learned(model, x)
    assert len(calls) == 2
    assert found[2].keys() == expected[2].keys() and len(found[2]) == 4
    for one, other in zip((*found[:2], *found[2].values()), (*expected[:2], *expected[2].values()), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_gradients_are_those_of_small_differences():
    draw = torch.Generator().manual_seed(2)
    x, w, b, down, up = (
        torch.randn(shape, generator=draw, dtype=torch.float64) for shape in ((2, 5, 4), (6, 4), (6,), (2, 4), (6, 2))
    )
    for tensor in (x, down, up):
        tensor.requires_grad_()
    assert torch.autograd.gradcheck(FoldedLinear.apply, (x, w, b, down, up, 0.7))
    assert torch.autograd.gradcheck(FoldedLinear.apply, (x.detach(), w, None, down, up, 2.0))


def test_under_activation_checkpointing_too(calls):
    from torch.utils.checkpoint import checkpoint

    model = adapted()
    fold_adapters(model)
    _, expected, adapter = learned(model, ROWS)
    model.zero_grad()
    x = ROWS.clone().requires_grad_()
    checkpoint(model, x, use_reentrant=False).square().sum().backward()
    torch.testing.assert_close(x.grad, expected)
    for name, value in model.named_parameters():
        torch.testing.assert_close(value.grad, adapter.get(name))
    assert len(calls) == 6


@pytest.mark.parametrize("why", ["playing", "few tokens", "switched off", "merged", "two adapters", "autocast"])
def test_a_layer_steps_aside_where_folding_is_not_exact_or_not_worthwhile(why, calls):
    model, x = adapted(), ROWS
    if why == "few tokens":
        x = ROWS[:1, : FEWEST_TOKENS - 1]
    if why == "merged":
        model.merge_adapter()
    if why == "two adapters":
        model.add_adapter("other", peft.LoraConfig(r=2, target_modules=["first", "second"], init_lora_weights=False))
        model.base_model.set_adapter(["default", "other"])
    plain = copy.deepcopy(model)
    fold_adapters(model)

    def outputs(some):
        with torch.inference_mode(why == "playing"):
            if why == "switched off":
                with some.disable_adapter():
                    return some(x)
            with torch.autocast("cpu", enabled=why == "autocast"):
                return some(x)

    torch.testing.assert_close(outputs(model), outputs(plain), rtol=0, atol=0)
    assert not calls


def test_it_is_folded_without_gradients_too(calls):
    model = adapted()
    fold_adapters(model)
    with torch.no_grad():  # as a reference is scored
        found = model(ROWS)
    assert len(calls) == 2
    torch.testing.assert_close(found, model(ROWS), rtol=0, atol=0)  # so its first step starts at a margin of 0


def test_dropout_keeps_a_layer_as_it_is_until_it_is_off(calls):
    model = adapted(dropout=0.5)
    fold_adapters(model)
    model(ROWS)
    assert not calls
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    model(ROWS)
    assert len(calls) == 2


@pytest.mark.parametrize(
    "kind", [{"use_dora": True}, {"bias": "lora_only"}, {"lora_bias": True}, {"dtype": torch.bfloat16}]
)
def test_layers_that_are_more_than_that_are_left_alone(kind):
    model = adapted(**kind)
    assert fold_adapters(model) == (1 if kind == {"bias": "lora_only"} else 0)  # one of the two has a bias


def test_a_copy_computes_with_its_own_weights(calls):
    model = adapted()
    fold_adapters(model)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for name, weight in other.named_parameters():
            if "lora_B" in name:
                weight.zero_()
    expected = other.get_base_model()
    with other.disable_adapter():
        plain = expected(ROWS)
    torch.testing.assert_close(other(ROWS), plain)
    assert len(calls) == 2 and not torch.allclose(model(ROWS), plain)


def test_a_layer_whose_parts_are_watched_goes_on_calling_them(calls):
    model, seen = adapted(), []
    model.base_model.model.first.base_layer.register_forward_hook(lambda *_: seen.append("first"))
    other = model.base_model.model.second.lora_A["default"]
    plain = other.forward
    other.forward = lambda x: seen.append("second") or plain(x)
    assert fold_adapters(model) == 0
    model(ROWS)
    assert seen == ["first", "second"] and not calls
