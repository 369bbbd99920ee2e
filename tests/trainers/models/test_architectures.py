"""Models that attend or score in ways of their own: packed rows and gathered logits give their own numbers."""

import copy
import logging

import pytest
import torch
import transformers

from trainers.batches import collate
from trainers.losses import dpo_loss
from trainers.models.scoring import score_tokens
from trainers.packing import IMPLEMENTATION
from trainers.tokenization import Encoded
from trainers.training.config import OptimizerConfig
from trainers.training.dpo import reply_logps
from trainers.training.engine import prepare

SIZES = {
    "vocab_size": 259, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 512, "bos_token_id": 0, "eos_token_id": 1,
    "pad_token_id": 2, "initializer_range": 0.2,
}  # fmt: skip
SLIDING = ["sliding_attention", "full_attention"]
SINKS = {"num_local_experts": 2, "num_experts_per_tok": 1, "sliding_window": 7, "layer_types": SLIDING}
ARCHITECTURES = {
    "every layer slides (Mistral)": ("Mistral", {"sliding_window": 7}),
    "a window that the check before training reaches": ("Mistral", {"sliding_window": 20}),
    "a window longer than the rows": ("Mistral", {"sliding_window": 600}),
    "some layers slide (Qwen2)": ("Qwen2", {"sliding_window": 7, "use_sliding_window": True, "layer_types": SLIDING}),
    "a window that no layer uses (Qwen2)": ("Qwen2", {"sliding_window": 7, "use_sliding_window": False}),
    "capped scores and logits (Gemma 2)": (
        "Gemma2",
        {"sliding_window": 7, "attn_logit_softcapping": 0.7, "final_logit_softcapping": 1.5, "layer_types": SLIDING},
    ),
    "two kinds of rotation (Gemma 3)": ("Gemma3", {"sliding_window": 7, "layer_types": SLIDING}),
    "attention sinks (gpt-oss)": ("GptOss", SINKS),
    "scaled logits (Cohere)": ("Cohere", {"logit_scale": 0.25}),
    "scaled logits (Cohere 2)": ("Cohere2", {"logit_scale": 0.25, "sliding_window": 7, "layer_types": SLIDING}),
    "divided logits, untied (Granite)": ("Granite", {"logits_scaling": 4.0, "tie_word_embeddings": False}),
    "divided logits, tied (Granite)": ("Granite", {"logits_scaling": 4.0, "tie_word_embeddings": True}),
    "untied (Qwen3)": ("Qwen3", {"tie_word_embeddings": False}),
    "parallel blocks (GPT-NeoX)": ("GPTNeoX", {}),
}


def make(family: str, settings: dict):
    """A model of two layers with random weights, in float32, as its own class makes it."""
    kind = f"{family}TextConfig" if family == "Gemma3" else f"{family}Config"
    config = getattr(transformers, kind)(**SIZES, **settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, f"{family}ForCausalLM")(config)
        for name, parameter in model.named_parameters():
            if name.endswith("sinks"):
                parameter.data.normal_()
    return model


def sequence(seed: int, length: int) -> list[int]:
    return torch.randint(3, 259, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def pair() -> list[Encoded]:
    """Two conversations of 70 and 79 tokens with 45 in common."""
    prompt, sides = sequence(0, 45), []
    for seed, length in ((1, 25), (2, 34)):
        sides.append(Encoded(prompt + sequence(seed, length), [-1] * 45 + [0] * 10 + [-1] * 5 + [1] * (length - 15)))
    return sides


def own_logps(model, item: Encoded) -> torch.Tensor:
    """Log-probability of each reply by the model's own forward pass: (1, 2)."""
    ids = torch.tensor([item.input_ids])
    logps = torch.log_softmax(model(input_ids=ids, use_cache=False).logits[0, :-1], -1)
    found, turns = logps.gather(1, ids[0, 1:, None])[:, 0], torch.tensor(item.turns[1:])
    return torch.stack([found[turns == turn].sum() for turn in (0, 1)])[None]


def loss_and_gradients(model, sums):
    chosen, rejected = sums(model).sum(-1).chunk(2)
    reference = torch.zeros(1)
    loss = dpo_loss(chosen, rejected, reference - 150, reference - 180, beta=0.1).losses.sum()
    loss.backward()
    return loss.item(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_packed_pair_has_the_loss_and_gradients_of_the_models_own_two_passes(name):
    model = make(*ARCHITECTURES[name])
    own = copy.deepcopy(model)
    assert prepare(model, OptimizerConfig(), dropout=False)
    assert model.config._attn_implementation == IMPLEMENTATION
    batch = collate(pair(), packed=True)
    packed = loss_and_gradients(model, lambda one: reply_logps(score_tokens(one, batch), batch, 2))
    plain = loss_and_gradients(own, lambda one: torch.cat([own_logps(one, item) for item in pair()]))
    assert plain[0] > 1e-3  # else nothing is compared
    assert packed[0] == pytest.approx(plain[0], rel=1e-4)
    assert packed[1].keys() == plain[1].keys()
    for parameter, gradient in plain[1].items():
        difference = (packed[1][parameter] - gradient).norm()
        assert difference <= 1e-3 * gradient.norm() + 1e-7, parameter


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_rows_of_a_prepared_model_without_a_map_are_the_models_own(name):
    model = make(*ARCHITECTURES[name]).eval()
    with torch.no_grad():
        wanted = torch.cat([own_logps(model, item) for item in pair()])
        prepare(model, OptimizerConfig(), dropout=False)
        batch = collate(pair(), packed=False)
        assert torch.allclose(reply_logps(score_tokens(model, batch), batch, 2), wanted, rtol=1e-4)
        model.eval()
        assert torch.allclose(torch.cat([own_logps(model, item) for item in pair()]), wanted, rtol=1e-4)


class Silent:
    """A configuration that does not tell attention of its window."""

    sliding_window = None

    def __init__(self, config):
        self._config = config

    def __getattr__(self, name):
        return getattr(self._config, name)


def test_a_window_that_no_layer_tells_of_is_not_packed(caplog):
    model = make("Mistral", {"sliding_window": 600})
    for layer in model.model.layers:
        layer.self_attn.config = Silent(layer.self_attn.config)
    with caplog.at_level(logging.WARNING):
        assert prepare(model, OptimizerConfig(), dropout=False) is False
    assert "no layer says that it sees 600 tokens only" in caplog.text
    assert model.config._attn_implementation == "sdpa"


def test_a_window_that_no_layer_tells_of_shows_in_the_numbers_where_it_is_short(caplog):
    model = make("Mistral", {"sliding_window": 20})
    for layer in model.model.layers:
        layer.self_attn.config = Silent(layer.self_attn.config)
    with caplog.at_level(logging.WARNING):
        assert prepare(model, OptimizerConfig(), dropout=False) is False
    assert "the numbers differ" in caplog.text


def test_layers_of_an_unknown_kind_are_not_packed(caplog):
    model = make("Mistral", {})
    model.config.attention_chunk_size = 4096
    with caplog.at_level(logging.WARNING):
        assert prepare(model, OptimizerConfig(), dropout=False) is False
    assert "layers of kind chunked_attention" in caplog.text


def test_an_option_of_attention_that_is_not_known_is_not_passed_over(caplog):
    model = make("Mistral", {})
    for layer in model.model.layers:
        plain = layer.self_attn.forward
        layer.self_attn.forward = lambda *a, plain=plain, **o: plain(*a, **o, position_bias=torch.zeros(1))
    with caplog.at_level(logging.WARNING):
        assert prepare(model, OptimizerConfig(), dropout=False) is False
    assert "asks for position_bias, which is not known here" in caplog.text
