"""Packed rows: each conversation gets the numbers it would get alone, and costs only what it does not share."""

import pytest
import torch

from trainers.batches import collate
from trainers.losses import dpo_loss
from trainers.models.loading import causal_lm, load_model
from trainers.models.scoring import score_tokens
from trainers.models.tiny import tiny_model
from trainers.packing import Segment, SegmentMap, pack, packed_length, register_attention
from trainers.tokenization import Encoded
from trainers.training.config import OptimizerConfig
from trainers.training.dpo import reply_logps
from trainers.training.engine import prepare


def sequence(seed: int, length: int) -> list[int]:
    return torch.randint(3, 259, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


SYSTEM, TASK, HISTORY = sequence(0, 40), sequence(1, 25), sequence(2, 30)


def branch(prompt: list[int], seed: int, length: int) -> Encoded:
    """A continuation with two replies and an observation between."""
    body = sequence(seed, length)
    third = length // 3
    return Encoded(prompt + body, [-1] * len(prompt) + [0] * third + [-1] * third + [1] * (length - 2 * third))


@pytest.fixture()
def conversations() -> list[Encoded]:
    return [
        branch(SYSTEM + TASK + HISTORY, 3, 22),
        branch(SYSTEM + sequence(9, 10), 4, 31),
        branch(SYSTEM + TASK, 5, 18),
        branch(SYSTEM + TASK + HISTORY, 6, 40),
        branch(sequence(7, 12), 8, 15),
    ]


@pytest.fixture()
def model():
    """In float64 throughout: Llama's own norm rounds to float32 on the way, which would hide small differences."""
    model = tiny_model(0).double()
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child).__name__ == "LlamaRMSNorm":
                exact = torch.nn.RMSNorm(child.weight.shape[0], eps=child.variance_epsilon, dtype=torch.float64)
                setattr(parent, name, exact)
    model.set_attn_implementation(register_attention())
    return model


def test_every_conversation_is_found_again_along_its_columns(conversations):
    row = pack([item.input_ids for item in conversations])
    for item, columns in zip(conversations, row.columns, strict=True):
        assert [row.input_ids[column] for column in columns] == item.input_ids
        assert [row.position_ids[column] for column in columns] == list(range(len(item.input_ids)))


def test_what_is_shared_stands_once(conversations):
    row = pack([item.input_ids for item in conversations])
    lengths = [len(item.input_ids) for item in conversations]
    saved = 3 * len(SYSTEM) + 2 * len(TASK) + len(HISTORY)
    assert len(row.input_ids) == sum(lengths) - saved == packed_length([item.input_ids for item in conversations])


def test_a_pair_is_prompt_chosen_rejected():
    chosen, rejected = branch(SYSTEM, 3, 9), branch(SYSTEM, 4, 12)
    row = pack([chosen.input_ids, rejected.input_ids])
    assert row.segments[0] == Segment(0, 40)
    assert {(s.end - s.start, s.ancestors) for s in row.segments[1:]} == {(9, ((0, 40),)), (12, ((0, 40),))}


@pytest.mark.parametrize("min_shared", [1, 16, 1000])
def test_one_conversation_inside_another_equal_ones_and_single_ones_are_packed(min_shared):
    inner = sequence(1, 30)
    sequences = [inner, [*inner, 5, 6], inner, [7]]
    row = pack(sequences, min_shared)
    for ids, columns in zip(sequences, row.columns, strict=True):
        assert [row.input_ids[column] for column in columns] == ids


def test_a_map_comes_back_from_its_numbers(conversations):
    segments = pack([item.input_ids for item in conversations]).segments
    assert any(segment.ancestors for segment in segments)
    assert SegmentMap.from_rows(SegmentMap(segments).rows()).segments == segments


def test_a_token_sees_its_own_conversation_up_to_itself_and_nothing_else(conversations):
    row = pack([item.input_ids for item in conversations])
    mask = SegmentMap(row.segments).dense_mask()
    for columns in row.columns:
        for place, column in enumerate(columns):
            assert sorted(mask[column].nonzero().flatten().tolist()) == sorted(columns[: place + 1])


def test_packed_log_probabilities_are_those_of_each_conversation_alone(model, conversations):
    with torch.no_grad():
        packed = score_tokens(model, collate(conversations, packed=True))
        alone = torch.cat([score_tokens(model, collate([item], packed=False)) for item in conversations])
    assert torch.allclose(packed, alone, rtol=0, atol=1e-10)


def test_packed_rows_equal_a_plain_call_with_the_dense_mask(model, conversations):
    batch = collate(conversations, packed=True)
    with torch.no_grad():
        packed = score_tokens(model, batch)
        mask = batch.segment_map.dense_mask()[None, None]
        hidden = model.model(input_ids=batch.input_ids, position_ids=batch.position_ids, attention_mask=mask)
        logits = model.lm_head(hidden.last_hidden_state[0, batch.predictors])
    wanted = torch.log_softmax(logits, -1).gather(1, batch.targets[:, None]).squeeze(1)
    assert torch.allclose(packed, wanted, rtol=0, atol=1e-10)


def gradients(model, batches, loss):
    model.zero_grad()
    value = loss([reply_logps(score_tokens(model, batch), batch, 2).sum(-1) for batch in batches])
    value.backward()
    return value.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_packed_pair_has_the_loss_and_gradients_of_two_plain_passes(model, checkpointing, fused, monkeypatch):
    monkeypatch.setattr("trainers.packing.fused_kernel_fits", lambda query: fused)
    chosen, rejected = branch(SYSTEM + TASK, 3, 24), branch(SYSTEM + TASK, 4, 33)
    reference = torch.zeros(1, dtype=torch.float64)

    def loss(sums):
        both = torch.cat(sums)
        return dpo_loss(both[:1], both[1:], reference - 130, reference - 180, beta=0.1).losses.sum()

    plain = gradients(model, [collate([item], packed=False) for item in (chosen, rejected)], loss)
    model.train()
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    packed = gradients(model, [collate([chosen, rejected], packed=True)], loss)
    assert packed[0].item() == pytest.approx(plain[0].item(), abs=1e-12)
    assert packed[1].keys() == plain[1].keys()
    for name, gradient in plain[1].items():
        assert torch.allclose(packed[1][name], gradient, atol=1e-10), name


def test_a_tree_of_three_floors_has_the_gradients_of_plain_passes(model, conversations):
    def loss(sums):
        return -torch.cat(sums).square().sum() / 1e4

    plain = gradients(model, [collate([item], packed=False) for item in conversations], loss)
    packed = gradients(model, [collate(conversations, packed=True)], loss)
    assert packed[0].item() == pytest.approx(plain[0].item(), rel=1e-12)
    for name, gradient in plain[1].items():
        assert torch.allclose(packed[1][name], gradient, atol=1e-9), name


def test_gradients_agree_with_finite_differences(model):
    chosen, rejected = branch(SYSTEM, 3, 9), branch(SYSTEM, 4, 12)
    batch = collate([chosen, rejected], packed=True)
    reference = torch.tensor([-60.0, -70.0], dtype=torch.float64)

    def loss() -> torch.Tensor:
        sums = reply_logps(score_tokens(model, batch), batch, 2).sum(-1)
        return dpo_loss(sums[:1], sums[1:], reference[:1], reference[1:], beta=0.1).losses.sum()

    loss().backward()
    for name in ("model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight", "model.norm.weight"):
        parameter = model.get_parameter(name)
        gradient = parameter.grad.flatten()
        place = int(gradient.abs().argmax())
        values = []
        for step in (1e-6, -1e-6):
            parameter.data.view(-1)[place] += step
            values.append(loss().item())
            parameter.data.view(-1)[place] -= step
        assert (values[0] - values[1]) / 2e-6 == pytest.approx(gradient[place].item(), rel=1e-5), name


def test_an_adapter_is_scored_through_packed_rows_too(conversations):
    loaded = load_model("tiny-random", trainable=True)
    assert prepare(loaded.model, OptimizerConfig(), dropout=False)
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            if parameter.requires_grad:
                parameter += 0.05
        packed = score_tokens(loaded.model, collate(conversations, packed=True))
        plain = score_tokens(loaded.model, collate(conversations, packed=False))
    assert torch.allclose(packed, plain, atol=1e-3)
    assert causal_lm(loaded.model).config._attn_implementation == register_attention()


def test_a_model_with_segment_attention_still_generates_as_before():
    model, plain = tiny_model(0).eval(), tiny_model(0).eval()
    model.set_attn_implementation(register_attention())
    ids = torch.tensor([[2, 2, *SYSTEM[:8]], SYSTEM[:10]])
    mask = (ids != 2).long()
    options = {"attention_mask": mask, "max_new_tokens": 6, "do_sample": False, "pad_token_id": 2}
    assert torch.equal(model.generate(ids, **options), plain.generate(ids, **options))
