"""Padding, composition and labels: what may and what may not change a log-probability."""

import pytest
import torch

from trainers.batches import collate, last_places, split_to_fit, to_device
from trainers.losses import sft_loss
from trainers.models.scoring import head_logps, score_tokens
from trainers.models.tiny import tiny_model
from trainers.packing import register_attention
from trainers.tokenization import Encoded


def conversation(seed: int, length: int) -> Encoded:
    ids = torch.randint(3, 259, (length,), generator=torch.Generator().manual_seed(seed)).tolist()
    cut = length // 4
    return Encoded(ids, [-1] * cut + [0] * cut + [-1] * cut + [1] * (length - 3 * cut))


CONVERSATIONS = [conversation(seed, length) for seed, length in enumerate((12, 40, 23))]


@pytest.fixture(scope="module")
def model():
    model = tiny_model(0).double().eval()
    model.set_attn_implementation(register_attention())
    return model


def alone(model, item: Encoded) -> torch.Tensor:
    """Log-probabilities of the agent's tokens, taken from the model's own logits."""
    logits = model(torch.tensor([item.input_ids])).logits[0]
    logps = torch.log_softmax(logits[:-1], -1)
    kept = [k for k, turn in enumerate(item.turns) if turn >= 0]
    return torch.stack([logps[k - 1, item.input_ids[k]] for k in kept])


@pytest.mark.parametrize("side", ["right", "left"])
def test_padding_and_batch_composition_do_not_change_a_log_probability(model, side):
    with torch.no_grad():
        wanted = torch.cat([alone(model, item) for item in CONVERSATIONS])
        together = score_tokens(model, collate(CONVERSATIONS, packed=False, side=side))
    assert torch.allclose(together, wanted, atol=1e-12)


def test_the_order_of_a_batch_does_not_change_a_log_probability(model):
    batch = collate(CONVERSATIONS, packed=False)
    turned = collate(CONVERSATIONS[::-1], packed=False)
    with torch.no_grad():
        sums = [score_tokens(model, one)[one.rows == row].sum() for one, row in ((batch, 0), (turned, 2))]
    assert sums[0].item() == pytest.approx(sums[1].item(), abs=1e-10)


@pytest.mark.parametrize("packed", [False, True])
def test_only_agent_tokens_reach_the_output_layer(model, packed):
    rows: list[int] = []
    hook = model.lm_head.register_forward_hook(lambda module, inputs, output: rows.append(output.numel() // 259))
    batch = collate(CONVERSATIONS, packed=packed)
    sft_loss(score_tokens(model, batch)).backward()
    hook.remove()
    assert sum(rows) == batch.n_scored == sum(turn >= 0 for item in CONVERSATIONS for turn in item.turns)
    assert sum(rows) < sum(len(item.input_ids) for item in CONVERSATIONS)


@pytest.mark.parametrize("packed", [False, True])
def test_the_label_of_an_observation_token_is_nowhere_in_the_loss(model, packed):
    """The last observation token before each reply is read, but as a target it does not exist: were it scored, changing
    it at the very end of what is read (where it predicts nothing that is scored) would show."""
    items = [Encoded([*item.input_ids, 7, 8], [*item.turns, -1, -1]) for item in CONVERSATIONS]
    changed = [Encoded([*item.input_ids, 90, 91], item.turns) for item in CONVERSATIONS]
    changed = [Encoded(item.input_ids, [*item.turns, -1, -1]) for item in changed]
    with torch.no_grad():
        losses = [sft_loss(score_tokens(model, collate(some, packed=packed))).item() for some in (items, changed)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-12)
    batch = collate(items, packed=packed)
    targets = set(zip(batch.rows.tolist(), batch.turns.tolist(), strict=True))
    assert targets == {(row, turn) for row in range(3) for turn in (0, 1)}


def test_observation_places_get_no_gradient_from_the_output_layer(model):
    batch = collate(CONVERSATIONS, packed=False)
    hidden = torch.randn(batch.input_ids.numel(), 64, dtype=torch.float64, requires_grad=True)
    head_logps(model.lm_head, hidden[batch.predictors], batch.targets).sum().backward()
    touched = set(hidden.grad.abs().sum(1).nonzero().flatten().tolist())
    assert touched == set(batch.predictors.tolist())


def test_chunks_of_the_output_layer_change_neither_values_nor_gradients(model):
    hidden = torch.randn(50, 64, dtype=torch.float64, requires_grad=True)
    targets = torch.arange(50)
    results = []
    for chunk in (1000, 16):
        hidden.grad = None
        logps = head_logps(model.lm_head, hidden, targets, chunk)
        logps.sum().backward()
        results.append((logps.detach(), hidden.grad.clone()))
    assert torch.allclose(results[0][0], results[1][0])
    assert torch.allclose(results[0][1], results[1][1])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [False, True])
def test_a_frozen_output_layer_gives_the_gradient_of_one_that_learns(dtype, bias):
    torch.manual_seed(0)
    head = torch.nn.Linear(64, 259, bias=bias, dtype=dtype)
    rows, upstream = torch.randn(50, 64, dtype=dtype), torch.randn(50)
    results = []
    for learns in (True, False):
        head.requires_grad_(learns)
        hidden = rows.clone().requires_grad_()
        logps = head_logps(head, hidden, torch.arange(50), 16)
        (logps * upstream.to(logps)).sum().backward()
        results.append((logps.detach(), hidden.grad))
    assert type(logps.grad_fn).__name__ == "_FrozenHeadBackward"
    exact = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 3e-2}[dtype]
    for learned, frozen in zip(*results, strict=True):
        assert learned.dtype == frozen.dtype
        assert torch.allclose(learned, frozen, rtol=exact, atol=exact)


def test_untied_output_layers_are_used():
    model = tiny_model(0, tied=False).double().eval()
    with torch.no_grad():
        got = score_tokens(model, collate(CONVERSATIONS[:1], packed=False))
        assert torch.allclose(got, alone(model, CONVERSATIONS[0]), atol=1e-12)


def test_the_first_token_of_a_conversation_cannot_be_scored():
    batch = collate([Encoded([5, 6, 7], [0, 0, 0])], packed=False)
    assert batch.targets.tolist() == [6, 7]


def test_a_reply_is_complete_where_its_closing_token_is_predicted():
    batch = collate(CONVERSATIONS, packed=False)
    places = last_places(CONVERSATIONS, batch, 3)
    assert places.tolist()[0] == [4, 10, 0]
    assert places[1].tolist() == [40 + 18, 40 + 38, 0]


@pytest.mark.parametrize("packed", [False, True])
def test_groups_keep_to_the_limit_and_lose_nothing(packed):
    units = [[conversation(seed, 20 + seed)] for seed in range(9)]
    groups = split_to_fit(units, 70, packed=packed)
    assert sorted(number for group in groups for number in group) == list(range(9))
    for group in groups:
        lengths = [len(units[number][0].input_ids) for number in group]
        assert (sum(lengths) if packed else len(lengths) * max(lengths)) <= 70
    assert [len(group) for group in split_to_fit(units, 5, packed=packed)] == [1] * 9


def test_tokens_are_counted_without_padding():
    total = sum(len(item.input_ids) for item in CONVERSATIONS)
    for options in ({"packed": True}, {"packed": False}, {"packed": False, "side": "left"}):
        assert collate(CONVERSATIONS, **options).n_tokens == total


def test_moving_a_batch_keeps_its_content():
    batch = collate(CONVERSATIONS, packed=True)
    moved = to_device(batch, "cpu")
    assert torch.equal(moved.input_ids, batch.input_ids)
    assert moved.segment_map.segments == batch.segment_map.segments
