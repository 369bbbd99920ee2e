"""The optimiser's schedule, its state, and the checks before training."""

import logging
import math
from itertools import pairwise

import pytest
import torch
from packages import installed

from icto_gym.errors import ConfigError, DataError
from trainers.distributed import EngineConfig
from trainers.models.loading import load_model
from trainers.models.tiny import tiny_model
from trainers.training.checkpoint import TrainingError, load_state, save_state
from trainers.training.config import OptimizerConfig
from trainers.training.engine import Engine, check_scoring, prepare
from trainers.training.loop import _keep


def engine(total=10, **settings):
    torch.manual_seed(0)
    return Engine(torch.nn.Linear(3, 1), OptimizerConfig(learning_rate=0.1, **settings), total)


def test_the_learning_rate_rises_then_falls_on_half_a_cosine():
    rates = [engine(100, warmup_ratio=0.1).learning_rate(step) for step in range(100)]
    assert rates[:10] == pytest.approx([0.01 * (step + 1) for step in range(10)])
    assert rates[10] == pytest.approx(0.1)
    assert rates[55] == pytest.approx(0.05)
    assert 0 < rates[99] < 0.001
    assert all(one >= other for one, other in pairwise(rates[10:]))


def test_a_constant_schedule_stays():
    assert engine(10, schedule="constant", warmup_ratio=0.0).learning_rate(9) == 0.1


def test_the_length_of_the_gradient_is_told_before_it_is_cut():
    one = engine(max_grad_norm=0.5, schedule="constant", warmup_ratio=0.0)
    one.backward(one.module(torch.ones(1, 3)).sum() * 3)
    assert one.step(0) == pytest.approx(3 * 2.0)
    assert all(parameter.grad is None for parameter in one.module.parameters())


def test_a_gradient_that_is_not_finite_changes_nothing():
    one = engine()
    before = one.module.weight.detach().clone()
    one.backward(one.module(torch.full((1, 3), math.inf)).sum())
    assert not math.isfinite(one.step(0))
    assert torch.equal(one.module.weight, before)


def test_an_engine_goes_on_from_its_state_as_if_nothing_had_happened():
    def some_steps(one, first, last):
        for step in range(first, last):
            one.backward(one.module(torch.ones(1, 3) * (step + 1)).square().sum())
            one.step(step)

    straight, stopped, resumed = engine(), engine(), engine()
    some_steps(straight, 0, 6)
    some_steps(stopped, 0, 3)
    resumed.load_state(stopped.state())
    some_steps(resumed, 3, 6)
    assert all(torch.equal(value, resumed.state()[key]) for key, value in straight.state().items())


def test_a_model_without_trainable_weights_is_refused():
    with pytest.raises(ConfigError, match="no trainable weights"):
        Engine(torch.nn.Linear(2, 2).requires_grad_(False), OptimizerConfig(), 1)


def test_a_model_that_scales_its_logits_is_refused():
    model = tiny_model(0)
    plain = model.forward

    def scaled(*arguments, **options):
        output = plain(*arguments, **options)
        output.logits = output.logits * 0.5
        return output

    model.forward = scaled
    with pytest.raises(ConfigError, match="would be wrong"):
        check_scoring(model, packed=True)


def test_a_model_that_cannot_read_packed_rows_gets_padded_ones(caplog):
    loaded = load_model("tiny-random", trainable=True)
    for layer in loaded.model.get_base_model().model.layers:
        plain = layer.self_attn.forward
        # a layer that does not pass on what packed rows need
        layer.self_attn.forward = lambda *a, plain=plain, **o: plain(
            *a, **{key: value for key, value in o.items() if key != "segment_map"}
        )
    with caplog.at_level(logging.WARNING):
        assert prepare(loaded.model, OptimizerConfig(), dropout=False) is False
    assert "rows are padded instead" in caplog.text
    assert loaded.model.get_base_model().config._attn_implementation == "sdpa"


def test_dropout_is_off_where_it_must_be_and_training_mode_stays_on():
    from trainers.models import LoRAConfig, ModelConfig

    loaded = load_model(ModelConfig(name="tiny-random", lora=LoRAConfig(r=2, dropout=0.5)), trainable=True)
    prepare(loaded.model, OptimizerConfig(), dropout=False)
    dropouts = [module.p for module in loaded.model.modules() if isinstance(module, torch.nn.Dropout)]
    assert loaded.model.training
    assert dropouts and set(dropouts) == {0.0}


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("Starcoder2", {"residual_dropout": 0.5, "embedding_dropout": 0.5, "attention_dropout": 0.5}),
        ("Falcon", {"hidden_dropout": 0.5, "attention_dropout": 0.5}),  # its attention_dropout is a layer
        (
            "Phimoe",
            {"num_key_value_heads": 2, "num_local_experts": 2, "input_jitter_noise": 0.5, "router_jitter_noise": 0.5},
        ),
    ],
)
def test_chance_of_every_name_is_off_where_it_must_be(family, settings):
    import transformers

    sizes = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "eos_token_id": 1}
    config = getattr(transformers, f"{family}Config")(**sizes, bos_token_id=0, pad_token_id=2, **settings)
    model = getattr(transformers, f"{family}ForCausalLM")(config)
    prepare(model, OptimizerConfig(), dropout=False)
    ids = torch.arange(3, 40)[None]
    assert model.training and {name: getattr(model.config, name) for name in settings} == settings  # as it is saved
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids).logits, model(input_ids=ids).logits)


def test_a_model_that_draws_at_random_all_the_same_is_refused():
    loaded = load_model("tiny-random", trainable=True)
    norm = loaded.model.get_base_model().model.norm
    plain = norm.forward
    norm.forward = lambda hidden: plain(hidden) + (torch.randn_like(hidden) if norm.training else 0.0)
    with pytest.raises(ConfigError, match="draws at random"):
        prepare(loaded.model, OptimizerConfig(), dropout=False)


@pytest.mark.parametrize("optimizer", ["adamw8bit", "paged_adamw", "paged_adamw8bit"])
def test_optimisers_of_bitsandbytes_go_on_from_their_state(optimizer):
    installed("bitsandbytes", extra="quantization")

    def make():
        torch.manual_seed(0)
        return Engine(torch.nn.Linear(128, 64), OptimizerConfig(learning_rate=0.01, optimizer=optimizer), 10)

    def some_steps(one, first, last):
        for step in range(first, last):
            one.backward(one.module(torch.ones(1, 128) * (step + 1)).square().sum())
            one.step(step)

    straight, stopped, resumed = make(), make(), make()
    some_steps(straight, 0, 4)
    some_steps(stopped, 0, 2)
    resumed.load_state(stopped.state())
    some_steps(resumed, 2, 4)
    assert not torch.equal(straight.module.weight, make().module.weight)
    assert torch.equal(straight.module.weight, resumed.module.weight)


def test_small_steps_do_not_vanish_in_bfloat16():
    module = torch.nn.Linear(8, 1, bias=False).bfloat16()
    torch.nn.init.ones_(module.weight)
    one = Engine(module, OptimizerConfig(learning_rate=1e-4, schedule="constant", warmup_ratio=0.0), 100)
    for step in range(100):
        one.backward(module(torch.ones(1, 8, dtype=torch.bfloat16)).sum())
        one.step(step)
    assert module.weight.dtype == torch.bfloat16
    assert torch.allclose(module.weight.float(), torch.full((1, 8), 0.99), atol=0.005)


def test_gradients_of_bfloat16_weights_are_added_up_in_float32():
    module = torch.nn.Linear(1, 1, bias=False).bfloat16()
    one = Engine(module, OptimizerConfig(max_grad_norm=0.0), 1)
    for _ in range(1000):  # in bfloat16 the sum would stop at 256
        one.backward(module(torch.ones(1, 1, dtype=torch.bfloat16)).sum(), last=False)
    assert one.step(0) == 1000.0 and module.weight.grad is None


@pytest.mark.parametrize("name", ["state.safetensors", "position.json"])
def test_a_torn_state_is_named_with_the_mend(tmp_path, name):
    save_state(tmp_path, 3, {"weight/x": torch.zeros(3)}, {"losses": []})
    torn = tmp_path / "state-000003" / name
    torn.write_bytes(torn.read_bytes()[:-5])
    with pytest.raises(DataError, match=r"state-000003.*Remove this folder"):
        load_state(tmp_path)


def test_a_position_of_another_kind_is_named_with_the_mend(tmp_path):
    save_state(tmp_path, 3, {"weight/x": torch.zeros(3)}, {"losses": []})
    (tmp_path / "state-000003" / "position.json").write_text("[]")
    with pytest.raises(DataError, match="does not say how far the training was"):
        load_state(tmp_path)


@pytest.mark.parametrize("name", ["learning_rate", "epochs", "weight_decay", "max_grad_norm"])
def test_settings_without_end_are_refused(name):
    with pytest.raises(ConfigError, match=f"{name} is inf; it must be a finite number"):
        OptimizerConfig(**{name: float("inf")})


def test_weights_that_the_last_step_broke_are_not_kept(tmp_path):
    one = engine()
    one.module.weight.data[0, 0] = float("inf")
    with pytest.raises(TrainingError, match=r"1 of 2 trained tensors, weight among them"):
        _keep(one, tmp_path / "checkpoint", {}, lambda *_: pytest.fail("was saved"))


def test_making_activations_again_is_refused_where_it_would_not_be_done(monkeypatch):
    config = OptimizerConfig(remake_activations=True)
    with pytest.raises(ConfigError, match=r"both on.*Leave one"):
        OptimizerConfig(remake_activations=True, activation_checkpointing=True)
    model = tiny_model()
    for layer in model.model.layers:
        layer.forward = layer.forward  # as offloading would stand in its place
    with pytest.raises(ConfigError, match="no layer of LlamaForCausalLM"):
        prepare(model, config, dropout=False)
    monkeypatch.setattr("trainers.distributed.engine", lambda: EngineConfig("deepspeed", "zero2"))
    with pytest.raises(ConfigError, match="the engine is 'deepspeed'"):
        prepare(tiny_model(), config, dropout=False)


def test_mixed_precision_is_refused_where_it_would_not_be_done(monkeypatch):
    with pytest.raises(ConfigError, match=r"Unknown mixed_precision 'float16'"):
        OptimizerConfig(mixed_precision="float16")
    config = OptimizerConfig(mixed_precision="bfloat16")
    with pytest.raises(ConfigError, match="LlamaForCausalLM has no plain linear layer"):
        prepare(tiny_model().bfloat16(), config, dropout=False)
    monkeypatch.setattr("trainers.distributed.engine", lambda: EngineConfig("deepspeed", "zero2"))
    with pytest.raises(ConfigError, match="the engine is 'deepspeed'"):
        prepare(tiny_model(), config, dropout=False)
